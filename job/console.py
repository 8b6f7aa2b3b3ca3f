"""What a person sees, on stderr: phases, the plan, and training progress. stdout carries only the outcome."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from job.pace import Pace, Speed, duration
from job.records import CurveFinding, Findings, Forecast, GateFigures, ModelFacts, Plan, Prepared, Score
from job.redact import Redactor
from job.spec import JobSpec

# What else a line of training says, by the names of TRL's trainers.
_TOLD = {"rewards/margins": "margin", "margin": "margin", "rewards/accuracies": "accuracy", "accuracy": "accuracy"}


class Console:
    """Plain lines; on a terminal, training progress is one line that renews itself. What cannot be written, as when the
    log's disk is full or its reader has died, changes nothing about the run."""

    def __init__(
        self, stream: TextIO, redact: Redactor, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._redact, self._quiet = stream, redact, quiet
        self._live = stream.isatty()
        self._open_line = False
        self._pace = Pace(clock)
        self._done_before = 0  # steps of earlier launches of the workers
        self._foreseen: tuple[Forecast, float] | None = None  # with the price of all GPUs for an hour; until corrected

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

    def forecast(self, spec: JobSpec, forecast: Forecast, num_gpus: int) -> None:
        """Show *forecast*, which the first figures of the run will correct."""
        self._foreseen = forecast, num_gpus * (spec.gpu_hour_price or 0.0)
        for line in forecast_lines(spec, forecast, num_gpus):
            self.say(f"  {line}")

    def weights(self, model: ModelFacts) -> None:
        self.say(
            f"  fetching {model.weights_bytes / 2**30:.2f} GiB of weights ({model.parameters / 1e6:,.1f}M parameters)"
        )

    def rows(self, prepared: Prepared) -> None:
        train = prepared.train
        packs = f" in {train.sequences:,} packs" if train.sequences != train.rows else ""
        # Of prompts nothing is trained, but of the answers that are drawn to them.
        trained = f", {train.trained_tokens / train.tokens:.0%} trained" if train.trained_tokens else ""
        self.say(
            f"  {train.rows:,} rows{packs}, {train.tokens:,} tokens{trained} ({prepared.format}: "
            f"{prepared.format_reason})"
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
        speed = self._pace.event(event)
        match event["event"]:
            case "preparing":
                self._preparing(event)
            case "train_begin":
                self._done_before = event["step"]
                done = f", {event['step']} of them done before" if event["step"] else ""
                self.say(f"training: {event['total_steps']} steps{done}")
            case "answering":
                self._renew(f"  {event['answers']:,} of {event['of']:,} answers to held-out rows")
            case "longest_batch":
                self.say(f"  the longest batch takes {event['peak_gib']:.1f} GiB at its fullest moment")
            case "train":
                self._progress(event, speed)
            case "train_end" if "train_runtime" in event:
                # What the Trainer calls the mean loss leaves out the steps before a restart.
                loss = "" if self._done_before or not event["step"] else f", mean loss {event['train_loss']:.4f}"
                self.say(f"  {event['step'] - self._done_before} steps in {event['train_runtime']:.1f} s{loss}")
            case "evaluation":
                self.say(f"  step {event['step']}/{event['total_steps']}  eval {_measured(event, 'eval_')}")

    def gate(self, figures: GateFigures) -> None:
        self.say(f"  adapter gate: {figures}")

    def curve(self, findings: Iterable[CurveFinding]) -> None:
        """What the curve of training shows; what may need another setting is a warning."""
        for finding in findings:
            tell = self.say if finding.pattern in ("converging", "too_short") else self.warn
            tell(f"  {finding.pattern}: {finding.evidence} {finding.advice}".rstrip())

    def scores(self, scores: Iterable[Score]) -> None:
        """What the answers to held-out rows are worth, of the base model and of the tuned one."""
        for score in scores:
            self.say(f"  {score.scorer} {score.base:.2f} → {score.tuned:.2f} of {score.rows:,} answers")

    def _progress(self, event: dict[str, Any], speed: Speed | None) -> None:
        step, total = event["step"], event["total_steps"]
        line = f"  step {step}/{total}  {_measured(event)}  lr {event['learning_rate']:.2e}"
        line += "".join(f"  {shown} {event[name]:.3f}" for name, shown in _TOLD.items() if name in event)
        if speed:
            line += f"  {speed.tokens_per_s:,.0f} tokens/s  {duration((total - step) * speed.step_s)} left"
            self._correct(speed.tokens_per_s, total * speed.step_s)
        self._renew(line)

    def _correct(self, tokens_per_s: float, training_s: float) -> None:
        """Once, as soon as there are two logged steps to measure between."""
        if self._foreseen is None:
            return
        (forecast, price), self._foreseen = self._foreseen, None
        cost = f" and {training_s / 3600 * price:,.2f}" if price else ""
        self.say(
            f"  measured {tokens_per_s:,.0f} tokens/s where {forecast.tokens_per_s:,.0f} were foreseen: "
            f"{duration(training_s)}{cost} for all of training"
        )

    def _preparing(self, event: dict[str, Any]) -> None:
        left = "" if event["left_s"] is None else f"  {duration(event['left_s'])} left"
        self._renew(f"  {event['rows']:,} rows prepared  {event['rows_per_s']:,.0f} rows/s{left}")

    def _renew(self, line: str) -> None:
        """One more line, or on a terminal the same line again."""
        if self._live and not self._quiet:
            self._put(f"\r\x1b[K{line}")
            self._open_line = True
        else:
            self.say(line)

    def _write(self, text: str) -> None:
        end, self._open_line = "\n" if self._open_line else "", False
        self._put(f"{end}{self._redact(text)}\n")

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the latter says that the stream is closed
            self._stream.write(text)
            self._stream.flush()


def _measured(event: dict[str, Any], prefix: str = "") -> str:
    """What a step is judged by: the reward where answers are drawn, whose loss says nothing, else the loss."""
    name = "reward" if f"{prefix}reward" in event else "loss"
    return f"{name} {event[prefix + name]:.4f}"


def forecast_lines(spec: JobSpec, forecast: Forecast, num_gpus: int) -> Iterator[str]:
    """Speed, time and money, as far as they are known."""
    yield f"{'speed':<24} {forecast.tokens_per_s:,.0f} tokens/s ({forecast.why})"
    if forecast.hours is None or forecast.tokens is None:
        yield f"{'time':<24} not known: the number of rows is not"
        return
    hours = duration(forecast.hours * 3600)
    yield f"{'time':<24} {forecast.steps:,} steps, {forecast.tokens:,} tokens, {hours} of training"
    if forecast.cost is not None:
        yield f"{'cost':<24} {forecast.cost:,.2f} for {num_gpus} × {hours} at {spec.gpu_hour_price:g} an hour"
