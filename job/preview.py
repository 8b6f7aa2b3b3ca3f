"""The verb ``preview``: a few rows decoded as the model sees them, with what carries loss made visible."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from job.inspection import find_inputs
from job.preparation import make_task, open_workshop, preview
from job.processes import StopRequest, Task
from job.records import Preview, PreviewPiece
from job.spec import JobSpec

_GREEN, _RESET = "\x1b[32m", "\x1b[0m"


def run_preview(spec: JobSpec, env: Mapping[str, str], stop: StopRequest, rows: int, stream: TextIO) -> str:
    """Show the first *rows* on *stream*; returns what was shown, in one sentence.

    Raises:
        JobError: an input cannot be reached, or a row cannot be used.
    """
    inputs = replace(find_inputs(spec, env, stop, needs_host=False), held_out=None)
    with TemporaryDirectory() as scratch:
        shop = open_workshop(spec, env, Path(scratch) / "preview.log", stop, show=lambda _: None)
        task = Task(lambda: make_task(spec, inputs, shop)).result(stop)
        shown = preview(task, rows, shop)
    stream.write(to_text(shown, colour=stream.isatty()))
    return f"{len(shown.rows)} row{'s' * (len(shown.rows) > 1)} shown as {spec.model} sees them."


def to_text(shown: Preview, *, colour: bool) -> str:
    """*shown* for a terminal; without *colour*, ⟦marks⟧ stand around what carries loss."""
    legend = f"{_GREEN}green{_RESET} carries loss" if colour else "⟦…⟧ carries loss"
    template = f"; chat template: {shown.chat_template}" if shown.chat_template else ""
    parts = [f"{shown.format} ({shown.format_reason}){template}; {legend}\n"]
    for row in shown.rows:
        parts.append(f"\n── {row.where}: {row.tokens} tokens, {row.trained_tokens} trained\n")
        parts.append("".join(_piece(piece, colour) for piece in row.pieces) + "\n")
    return "".join(parts)


def _piece(piece: PreviewPiece, colour: bool) -> str:
    if not piece.trained:
        return piece.text
    return f"{_GREEN}{piece.text}{_RESET}" if colour else f"⟦{piece.text}⟧"
