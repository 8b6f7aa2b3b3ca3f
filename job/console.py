"""What a person sees, on stderr: phases, the plan, and training progress. stdout carries only the outcome."""

import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from job.records import Findings, ModelFacts, Plan, Prepared
from job.redact import Redactor


class Console:
    """Plain lines; on a terminal, training progress is one line that renews itself."""

    def __init__(
        self, stream: TextIO, redact: Redactor, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._redact, self._quiet, self._clock = stream, redact, quiet, clock
        self._live = stream.isatty()
        self._open_line = False
        self._start: tuple[float, int, int] | None = None  # clock, step and tokens at the first logged step
        self._evaluating_s = 0.0  # no part of the training speed

    def say(self, text: str) -> None:
        if not self._quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        self._write(text)

    def traceback(self, error: BaseException) -> None:
        """For JOB_DEBUG=1: *error* with the traceback that a child process noted on it."""
        self.warn("".join(traceback.format_exception(error)))

    def plan(self, plan: Plan) -> None:
        for name, reason in plan.reasons.items():
            self.say(f"  {name:<22} {reason}")

    def weights(self, model: ModelFacts) -> None:
        self.say(
            f"  fetching {model.weights_bytes / 2**30:.2f} GiB of weights ({model.parameters / 1e6:,.1f}M parameters)"
        )

    def rows(self, prepared: Prepared) -> None:
        train = prepared.train
        packs = f" in {train.sequences:,} packs" if train.sequences != train.rows else ""
        self.say(
            f"  {train.rows:,} rows{packs}, {train.tokens:,} tokens, {train.trained_tokens / train.tokens:.0%} trained "
            f"({prepared.format}: {prepared.format_reason})"
        )
        if prepared.chat_template:
            self.say(f"  chat template: {prepared.chat_template}")
        if train.truncated_rows or train.dropped_rows:
            self.warn(
                f"  {train.truncated_rows:,} rows cut at max_length, {train.dropped_rows:,} left nothing to learn"
            )
        if prepared.eval:
            self.say(f"  {prepared.eval.rows:,} rows held out for evaluation")
        self._findings(prepared.findings)

    def _findings(self, findings: Findings) -> None:
        counts = {
            "rows skipped, as they cannot be used": findings.bad_rows,
            "rows that stand in an earlier one too": findings.duplicate_rows,
            "rows that are evaluated on and trained on": findings.rows_in_train_and_eval,
        } | {f"odd conversations ({what})": rows for what, rows in findings.oddities.items()}
        for what, rows in counts.items():
            if rows:
                self.warn(f"  {what}: {rows:,}")
        for problem in findings.first_bad_rows:
            self.warn(f"    {problem}")

    def event(self, event: dict[str, Any]) -> None:
        """One line of the worker's ``log.jsonl``."""
        match event["event"]:
            case "preparing":
                self._preparing(event)
            case "train_begin":
                self.say(f"training: {event['total_steps']} steps")
            case "train":
                self._progress(event)
            case "train_end" if "train_runtime" in event:
                self.say(
                    f"  {event['step']} steps in {event['train_runtime']:.1f} s, mean loss {event['train_loss']:.4f}"
                )
            case "evaluation":
                self._evaluating_s += event["eval_runtime"]
                self.say(f"  step {event['step']}/{event['total_steps']}  eval loss {event['eval_loss']:.4f}")

    def _progress(self, event: dict[str, Any]) -> None:
        step, total, tokens = event["step"], event["total_steps"], int(event.get("num_tokens", 0))
        line = f"  step {step}/{total}  loss {event['loss']:.4f}  lr {event['learning_rate']:.2e}"
        now = self._clock() - self._evaluating_s
        if self._start is None:
            self._start = (now, step, tokens)
        elif (elapsed := now - self._start[0]) > 0:
            left = (total - step) * elapsed / max(1, step - self._start[1])
            line += f"  {(tokens - self._start[2]) / elapsed:,.0f} tokens/s  {_duration(left)} left"
        self._renew(line)

    def _preparing(self, event: dict[str, Any]) -> None:
        left = "" if event["left_s"] is None else f"  {_duration(event['left_s'])} left"
        self._renew(f"  {event['rows']:,} rows prepared  {event['rows_per_s']:,.0f} rows/s{left}")

    def _renew(self, line: str) -> None:
        """One more line, or on a terminal the same line again."""
        if self._live and not self._quiet:
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()
            self._open_line = True
        else:
            self.say(line)

    def _write(self, text: str) -> None:
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False
        self._stream.write(self._redact(text) + "\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
