"""The story of a run, top to bottom: inspect → plan → prepare → train → evaluate → publish. It owns every signal.

Nothing here imports torch: this process survives a worker that dies, and refuses a bad job in milliseconds.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from job.attempts import Attempt, Watch, claim, crash_loop
from job.child import as_job_error
from job.console import Console
from job.deadline import Deadline, find_deadline
from job.durable import FOLDER as CHECKPOINTS
from job.durable import find_durable
from job.errors import AdapterRejected, JobError
from job.host import check_machine
from job.inspection import Inputs, find_inputs
from job.making import make_result
from job.outcome import failure, success, upload_error
from job.output import PARTIAL, REJECTED, Output
from job.own_rundir import clear, hold, is_trained, open_lock
from job.processes import StopRequest, Task, adopt_orphans, end_descendants
from job.publish import copy_to_secondaries, publish, remove_apart
from job.records import Outcome
from job.redact import Redactor
from job.report.write import reported_curve
from job.run import Run
from job.spec import JobSpec
from job.tracking import check_trackers

_RETRY_S = 20.0  # for the newest checkpoint to reach a store that has just refused the result
_WAY_S = 2.0  # for a checkpoint that was on its way when training ended, and that nobody needs now
_LAST_S = 5.0  # for each of the last things that a store is told, whatever it does
# The same for the outcome, and for each of the others, when the grace of a signal is over: whoever sent it kills soon.
_OUTCOME_S, _OTHER_S = 2.0, 0.5


class Supervisor:
    """One attempt at a run."""

    def __init__(
        self, spec: JobSpec, env: Mapping[str, str], console: Console, redact: Redactor, stop: StopRequest
    ) -> None:
        self._redact = redact
        self._run = Run(spec, env, console, stop)
        self._attempt: Attempt | None = None
        self._mine = contextlib.ExitStack()  # what no other process may have until this one is done

    def run(self, tell: Callable[[Outcome], None]) -> Outcome:
        """Run the job to its end, whatever that is, and leave no process behind. *tell* hears of the end before the
        store does, which may be what has failed."""
        adopt_orphans()
        with self._mine:
            try:
                outcome = success(self._story(), self._number, self._durable_step)
            except Exception as error:  # every end has an outcome
                if self._run.spec.debug:
                    self._run.console.traceback(error)
                self._leave_checkpoint()
                outcome = self._failure(as_job_error(error, self._run.dir.root))
            finally:
                end_descendants()
            try:
                tell(outcome)
            finally:
                self._hand_in(outcome)
        return outcome

    def _story(self) -> str:
        run, spec = self._run, self._run.spec
        with run.timed("inspect"):
            check_trackers(spec, run.env)
            outputs = [Output(text) for text in spec.output_uri]
            if manifest := self._finished(outputs[0]):
                return self._already_finished(outputs, manifest)
            self._refuse_rejected(outputs[0])
            for output in outputs[1:]:
                run.wait(functools.partial(output.look, spec))
            decided = run.wait(lambda: outputs[0].decided(spec))
            inputs = find_inputs(spec, run.env, run.stop, commits=decided.revisions if decided else None)
            if not is_trained(run.dir, spec):  # an upload needs no GPU
                check_machine(spec, inputs, run.env, run.stop)
            for output in outputs:
                run.wait(output.probe_write)
        lock = self._mine.enter_context(open_lock(run.dir, spec))
        attempt = self._claim(outputs[0], inputs)
        if manifest := self._finished(outputs[0]):  # by the attempt that was waited for
            return self._already_finished(outputs, manifest)
        hold(lock, spec, run.stop)
        run.wait(lambda: outputs[0].mark(spec))
        clear(run.dir, spec)  # not before: a job that is refused leaves what another has trained
        if is_trained(run.dir, spec):
            run.console.say("training has finished before; only the upload is left")
        else:
            self._make_result(outputs[0], inputs, attempt)
        with run.timed("publish"):
            self._publish(outputs, attempt)
        run.console.curve(reported_curve(run.dir.metrics))
        return f"The adapter is in {', '.join(spec.output_uri)}, verified."

    def _finished(self, output: Output) -> dict[str, Any] | None:
        return self._run.wait(lambda: output.manifest(self._run.spec))

    def _refuse_rejected(self, output: Output) -> None:
        """Raises:
        AdapterRejected: the same job has been judged before, and would come to the same end.
        """
        cause = self._run.wait(lambda: output.rejected(self._run.spec))
        if cause is not None:
            place = f"{output.text.rstrip('/')}/{REJECTED}"
            raise AdapterRejected(
                f"The same job has been rejected before: {cause} Its adapter is in {place}.",
                f"Change what judges it, such as JOB_MIN_SCORE, or how it is trained, or remove {place}.",
                published=True,
            )

    def _claim(self, output: Output, inputs: Inputs) -> Attempt:
        """The run is ours afterwards.

        Raises:
            OutputTaken: it is someone else's.
        """
        run = self._run
        watch = Watch(run.stop, run.console.say)
        self._attempt = run.wait(lambda: claim(output, run.spec, lambda: run.live.progress, inputs.num_gpus, watch))
        return self._attempt

    def _make_result(self, output: Output, inputs: Inputs, attempt: Attempt) -> None:
        """Adapter and reports in RunDir.

        Raises:
            NoProgress: the attempts before have come no further.
            JobError: whatever else ends it.
        """
        run, deadline = self._run, self._deadline(inputs, attempt)
        run.wait(output.result.abort_uploads)  # of attempts that were killed
        found = run.wait(lambda: find_durable(output.state, run.spec.fingerprint, run.console.warn))
        if found:
            run.live.durable(found[0].step)
        if loop := crash_loop(attempt.earlier):
            raise loop
        if deadline:
            run.stop.limit(deadline.ends_at, deadline.error())
            run.stop.check()
        make_result(run, inputs, output, attempt, found, deadline)
        run.stop.lift_limit()

    def _deadline(self, inputs: Inputs, attempt: Attempt) -> Deadline | None:
        pulses = [past.pulse for past in attempt.earlier if past.pulse]
        return find_deadline(self._run.spec, inputs.num_gpus, self._run.began, pulses)

    def _publish(self, outputs: list[Output], attempt: Attempt) -> None:
        """The result, verified, in every output. A signal that comes now is given its grace: a few seconds more, and
        all is done."""
        run, spec = self._run, self._run.spec

        def upload() -> None:
            attempt.confirm()
            publish(outputs, run.dir, spec, attempt.number)

        try:
            run.wait(upload, patience_s=spec.grace_s)
        except JobError as error:
            raise upload_error(error) from error
        run.dir.spec.unlink()  # published, and nobody's here: if the output is removed, the next run trains again
        if run.background:
            run.background.stop()
            run.background.join(min(_WAY_S, self._left_s(_OTHER_S)))
        Task(lambda: self._tidy(outputs[0])).join(min(_LAST_S, self._left_s(_OTHER_S)))

    def _tidy(self, output: Output) -> None:
        """Remove what a success leaves behind it. What stays costs a little, and a success is a success."""
        for folder in (PARTIAL, REJECTED):
            remove_apart(output.result, folder)
        if not self._run.spec.keep_checkpoints:
            remove_apart(output.state, CHECKPOINTS)

    def _already_finished(self, outputs: list[Output], manifest: dict[str, Any]) -> str:
        run = self._run
        scratch = run.dir.root / "copy"
        filled = run.wait(lambda: copy_to_secondaries(outputs, manifest, run.spec, scratch))
        copied = f" Copied to {', '.join(filled)}." if filled else ""
        return f"The same job has finished before; its result in {outputs[0].text} is complete.{copied}"

    def _leave_checkpoint(self) -> None:
        """Of what has been trained and is not published, the newest checkpoint goes to the output."""
        run, end = self._run, time.monotonic() + _RETRY_S
        if run.background:
            run.background.flush(lambda: min(run.grace_ends(), end))

    def _failure(self, error: JobError) -> Outcome:
        """*error* as an outcome; that of a third attempt that has broken down without progress says so."""
        outcome = self._ended(error)
        if self._attempt and (loop := crash_loop((*self._attempt.earlier, self._attempt.past(outcome)))):
            return self._ended(loop)
        return outcome

    def _ended(self, error: JobError) -> Outcome:
        return failure(error, self._run.live.progress.phase, self._number, self._redact, self._durable_step)

    def _hand_in(self, outcome: Outcome) -> None:
        """Leave outcome, plan, log and stacks with the attempt, within seconds. What the store refuses now changes
        nothing about the run."""
        if self._attempt is None:
            return
        Task(self._end_uploads).join(min(_LAST_S, self._left_s(_OTHER_S)))
        self._attempt.end(outcome, self._left_s(_OUTCOME_S))
        Task(self._leave_files).join(min(_LAST_S, self._left_s(_OTHER_S)))

    def _left_s(self, at_least: float) -> float:
        """Seconds until the grace of a signal is over, or *at_least* so many; infinity without a signal."""
        return max(at_least, self._run.grace_ends() - time.monotonic())

    def _end_uploads(self) -> None:
        """What is still under way gets no more time, and the parts of uploads are paid for until somebody ends them."""
        if self._attempt:
            self._attempt.confirm()  # a successor's are none of ours
            self._attempt.store.abort_uploads()

    def _leave_files(self) -> None:
        own = self._run.dir
        for path in (own.plan, own.log, *sorted(own.stack(0).parent.glob("*.txt"))):
            if self._attempt and path.exists() and path.stat().st_size:
                name = path.relative_to(own.root).as_posix()
                self._attempt.put(name, self._redact(path.read_text(errors="replace")).encode())
        for path in sorted(own.tensorboard.glob("*")):
            if self._attempt:
                self._attempt.put(path.relative_to(own.root).as_posix(), path.read_bytes())

    @property
    def _number(self) -> int | None:
        return self._attempt.number if self._attempt else None

    @property
    def _durable_step(self) -> int | None:
        return self._run.live.progress.last_durable_step
