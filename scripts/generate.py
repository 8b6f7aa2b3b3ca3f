"""Write what is generated from code: the reference pages in `docs/` and the names in `job/upstream.py`.

``python scripts/generate.py`` rewrites them; the tests hold them equal to their sources.
"""

import dataclasses
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def sft_config_fields() -> str:
    """The block of `job/upstream.py` between its two marks: the field names of the installed TRL's SFTConfig."""
    from trl import SFTConfig

    names = sorted(field.name for field in dataclasses.fields(SFTConfig))
    return "SFT_CONFIG_FIELDS = frozenset(\n    {\n" + "".join(f'        "{name}",\n' for name in names) + "    }\n)\n"


def upstream_module(text: str) -> str:
    """*text* with its generated block replaced."""
    return re.sub(r"SFT_CONFIG_FIELDS = frozenset\(\n.*?\n\)\n", lambda _: sft_config_fields(), text, flags=re.DOTALL)


def main() -> None:
    upstream = ROOT / "job" / "upstream.py"
    upstream.write_text(upstream_module(upstream.read_text()))

    from job.reference import PAGES

    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page())


if __name__ == "__main__":
    main()
