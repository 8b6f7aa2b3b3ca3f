"""Checkpoints on their way to the output, while training goes on."""

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from job.attempts import Attempt
from job.child import as_job_error
from job.durable import checkpoint_folder, remove, superfluous
from job.errors import AccessDenied, JobError, OutputTaken
from job.publish import make_manifest
from job.records import Layout, Pushed
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec

_POLL_S = 0.1
_RETRY_S = 20.0  # after a store that could not be reached through all retries of its own
LAYOUT = "layout.json"


class Pusher(threading.Thread):
    """Pushes what the workers put into the outbox, the newest first: what a newer one has overtaken is not sent, unless
    it is the best. A store that cannot be reached is tried again; one that refuses us is a reason to stop."""

    def __init__(
        self,
        attempt: Attempt,
        run_dir: RunDir,
        spec: JobSpec,
        durable: Iterable[Layout],
        pause_s: float,
        warn: Callable[[str], None],
    ) -> None:
        """*pause_s* are left between two pushes, where a store counts them."""
        super().__init__(daemon=True, name="pusher")
        self._attempt, self._run_dir, self._spec, self._pause_s, self._warn = attempt, run_dir, spec, pause_s, warn
        self._kept = {layout.step: layout for layout in durable}
        self._next_at = 0.0  # time.monotonic() before which nothing is pushed
        self._hurry, self._ended = threading.Event(), threading.Event()
        self.refusal: JobError | None = None  # why pushing is over for good

    @property
    def last_step(self) -> int | None:
        """The newest durable step."""
        return max(self._kept, default=None)

    def run(self) -> None:
        while self.refusal is None and not (self._ended.is_set() and not self._waiting()):
            if self._waiting() and (self._hurry.is_set() or time.monotonic() >= self._next_at):
                self._push_next()
            else:
                time.sleep(_POLL_S)

    def flush(self, until: float) -> None:
        """Push what still waits, at most until *until* by time.monotonic()."""
        self._hurry.set()
        self._ended.set()
        self.join(max(0.0, until - time.monotonic()))

    def _waiting(self) -> list[Path]:
        return sorted(self._run_dir.outbox.glob("step-*"), reverse=True)

    def _push_next(self) -> None:
        newest, *older = self._waiting()
        for folder in older:
            if not self._is_best(folder):
                shutil.rmtree(folder)
        try:
            self._push(newest)
        except (AccessDenied, OutputTaken) as error:
            self.refusal = error
        except Exception as error:  # a thread that died would end all pushing, and nobody would know
            self._warn(f"  the checkpoint of {newest.name} is not durable yet: {as_job_error(error).cause}")
            self._next_at = time.monotonic() + _RETRY_S
            self._hurry.clear()

    def _push(self, folder: Path) -> None:
        layout, began = _layout(folder), time.monotonic()
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        facts = {"fingerprint": self._spec.fingerprint, "attempt": self._attempt.number}
        manifest = make_manifest(files, facts | {"layout": layout.model_dump(mode="json")})
        self._attempt.check()
        self._attempt.store.replace(checkpoint_folder(layout.step), files, manifest)
        self._kept[layout.step] = layout
        now = time.monotonic()
        self._next_at = now + self._pause_s
        write_json(self._run_dir.pushed, Pushed(step=self.last_step or 0, upload_s=now - began))
        shutil.rmtree(folder)
        gone = superfluous(self._kept.values(), self._spec.save_total_limit)
        remove(self._attempt.store, gone, self._warn)
        for step in gone:
            del self._kept[step]

    def _is_best(self, folder: Path) -> bool:
        loss = _layout(folder).eval_loss
        others = [layout.eval_loss for layout in self._kept.values() if layout.eval_loss is not None]
        return loss is not None and loss < min(others, default=float("inf"))


def _layout(folder: Path) -> Layout:
    return read_record(folder / LAYOUT, Layout)
