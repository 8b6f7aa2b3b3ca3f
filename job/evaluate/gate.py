"""The adapter gate: whether the files that are to be published are what was trained, and have learned."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel

from job.adapters import KINDS, Kind
from job.errors import AdapterRejected
from job.evaluate.compare import compare
from job.evaluate.evidence import parts, unlearned
from job.evaluate.load import Tuned, adapter_of, load_tuned, load_untouched, weights_of
from job.records import EvaluateTask, GateFigures
from job.spec import JobSpec

CONFIG = "adapter_config.json"
_LEARN_MORE = "Raise JOB_LEARNING_RATE or train for more steps."
_TRAIN_AGAIN = "Run the job again on another machine, with another JOB_OUTPUT_URI."
_SAID = 300  # characters of an exception of upstream's

Tensors = Mapping[str, torch.Tensor]


def pass_gate(spec: JobSpec, task: EvaluateTask, proof: Path) -> tuple[Tuned, GateFigures]:
    """The adapter of *task* on its base, or the whole model beside it, in evaluation mode, and what was found. *proof*:
    what the trained model made of a few rows (`job.train.proof_logits`).

    Raises:
        AdapterRejected: by the first check that it fails, with the figures.
    """
    kind = KINDS[spec.adapter]
    tensors = _read(_files(kind, task.adapter))
    _check_finite(tensors, kind.file)
    _check_config(spec, task)
    tuned = _load(spec, task, tensors)
    found = list(parts(tuned, spec.adapter))
    if left := unlearned(found):
        raise AdapterRejected(
            f"{len(left)} of {len(found)} {kind.folder} tensors are what they began as, first {left[0]}.",
            _LEARN_MORE,
        )
    compared = compare(spec, task, tuned, proof)
    return tuned, GateFigures(
        tensors=len(found), learned=sum(part.learned for part in found), **dataclasses.asdict(compared)
    )


def _files(kind: Kind, folder: Path) -> list[Path]:
    """An adapter has one file; a model may have several, and is rejected for want of tensors where one is missing."""
    return (sorted(folder.glob("model*.safetensors")) if kind.is_full else []) or [folder / kind.file]


def _read(files: Sequence[Path]) -> Tensors:
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            tensors |= load_file(path)
        except (OSError, SafetensorError) as error:
            size = f"of {path.stat().st_size:,} bytes " if path.exists() else ""
            cause = f"{path.name} {size}cannot be read back: {_first_line(error)}."
            raise AdapterRejected(cause, _TRAIN_AGAIN) from error
    if not tensors:
        raise AdapterRejected(f"{files[0].name} holds no tensor.", _TRAIN_AGAIN)
    return tensors


def _check_finite(tensors: Tensors, file: str) -> None:
    broken = {name: tensor for name, tensor in tensors.items() if not torch.isfinite(tensor).all()}
    for name, tensor in broken.items():
        count = int((~torch.isfinite(tensor)).sum())
        raise AdapterRejected(
            f"{file} holds NaN or infinity in {len(broken)} of {len(tensors)} tensors: {count:,} of "
            f"{tensor.numel():,} values in {name}.",
            "Lower JOB_LEARNING_RATE.",
        )


def _check_config(spec: JobSpec, task: EvaluateTask) -> None:
    if KINDS[spec.adapter].is_full:
        _check_model_config(task)
        return
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


def _check_model_config(task: EvaluateTask) -> None:
    try:
        kind = AutoConfig.from_pretrained(task.adapter, trust_remote_code=False).model_type
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterRejected(f"config.json cannot be read back: {_first_line(error)}.", _TRAIN_AGAIN) from error
    trained = AutoConfig.from_pretrained(task.train.model_path, trust_remote_code=False).model_type
    if kind != trained:
        raise AdapterRejected(f"config.json is of a {kind}, and a {trained} was trained.", _TRAIN_AGAIN)


def _load(spec: JobSpec, task: EvaluateTask, tensors: Tensors) -> Tuned:
    """Of a model's parts one that is missing is an error to transformers; what PEFT misses, it makes up."""
    base, kind = load_untouched(spec, task), KINDS[spec.adapter]
    if kind.is_full:
        _check_complete(tensors, weights_of(base), kind.file)
    tuned = _put_together(spec, task, base)
    if not kind.is_full:
        _check_complete(tensors, adapter_of(tuned.model), kind.file)
    return tuned


def _put_together(spec: JobSpec, task: EvaluateTask, base: PreTrainedModel) -> Tuned:
    try:
        return load_tuned(spec, base, task.adapter, task)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError):
            raise  # of the GPU, not of the adapter
        said = "Transformers cannot load the model" if KINDS[spec.adapter].is_full else "PEFT cannot load the adapter"
        raise AdapterRejected(f"{said}: {_first_line(error)}.", _TRAIN_AGAIN) from error


def _check_complete(tensors: Tensors, expected: Tensors, file: str) -> None:
    if missing := sorted(expected.keys() - tensors.keys()):
        raise AdapterRejected(
            f"{file} lacks {len(missing)} of {len(expected)} tensors, first {missing[0]}.", _TRAIN_AGAIN
        )
    if extra := sorted(tensors.keys() - expected.keys()):
        raise AdapterRejected(
            f"{file} holds {_count(extra, 'tensor')} that it should not, first {extra[0]}.", _TRAIN_AGAIN
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise AdapterRejected(
                f"{file}: {name} is of shape {_shape(tensor)}, and has to be {_shape(expected[name])}.", _TRAIN_AGAIN
            )


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def _count(things: Iterable[str], name: str) -> str:
    count = len(list(things))
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_SAID].rstrip(". ")
