"""Where the job's rows differ from TRL's, with what either side makes of the same row, and the page that says so.

``python -m tests.worker.differences`` writes `docs/differences.md`.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.errors import BadData
from job.records import GateSettings
from tests.tiny import ROOT
from tests.worker.kinds import write_kind, write_kind_for
from tests.worker.matrix import SPLIT_CHARACTER, differing
from tests.worker.side_by_side import Fields, load, ours, theirs, trained
from tests.worker.templates import FOLDER, assistant, user, write_tokenizer

_QUESTION = {"prompt": "Q", "completion": "A"}  # a row that both take
_HI = {"prompt": [user("Hi")], "completion": [assistant("Yo")]}


@dataclass(frozen=True)
class Case:
    """Rows that the two sides prepare differently, and why the job does it its way."""

    about: str
    rows: list[Fields]
    tokenizer: Callable[[Path], Path]
    why: str
    settings: Fields = field(default_factory=dict)

    def sides(self, folder: Path) -> tuple[str, str]:
        """What TRL trains, and what the job."""
        tokenizer = self.tokenizer(folder)
        return self._told(theirs, tokenizer), self._told(_strictly_ours, tokenizer)

    def _told(self, prepare: Callable[..., list[Fields]], tokenizer: Path) -> str:
        try:
            rows = prepare(self.rows, tokenizer, **self.settings)
        except BadData as refused:
            return "refused: " + refused.cause.replace("rows.jsonl", "`rows.jsonl`")
        except Exception as error:  # TRL lets through whatever its parts raise
            return f"`{type(error).__name__}`"
        return "; ".join(_shown(row, tokenizer) for row in rows)


def _strictly_ours(rows: list[Fields], tokenizer: Path, **settings: Any) -> list[Fields]:
    gate = GateSettings(bad_rows="fail", max_bad_fraction=1.0, allow=("truncation",))
    return ours(rows, tokenizer, gate=gate, **settings)


def _shown(row: Fields, tokenizer: Path) -> str:
    """The text of *row*, the stretches that carry loss in bold."""
    rest, parts = load(tokenizer).decode(row["input_ids"]), []
    for piece in trained(row, tokenizer):
        before, _, rest = rest.partition(piece)
        parts += [_code(before), f"**{_code(piece)}**"]
    return " ".join(part for part in [*parts, _code(rest)] if part)


def _code(text: str) -> str:
    if not text:
        return ""
    mark = "````" if "`" in text else "`"  # Markdown's code ends at the run of backticks that it began with
    return mark + json.dumps(text, ensure_ascii=False)[1:-1].replace("|", "\\|") + mark


def _shipped(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_tokenizer(folder, (FOLDER / f"{name}.jinja").read_text())


def _kind(kind: str) -> Callable[[Path], Path]:
    return lambda folder: write_kind(folder, kind)


CASES = [
    Case(
        "`tools` is an empty list (`llama3_1`)",
        [_HI | {"tools": []}],
        _shipped("llama3_1"),
        "No tools are no tools. Some templates ask only whether there is a list",
    ),
    Case(
        "ShareGPT roles",
        [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}],
        _kind("gpt2"),
        "Roles are mapped, not only the keys",
    ),
    Case(
        "A tokenizer that puts a token of its own before the line break that ends a turn (`qwen3_instruct_2507`)",
        [{"messages": [user("a"), assistant("b")]}],
        lambda folder: write_kind_for(folder, "llama2 legacy", "qwen3_instruct_2507"),
        f"{SPLIT_CHARACTER}: here `▁` and `\\n`",
    ),
    Case(
        "Packed rows with nothing to learn within `max_length`",
        [{"prompt": "Q" * 9, "completion": "A"}, _QUESTION],
        _kind("gpt2"),
        "They are dropped with packing as they are without; TRL drops them only without",
        settings={"packing": True, "max_length": 8},
    ),
    Case(
        "An empty answer", [_QUESTION | {"completion": ""}, _QUESTION], _kind("gpt2"), "It would teach to say nothing"
    ),
    Case("An empty text", [{"text": ""}, {"text": "A"}], _kind("gpt2"), "The same"),
    Case(
        "An answer that makes an end token together with its prompt",
        [{"prompt": "Q</", "completion": "s>"}],
        _kind("gpt2"),
        "The job looks at the whole text for the end token, TRL at the completion alone",
    ),
    Case(
        "Both `messages` and `prompt` with `completion`",
        [{"prompt": "Q", "completion": "A</s>", "messages": [user("Hi"), assistant("Yo")]}],
        _kind("gpt2"),
        "The conversation comes first; `JOB_FORMAT=prompt-completion` chooses the other",
    ),
    Case(
        "A role that no chat format has",
        [{"messages": [user("a"), {"role": "narrator", "content": "x"}, assistant("b")]}],
        _kind("gpt2"),
        "Most often it is a misspelt one",
    ),
    Case(
        "Content in parts",
        [{"messages": [user("a"), assistant([{"type": "text", "text": "b"}])]}],
        _shipped("qwen2_5_vl"),
        "A content is a string",
    ),
]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _others() -> str:
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(CASES):
            theirs_told, ours_told = case.sides(Path(scratch) / str(number))
            assert theirs_told != ours_told, f"{case.about}: both sides now do the same; drop the case"
            lines.append(_row(case.about, theirs_told, ours_told, case.why))
    return "".join(lines)


def _templates() -> str:
    """One line per template and reason, with the first conversation that shows it."""
    shown: dict[tuple[str, str | None], str] = {}
    for each in differing():
        if (each.template, each.reason) in shown:
            continue
        cells = [_row_or_refusal(side, each.tokenizer) for side in (each.theirs, each.ours)]
        shown[each.template, each.reason] = _row(f"`{each.template}`", each.chat, *cells, each.reason or "**unknown**")
    return "".join(shown.values())


def _row_or_refusal(side: Fields | str, tokenizer: Path) -> str:
    return "refused" if isinstance(side, str) else " … ".join(map(_code, trained(side, tokenizer)))


def page() -> str:
    """The text of `docs/differences.md`."""
    return (
        "# Differences from TRL\n\n"
        "Rows are prepared as TRL's `SFTTrainer` prepares them, token for token, in every format, chat template and"
        " kind of tokenizer that the tests know, with these exceptions. Rows with `messages` are compared with"
        " `assistant_only_loss=True`. What carries loss is **bold**.\n\n"
        "| Rows | TRL | Graft | Why |\n|------|-----|-------|-----|\n" + _others() + "\n"
        "Of chat templates, what carries loss in rows with `messages`, and the first of the tested conversations that"
        " shows the difference. Rows with `prompt` and `completion` are equal in all of them.\n\n"
        "| Template | Conversation | TRL | Graft | Why |\n"
        "|----------|--------------|-----|-------|-----|\n" + _templates()
    )


if __name__ == "__main__":
    (ROOT / "docs" / "differences.md").write_text(page())
