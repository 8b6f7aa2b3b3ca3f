"""Write what is generated from code: the reference pages in `docs/` and the names in `job/trl_names.py`.

``python scripts/generate.py`` rewrites them; the tests hold them equal to their sources.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

METHODS = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward", "rloo": "RLOO", "grpo": "GRPO"}
_HEAD = '''"""Names of the locked TRL, generated from it by scripts/generate.py."""

# fmt: off
'''
# What a trainer compares its loss type with: ``loss_type == "dft"``, ``loss_type in ["grpo", "sapo"]``.
_LOSS_TYPES = re.compile(r'loss_type (?:==|in|not in) ("\w+"|[\[({][^\])}]*[\])}])')


def trl_names() -> str:
    """The text of `job/trl_names.py`: fields of the configurations, those of all and those that each has besides, and
    the loss types that a trainer knows."""
    import trl

    fields = {
        method: {field.name for field in dataclasses.fields(getattr(trl, f"{name}Config"))}
        for method, name in METHODS.items()
    }
    common = set.intersection(*fields.values())
    own = (f'    "{method}": COMMON | {{{_listed(names - common)}    }},\n' for method, names in fields.items())
    losses = {
        method: {
            name
            for found in _LOSS_TYPES.findall(inspect.getsource(getattr(trl, f"{METHODS[method]}Trainer")))
            for name in re.findall(r"\w+", found)
        }
        for method in METHODS
    }
    types = (f'    "{method}": ({_listed(names)}    ),\n' for method, names in losses.items() if names)
    return (
        f"{_HEAD}\nCOMMON = frozenset({{{_listed(common)}}})\n\nCONFIG_FIELDS = {{\n{''.join(own)}}}\n\n"
        f"LOSS_TYPES = {{\n{''.join(types)}}}\n"
    )


def _listed(names: Iterable[str]) -> str:
    return "\n" + "".join(f'        "{name}",\n' for name in sorted(names))


def main() -> None:
    (ROOT / "job" / "trl_names.py").write_text(trl_names())

    from job.reference import PAGES

    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page())


if __name__ == "__main__":
    main()
