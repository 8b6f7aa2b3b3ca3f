"""The story of a run, top to bottom: inspect → plan → prepare → train → publish. It owns every signal and upload.

Nothing here imports torch: this process survives a worker that dies, and refuses a bad job in milliseconds.
"""

import contextlib
import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from job.attempts import Attempt, Watch, claim, crash_loop
from job.child import as_job_error
from job.console import Console
from job.errors import BadSpec, JobError, OutputTaken
from job.events import EventLog
from job.forecast import forecast
from job.gpu_links import prove_links
from job.host import check_machine
from job.inputs import ModelSource
from job.inspection import Inputs, find_inputs
from job.outcome import failure, success, upload_error
from job.output import Output
from job.pace import Live
from job.plan import make_plan
from job.preparation import dataset_facts, make_task, open_workshop, prepare, prepare_sample
from job.probing import gather
from job.processes import StopRequest, Task, adopt_orphans, end_descendants
from job.publish import copy_to_secondaries, publish
from job.records import Decided, Facts, Outcome, Plan, Prepared, TrainTask
from job.redact import Redactor
from job.report.dataset import make_dataset_report
from job.report.metrics import make_metrics
from job.report.model_card import model_card
from job.rundir import RunDir, read_record, write_bytes, write_json
from job.spec import JobSpec
from job.training import train_within_memory

T = TypeVar("T")


