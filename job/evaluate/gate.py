"""The adapter gate: whether the files that are to be published are what was trained, and have learned."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from job.adapters import KINDS
from job.errors import AdapterRejected
from job.evaluate.compare import compare
from job.evaluate.evidence import parts, unlearned
from job.evaluate.load import expected_tensors, load_untouched, put_on
from job.records import EvaluateTask, GateFigures
from job.spec import JobSpec

FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_LEARN_MORE = "Raise JOB_LEARNING_RATE or train for more steps."
_TRAIN_AGAIN = "Run the job again on another machine, with another JOB_OUTPUT_URI."
_SAID = 300  # characters of an exception of upstream's

Tensors = Mapping[str, torch.Tensor]


def pass_gate(spec: JobSpec, task: EvaluateTask, proof: Path) -> tuple[PeftModel, GateFigures]:
    """The adapter of *task* on its base, in evaluation mode, and what was found. *proof*: what the trained model made
    of a few rows (`job.train.proof_logits`).

    Raises:
        AdapterRejected: by the first check that it fails, with the figures.
    """
    tensors = _read(task.adapter / FILE)
    _check_finite(tensors)
    _check_config(spec, task)
    model = _load(spec, task)
    _check_complete(tensors, expected_tensors(model))
    found = list(parts(model, spec.adapter))
    if left := unlearned(found):
        raise AdapterRejected(
            f"{len(left)} of {len(found)} adapter tensors are what they began as, first {left[0]}.", _LEARN_MORE
        )
    compared = compare(spec, task, model, proof)
    return model, GateFigures(
        tensors=len(found), learned=sum(part.learned for part in found), **dataclasses.asdict(compared)
    )


def _read(path: Path) -> Tensors:
    try:
        tensors: Tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        size = f"of {path.stat().st_size:,} bytes " if path.exists() else ""
        raise AdapterRejected(f"{path.name} {size}cannot be read back: {_first_line(error)}.", _TRAIN_AGAIN) from error
    if not tensors:
        raise AdapterRejected(f"{path.name} holds no tensor.", _TRAIN_AGAIN)
    return tensors


def _check_finite(tensors: Tensors) -> None:
    broken = {name: tensor for name, tensor in tensors.items() if not torch.isfinite(tensor).all()}
    for name, tensor in broken.items():
        count = int((~torch.isfinite(tensor)).sum())
        raise AdapterRejected(
            f"{FILE} holds NaN or infinity in {len(broken)} of {len(tensors)} tensors: {count:,} of "
            f"{tensor.numel():,} values in {name}.",
            "Lower JOB_LEARNING_RATE.",
        )


def _check_config(spec: JobSpec, task: EvaluateTask) -> None:
    try:
        config = PeftConfig.from_pretrained(str(task.adapter))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterRejected(f"{CONFIG} cannot be read back: {_first_line(error)}.", _TRAIN_AGAIN) from error
    kind, asked = type(config).__name__, KINDS[spec.adapter].config
    if kind != asked:
        raise AdapterRejected(f"{CONFIG} is a {kind}, and JOB_ADAPTER={spec.adapter} is a {asked}.", _TRAIN_AGAIN)
    base, trained = config.base_model_name_or_path, task.train.base_model_name
    if base != trained:
        raise AdapterRejected(f"{CONFIG} names the base model {base}, and {trained} was trained.", _TRAIN_AGAIN)


def _load(spec: JobSpec, task: EvaluateTask) -> PeftModel:
    base = load_untouched(spec, task)
    try:
        return put_on(base, task.adapter, task)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError):
            raise  # of the GPU, not of the adapter
        raise AdapterRejected(f"PEFT cannot load the adapter: {_first_line(error)}.", _TRAIN_AGAIN) from error


def _check_complete(tensors: Tensors, expected: Tensors) -> None:
    if missing := sorted(expected.keys() - tensors.keys()):
        raise AdapterRejected(
            f"{FILE} lacks {len(missing)} of {len(expected)} tensors, first {missing[0]}.", _TRAIN_AGAIN
        )
    if extra := sorted(tensors.keys() - expected.keys()):
        raise AdapterRejected(
            f"{FILE} holds {_count(extra, 'tensor')} that such an adapter has not, first {extra[0]}.", _TRAIN_AGAIN
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise AdapterRejected(
                f"{FILE}: {name} is of shape {_shape(tensor)}, and has to be {_shape(expected[name])}.", _TRAIN_AGAIN
            )


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def _count(things: Iterable[str], name: str) -> str:
    count = len(list(things))
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_SAID].rstrip(". ")
