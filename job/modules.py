"""Whether the modules that settings name are in the model, told by its headers before a weight is fetched."""

import difflib
import re
from collections.abc import Iterable

from job.adapters import KINDS, changes_base
from job.errors import BadSpec
from job.parameters import TRANSPOSED, is_mixture, targeted_modules
from job.records import ModelFacts
from job.spec import JobSpec

# PEFT takes weights as they are stored, outputs × inputs, for these.
_NOT_TRANSPOSED = ("loha", "lokr", "oft")


def check_modules(spec: JobSpec, model: ModelFacts) -> None:
    """See that *model* has the modules that *spec* wants to adapt or to train whole, and that they can be.

    Raises:
        BadSpec: it has not, or they cannot; the message names a module that it has.
    """
    adapter = spec.adapter
    if KINDS[adapter].is_prompt or KINDS[adapter].is_full:
        return
    if adapter in _NOT_TRANSPOSED and model.model_type in TRANSPOSED:
        raise BadSpec(
            f"JOB_ADAPTER={adapter} cannot be put on JOB_MODEL={spec.model}: PEFT has none for the modules of a "
            f"{model.model_type}, which store their weights the other way round.",
            "Set JOB_ADAPTER=lora, or ia3 or vera.",
        )
    # The names of a mixture are others in memory, where its experts are one tensor: the worker sees those.
    if not is_mixture(model):
        _check_names("JOB_TARGET_MODULES", spec.model, spec.target_modules, _matrices(model))
        _check_names("JOB_MODULES_TO_SAVE", spec.model, spec.modules_to_save, _modules(model))
    if changes_base(spec):
        _check_rank(spec, model)


def _check_names(variable: str, model: str, asked: Iterable[str], known: set[str]) -> None:
    for name in asked:
        if name == "all-linear" or any(f".{module}".endswith(f".{_starred(name)}") for module in known):
            continue
        words = sorted({module.rsplit(".", 1)[-1] for module in known} - {"*"})
        close = difflib.get_close_matches(name.rsplit(".", 1)[-1], words, n=1)
        raise BadSpec(
            f"{variable}={','.join(asked)} names {name}, which JOB_MODEL={model} does not have.",
            f"Did you mean {close[0]}?" if close else f"It has {', '.join(words)}.",
        )


def _check_rank(spec: JobSpec, model: ModelFacts) -> None:
    """A weight has no more directions to take than its shorter side; PEFT would publish fewer than its config says."""
    shortest = min((min(group.shape) for group in targeted_modules(model, spec.target_modules)), default=spec.lora_r)
    if spec.lora_r > shortest:
        raise BadSpec(
            f"JOB_LORA_R={spec.lora_r} is more than the {shortest} directions that the narrowest adapted module of "
            f"JOB_MODEL={spec.model} has to give to JOB_INIT_LORA_WEIGHTS={spec.init_lora_weights}.",
            f"Set JOB_LORA_R={shortest} or less, or leave JOB_INIT_LORA_WEIGHTS unset.",
        )


def _matrices(model: ModelFacts) -> set[str]:
    """Names of modules with a matrix: linear ones and embeddings."""
    matrices = (group.name for group in model.tensors if len(group.shape) == 2 and group.name.endswith(".weight"))
    return {name.removesuffix(".weight") for name in matrices}


def _modules(model: ModelFacts) -> set[str]:
    """Names of all modules, and of a head that is tied to the embedding, which has no tensor of its own."""
    found = {"lm_head"}
    for group in model.tensors:
        parts = group.name.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts))}
    return found


def _starred(name: str) -> str:
    return re.sub(r"\d+", "*", name)