class Supervisor:
    """One attempt at a run."""

    def __init__(
        self, spec: JobSpec, env: Mapping[str, str], console: Console, redact: Redactor, stop: StopRequest
    ) -> None:
        self._spec, self._env, self._console, self._redact, self._stop = spec, env, console, redact, stop
        work_dir = spec.work_dir.absolute()
        self._run_dir = RunDir(work_dir / "runs" / hashlib.sha256(spec.output_uri[0].encode()).hexdigest()[:16])
        self._log = EventLog(self._run_dir.log)
        self._shop = open_workshop(spec, env, self._run_dir.root / "prepare.log", stop, console.event)
        self._phase, self._phases_s = "start", dict[str, float]()
        self._attempt: Attempt | None = None
        self._live = Live()

    def run(self) -> Outcome:
        """Run the job to its end, whatever that is, and leave no process behind."""
        adopt_orphans()
        try:
            outcome = success(self._story(), self._attempt_number, self._live.progress.last_durable_step)
        except Exception as error:  # every end has an outcome
            if self._spec.debug:
                self._console.traceback(error)
            outcome = self._failure(as_job_error(error))
        finally:
            end_descendants()
        self._hand_in(outcome)
        return outcome

    def _story(self) -> str:
        spec = self._spec
        with self._timed("inspect"):
            outputs = [Output(text) for text in spec.output_uri]
            manifests = self._wait(lambda: [output.manifest(spec.fingerprint) for output in outputs])
            if manifests[0]:
                return self._already_finished(outputs, manifests[0])
            inputs = find_inputs(spec, self._env, self._stop)
            if not self._trained_before():  # an upload needs no GPU
                check_machine(spec, inputs, self._env, self._stop)
            for output in outputs:
                self._wait(output.probe_write)
        with self._exclusive():
            attempt = self._attempt = self._claim(outputs[0], len(inputs.hardware.gpus))
            if manifest := self._wait(lambda: outputs[0].manifest(spec.fingerprint)):  # the attempt before was faster
                return self._already_finished(outputs, manifest)
            self._wait(lambda: outputs[0].mark(spec))
            if loop := crash_loop(attempt.earlier):
                raise loop
            if self._trained_before():
                self._console.say("training has finished before; only the upload is left")
            else:
                self._make_result(inputs, outputs[0])
            with self._timed("publish"):
                self._wait(attempt.confirm)
                self._wait(lambda: self._publish(outputs, attempt.number))
                self._run_dir.metrics.unlink()  # published: if the output is removed, the next run trains again
        return f"The adapter is in {', '.join(spec.output_uri)}, verified."

    def _failure(self, error: JobError) -> Outcome:
        def ended(error: JobError) -> Outcome:
            durable = self._live.progress.last_durable_step
            return failure(error, self._phase, self._attempt_number, self._redact, durable)

        outcome = ended(error)
        if self._attempt and (loop := crash_loop([*self._attempt.earlier, self._attempt.past(outcome)])):
            return ended(loop)
        return outcome

    def _claim(self, output: Output, num_gpus: int) -> Attempt:
        watch = Watch(self._stop, self._console.say)
        return self._wait(lambda: claim(output, self._spec, lambda: self._live.progress, num_gpus, watch))

    def _make_result(self, inputs: Inputs, output: Output) -> None:
        """Adapter and metrics in RunDir; ``metrics.json`` is written last and says that both are complete."""
        with self._timed("plan"):
            task = self._wait(lambda: make_task(self._spec, inputs, self._shop))
            facts = gather(self._spec, inputs, task.tokenizer, lambda: prepare_sample(task, self._shop), self._shop)
            plan = make_plan(self._spec, facts, self._wait(lambda: output.decided(self._spec)))
            settled = Decided(quantization=plan.quantization, packing=plan.packing)
            self._wait(lambda: output.mark(self._spec, settled))
            plan = prove_links(plan, self._run_dir.links, self._shop.env, self._stop)
            self._record_plan(facts, plan)
        with self._timed("prepare"):
            if not inputs.model.source.is_local:
                self._console.weights(inputs.model.facts)
            weights = Task(lambda: inputs.model.localize(self._shop.cache / "models", weights=True))
            rows, prepared = prepare(task.model_copy(update={"packing": plan.packing}), self._shop)
            self._record_rows(prepared)
            plan = self._foresee(plan, prepared)
            train_task = self._train_task(inputs.model, weights.result(self._stop), rows, prepared)
        with self._timed("train"):
            plan, result = train_within_memory(plan, train_task, self._spec, self._run_dir, self._shop, self._console)
        revisions = tuple(source.revision for source in inputs.train)
        metrics = make_metrics(self._spec, facts, plan, prepared, result, revisions, self._phases_s)
        card = model_card(metrics, output.adapter_location)
        write_bytes(self._run_dir.adapter / "README.md", card.encode())
        report = make_dataset_report(self._spec, prepared, revisions, plan)
        write_json(self._run_dir.dataset_report, report)
        write_json(self._run_dir.metrics, metrics)

    def _record_plan(self, facts: Facts, plan: Plan) -> None:
        write_json(self._run_dir.spec, self._spec)
        write_json(self._run_dir.facts, facts)
        write_json(self._run_dir.plan, plan)
        self._log.write("plan", **plan.model_dump(mode="json"))
        self._console.plan(plan)

    def _record_rows(self, prepared: Prepared) -> None:
        # Without the text of the template, which the tokenizer holds.
        self._log.write("prepared", **prepared.model_dump(mode="json", exclude={"chat_template": {"source"}}))
        self._console.rows(prepared)

    def _train_task(self, model: ModelSource, folder: Path, rows: Path, prepared: Prepared) -> TrainTask:
        return TrainTask(
            model_path=folder.absolute(),
            data_path=rows.absolute(),
            base_model_name=model.name,
            base_model_revision=model.facts.revision,
            has_eval=prepared.eval is not None,
            chat_template=prepared.chat_template,
        )

    def _foresee(self, plan: Plan, prepared: Prepared) -> Plan:
        """*plan* with time and cost for the rows that there really are."""
        if plan.forecast is None:
            return plan
        rows = dataset_facts(prepared, sampled=False)
        renewed = forecast(self._spec, plan, rows, plan.forecast.tokens_per_s, plan.forecast.why)
        self._console.forecast(self._spec, renewed, plan.num_processes)
        return plan.model_copy(update={"forecast": renewed})

    def _publish(self, outputs: list[Output], attempt: int) -> None:
        try:
            publish(outputs, self._run_dir, self._spec, attempt)
        except JobError as error:
            raise upload_error(error) from error

    def _already_finished(self, outputs: list[Output], manifest: dict[str, Any]) -> str:
        scratch = self._run_dir.root / "copy"
        filled = self._wait(lambda: copy_to_secondaries(outputs, manifest, self._spec, scratch))
        copied = f" Copied to {', '.join(filled)}." if filled else ""
        return f"The same job has finished before; its result in {outputs[0].text} is complete.{copied}"

    def _hand_in(self, outcome: Outcome) -> None:
        """Leave outcome, plan and log with the attempt. What the store refuses now changes nothing about the run."""
        if self._attempt is None:
            return
        self._attempt.end(outcome)
        with contextlib.suppress(JobError):
            for path in (self._run_dir.plan, self._run_dir.log):
                if path.exists():
                    self._attempt.put(path.name, self._redact(path.read_text()).encode())

    def _wait(self, call: Callable[[], T]) -> T:
        return Task(call).result(self._stop)

    @property
    def _attempt_number(self) -> int | None:
        return self._attempt.number if self._attempt else None

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self._phase, start = phase, time.monotonic()
        self._console.say(phase)
        self._live.enter(phase)
        yield
        self._phases_s[phase] = time.monotonic() - start

    def _trained_before(self) -> bool:
        """Whether an earlier attempt on this machine left the complete result of this very job in RunDir."""
        if not (self._run_dir.metrics.exists() and self._run_dir.spec.exists()):
            return False
        try:
            return read_record(self._run_dir.spec, JobSpec).fingerprint == self._spec.fingerprint
        except ValueError:  # another version of this job wrote it
            return False

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """A RunDir that no other process of this machine uses, empty unless only its upload is left.

        Raises:
            OutputTaken: another process does.
            BadSpec: it cannot be made.
        """
        root = self._run_dir.root
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            lock = root.with_suffix(".lock").open("w")
        except OSError as error:
            raise BadSpec(
                f"JOB_WORK_DIR={self._spec.work_dir} cannot be written ({error.strerror}).", "Name a writable folder."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                place = self._spec.output_uri[0]
                raise OutputTaken(f"Another process here works on JOB_OUTPUT_URI={place}.", "Let it end.") from error
            if not self._trained_before():
                shutil.rmtree(root, ignore_errors=True)
                self._run_dir.errors.mkdir(parents=True)
            yield
