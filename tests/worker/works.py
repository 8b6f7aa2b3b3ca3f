"""``python -m tests.worker.works``: what works together, found by running it with a tiny model.

Every combination trains for three steps, must prove that it learned, and must be saved so that plain PEFT gives the
same logits on the base as it is published: in this process under ``single``, and by the real launcher, two processes
on this CPU, under the other strategies, where losses and logits must be those of ``single``.

``tests/golden/works.json`` is written after each one, and one that stands there is not run again: remove the line, or
the file, to try anew. ``docs/adapters.md`` gets its table from it.
"""

import json
import math
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from job.train.methods import make_trainer
from job.train.proof import AdapterWatch
from tests.tiny import ROOT
from tests.worker.strategies import TOKENS, Inputs, Run, load_in_plain_peft, make_inputs, make_run

GOLDEN = ROOT / "tests" / "golden" / "works.json"
PAGE = ROOT / "docs" / "adapters.md"
# By what the table calls them: the settings of each.
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, rsLoRA": {"use_rslora": True},
    "lora, DoRA": {"use_dora": True},
    "lora, PiSSA": {"init_lora_weights": "pissa"},
    "lora, OLoRA": {"init_lora_weights": "olora"},
    "lora, lm_head whole": {"modules_to_save": ("lm_head",)},
    **{name: {"adapter": name} for name in ("prefix", "prompt", "ia3", "loha", "lokr", "oft", "vera")},
}
QUANTIZATIONS = ("none", "int8", "nf4")
SHARED = ("ddp", "fsdp", "zero2", "zero3")
STEPS = {"max_steps": 3, "learning_rate": 2e-2, "save_steps": 100}


class Combination(NamedTuple):
    method: str
    adapter: str  # of ADAPTERS
    quantization: str
    strategy: str

    @property
    def settings(self) -> dict[str, Any]:
        return {"method": self.method, **ADAPTERS[self.adapter]}

    @property
    def key(self) -> str:
        return " / ".join(self)


def combinations(method: str = "sft") -> Iterator[Combination]:
    """Everything on one device; shared by two, LoRA over every base, and all others where it is hardest."""
    for quantization in QUANTIZATIONS:
        for strategy in ("single", *SHARED):
            everything = quantization == "none" or strategy == "single" or (quantization, strategy) == ("nf4", "fsdp")
            for adapter in ADAPTERS if everything else ("lora",):
                yield Combination(method, adapter, quantization, strategy)


class Trained(NamedTuple):
    """What three steps came to."""

    losses: list[float]
    logits: torch.Tensor
    moved: float  # the logits, at most


def attempts(group: list[Combination], inputs: Inputs, folder: Path) -> Iterator[str]:
    """What is wrong with each of *group*, all of one strategy and base, in upstream's words; nothing: it works."""
    runs = {one: _run(one, inputs, folder / f"{number:02}") for number, one in enumerate(group)}
    for one, run in runs.items():
        try:
            if one.strategy == "single":
                yield _judge(one, *_alone(run))
            else:
                single = _run(one._replace(strategy="single"), inputs, folder / "single")
                yield _judge(one, _shared(run), _alone(single)[1])
        except Exception as error:
            yield f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]


def _judge(combination: Combination, found: Trained, expected: Trained) -> str:
    """Quantized layers round: where a rounding falls the other way, hundredths are left."""
    exact = combination.quantization == "none"
    apart = (found.logits - expected.logits).abs().max().item()
    if not all(math.isfinite(loss) for loss in found.losses):
        return "the loss is not finite"
    if max(abs(a - b) for a, b in zip(found.losses, expected.losses, strict=True)) > (1e-3 if exact else 1e-2):
        return f"the losses are {found.losses}, not {expected.losses}"
    if apart > 0.01 * expected.moved + (1e-5 if exact else 2e-2):
        return f"the logits are {apart:.0e} apart"
    return "" if found.moved > 1e-4 else "the adapter moves nothing"


def _alone(run: Run) -> tuple[Trained, Trained]:
    """In this process: what plain PEFT makes of the saved adapter, and what the model was after its last step."""
    spec, task = run.write()
    trainer, _ = make_trainer(spec, run.plan, task, run.files, lambda: None)
    watch = AdapterWatch(trainer.adapted_model)
    trainer.train()
    watch.prove()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainer.save_result(watch.initial)
    reloaded = _reloaded(run, losses)
    return reloaded, Trained(losses, _logits(trainer.model), reloaded.moved)


def _shared(run: Run) -> Trained:
    """By the launcher."""
    if run.attempt().returncode or not run.result.adapter:
        causes = [json.loads(path.read_text())["cause"] for path in sorted((run.root / "errors").glob("*.json"))]
        raise RuntimeError([*causes, "the worker failed"][0])
    return _reloaded(run, run.losses)


def _run(combination: Combination, inputs: Inputs, folder: Path) -> Run:
    shutil.rmtree(folder, ignore_errors=True)
    run = make_run(inputs, folder, combination.strategy, quantization=combination.quantization)
    run.settings.update(STEPS | combination.settings)
    return run


def _reloaded(run: Run, losses: list[float]) -> Trained:
    model = load_in_plain_peft(run)
    after = _logits(model)
    with model.disable_adapter():
        return Trained(losses, after, (after - _logits(model)).abs().max().item())


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    """Of the tokens; those of virtual tokens, which stand before them, left out."""
    # An evaluation of 4-bit layers corrupts their weights on some CPUs: without dropout training computes the same.
    model.train(_is_4bit(model))
    logits = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), use_cache=False).logits
    return logits[:, -TOKENS.shape[1] :].float()


def _is_4bit(model: Any) -> bool:
    return bool(getattr(model.get_base_model(), "is_loaded_in_4bit", False))


@cache
def results() -> dict[str, str]:
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


def table(found: dict[str, str]) -> str:
    """A line for each adapter: the bases that it stands on, and the strategies that share them out."""
    head = ["adapter", *QUANTIZATIONS, *SHARED, "nf4, fsdp"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for adapter in ADAPTERS:
        cells = [(q, "single") for q in QUANTIZATIONS] + [("none", s) for s in SHARED]
        cells.append(("nf4", "fsdp"))
        marks = [_mark(found.get(Combination("sft", adapter, *cell).key)) for cell in cells]
        lines.append(f"| {' | '.join([adapter, *marks])} |")
    return "\n".join(lines)


def _mark(result: str | None) -> str:
    return "" if result is None else "refused" if result else "✓"


def page(text: str, found: dict[str, str]) -> str:
    """The text of docs/adapters.md with its table renewed."""
    between = r"(<!-- works -->\n).*(\n<!-- end of works -->)"
    return re.sub(between, lambda match: match[1] + table(found) + match[2], text, flags=re.DOTALL)


def main() -> None:
    """Run what has no result yet, as far as its key contains the words given."""
    warnings.simplefilter("ignore")
    found = dict(results())
    wanted = [one for one in combinations() if one.key not in found and all(word in one.key for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as scratch:
        inputs = make_inputs(Path(scratch), rows=40)
        for number, (_, members) in enumerate(groupby(wanted, key=lambda one: one[2:])):
            group = list(members)
            for one, result in zip(group, attempts(group, inputs, Path(scratch) / str(number)), strict=True):
                found[one.key] = result
                print(one.key, "→", result or "works", flush=True)
                GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(PAGE.read_text(), found))


if __name__ == "__main__":
    main()
