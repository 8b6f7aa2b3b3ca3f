"""The story of a rank: a trainer, its steps, the proof that they taught something, the adapter's files."""

import transformers

from job.events import EventLog
from job.records import AdapterProof, Plan, TrainTask
from job.rundir import RunDir, read_record, write_json
from job.spec import JobSpec
from job.train.best import Best
from job.train.callbacks import Beat, CompleteHistory, Obey, Progress, WatchHealth
from job.train.checkpoint import full_disk_told
from job.train.fit import FitsMemory
from job.train.methods import make_trainer
from job.train.proof import AdapterWatch
from job.train.proof_logits import leave_proof_logits
from job.train.result import Ending, train_result
from job.train.samples import Samples
from job.train.trainer import AdapterTrainer


def train(run_dir: RunDir, rank: int) -> None:
    """Train the adapter that spec.json, plan.json and train_task.json ask for; rank 0 writes it and the result.

    Raises:
        AdapterRejected: nothing was trainable, or the adapter did not change.
        Diverged: the loss is NaN or infinite, or has left its band for good.
        torch.OutOfMemoryError: GPU memory ran out.
    """
    spec = read_record(run_dir.spec, JobSpec)
    plan = read_record(run_dir.plan, Plan)
    task = read_record(run_dir.train_task, TrainTask)
    transformers.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()

    beat = Beat(run_dir.beat(rank))
    trainer, added = make_trainer(spec, plan, task, run_dir, beat.touch)
    progress, obey, best = _observe(trainer, spec, beat)
    samples = Samples(trainer, spec, EventLog(run_dir.log)) if spec.eval_samples else None
    if samples:
        trainer.add_callback(samples)
    watch = AdapterWatch(trainer.adapted_model, spec.adapter)
    beat.touch()
    trainer.train(resume_from_checkpoint=str(task.resume_from) if task.resume_from else None)
    if task.has_eval and not obey.stopped and not trainer.evaluated_now:
        trainer.evaluate()
        if trainer.control.should_save:  # a stop has broken it off
            trainer._save_checkpoint(trainer.model, None)
    if not obey.stopped:
        best.load()
    proof = _proof(watch, trainer, obey.stopped)
    if proof:
        with full_disk_told(run_dir.adapter):
            trainer.save_result(watch.initial)
            if not obey.stopped:
                leave_proof_logits(trainer, run_dir)
    beat.touch()

    if trainer.is_world_process_zero():
        ending = Ending(obey.stopped, best, proof, tuple(samples.answers) if samples else ())
        write_json(run_dir.train_result, train_result(trainer, ending, progress, added))
    # A rank that ends takes the others with it if it ends badly: not before the result is written.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _observe(trainer: AdapterTrainer, spec: JobSpec, beat: Beat) -> tuple[Progress, Obey, Best]:
    """Let all who watch *trainer* see its steps."""
    log = EventLog(trainer.run_dir.log)
    progress = Progress(log, trainer.times_before, trainer.tokens_before)
    obey = Obey(trainer, by_time=spec.save_steps == "auto")
    best = Best(trainer, spec)
    trainer.write_best = best.write
    for callback in (beat, progress, obey, best, CompleteHistory(), WatchHealth(trainer)):
        trainer.add_callback(callback)
    if trainer.plan.use_gpu:
        trainer.add_callback(FitsMemory(trainer, log))
    return progress, obey, best


def _proof(watch: AdapterWatch, trainer: AdapterTrainer, stopped: bool) -> AdapterProof | None:
    """None: of a stopped training that has not learned yet, or may be diverging, nothing is to be published.

    Raises:
        AdapterRejected, Diverged: as `AdapterWatch` says.
    """
    if not stopped:
        return watch.prove()
    return None if trainer.health.uneasy else watch.proof_if_learned()
