"""Checkpoints on their way to the output, while training goes on."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from job.attempts import Attempt
from job.checkpoints import LAYOUT, superfluous
from job.child import as_job_error
from job.durable import checkpoint_folder, remove, steps_in
from job.errors import AccessDenied, JobError, OutputTaken
from job.outbox import layout_of, put_back, take, waiting
from job.processes import POLL_S
from job.publish import make_manifest
from job.records import Layout, Pushed
from job.run import Run
from job.rundir import read_record, remove_whole, write_json

_RETRY_S = 20.0  # after a store that could not be reached through all retries of its own
# For a checkpoint on its way when a run breaks down: about as long as it may take to make again what is in it.
_WORTH_S = 300.0


class Pusher(threading.Thread):
    """Pushes what the workers put into the outbox, the newest first: what a newer one has overtaken is not sent, unless
    it is the best. A store that cannot be reached is tried again; one that refuses us is a reason to stop."""

    def __init__(self, run: Run, attempt: Attempt, durable: Iterable[Layout], pause_s: float) -> None:
        """*durable* are in the output already; *pause_s* are left between two pushes, where a store counts them."""
        super().__init__(daemon=True, name="pusher")
        self._run, self._attempt, self._pause_s = run, attempt, pause_s
        self._kept = {layout.step: layout for layout in durable}
        self._next_at = 0.0  # time.monotonic() before which nothing is pushed
        self._ended = threading.Event()  # nothing more will come
        self._held = threading.Event()  # nothing may go now
        self._dropped = threading.Event()  # nothing more is wanted
        self._tidied = False
        self._refusal: JobError | None = None  # why pushing is over for good

    def run(self) -> None:
        while self._refusal is None and not (self._dropped.is_set() or (self._ended.is_set() and not self._waiting())):
            folders = self._waiting()
            if folders and not self._held.is_set() and time.monotonic() >= self._next_at:
                self._push_next(*folders)
            else:
                time.sleep(POLL_S)

    def check(self) -> None:
        """Raises:
        AccessDenied, OutputTaken: the output may no longer be written.
        """
        if self._refusal:
            raise self._refusal

    def flush(self, until: Callable[[], float]) -> None:
        """Push what still waits, at most until *until* by time.monotonic(), and for as long as it is worth it."""
        began, self._next_at = time.monotonic(), 0.0
        self._held.clear()
        self._ended.set()
        while self.is_alive() and time.monotonic() < min(until(), began + _WORTH_S):
            self.join(POLL_S)

    def hold(self) -> None:
        """Begin no other push: the result itself comes first."""
        self._held.set()

    def stop(self) -> None:
        """Push no more: what waits is not needed now."""
        self._dropped.set()

    def _waiting(self) -> list[Path]:
        return waiting(self._run.dir.outbox)

    def _push_next(self, newest: Path, *older: Path) -> None:
        try:
            for folder in older:
                if not self._is_best(folder):
                    remove_whole(folder)
            if taken := take(newest, self._run.dir.sending):
                self._push(taken)
        except (AccessDenied, OutputTaken) as error:
            self._refusal = error
        except Exception as error:  # a thread that died would end all pushing, and nobody would know
            cause = as_job_error(error, self._run.dir.root).cause
            self._run.console.warn(f"  the checkpoint of {newest.name} is not durable yet: {cause}")
            self._next_at = time.monotonic() + _RETRY_S
        finally:
            with contextlib.suppress(OSError):  # a full disk
                put_back(self._run.dir)

    def _push(self, folder: Path) -> None:
        layout, began = read_record(folder / LAYOUT, Layout), time.monotonic()
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        facts = {"fingerprint": self._run.spec.fingerprint, "attempt": self._attempt.number}
        manifest = make_manifest(files, facts | {"layout": layout.model_dump(mode="json")})
        self._attempt.confirm()
        self._attempt.store.replace(checkpoint_folder(layout.step), files, manifest)
        remove_whole(folder)
        self._note(layout, time.monotonic() - began)
        self._tidy()

    def _tidy(self) -> None:
        """Remove what is superfluous, and once what earlier attempts have left that cannot be gone on from."""
        store = self._attempt.store
        gone = superfluous(self._kept.values(), self._run.spec.save_total_limit)
        for step in gone:
            del self._kept[step]
        if not self._tidied:
            self._tidied = True
            gone += [step for step in steps_in(store) if step < max(self._kept) and step not in self._kept]
        remove(store, sorted(set(gone)), self._run.console.warn)

    def _note(self, layout: Layout, upload_s: float) -> None:
        self._kept[layout.step] = layout
        newest = max(self._kept)
        self._next_at = time.monotonic() + (0.0 if self._ended.is_set() else self._pause_s)
        self._run.live.durable(newest)
        self._run.live.measured.upload_s = upload_s
        with contextlib.suppress(OSError):  # a full disk
            self._run.log.write("durable", step=layout.step, upload_s=round(upload_s, 3))
            write_json(self._run.dir.pushed, Pushed(upload_s=upload_s))

    def _is_best(self, folder: Path) -> bool:
        layout = layout_of(folder)
        others = [kept.eval_loss for kept in self._kept.values() if kept.eval_loss is not None]
        if layout is None or layout.eval_loss is None:
            return False
        return layout.eval_loss < min(others, default=float("inf"))
