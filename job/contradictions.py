"""Settings that are valid one by one, and cannot be meant together."""

import difflib
from collections.abc import Iterable, Iterator

from job.adapters import KINDS, SPECIAL, changes_base, have
from job.answers import of_answers
from job.compatibility import EVERY, OPTIMIZERS_OF, can_checkpoint, can_pack, objection, quantizations
from job.methods import METHODS, methods_with
from job.optimizers import OPTIMIZERS
from job.peft_args import problems_of
from job.rewards import of_rewards
from job.schedules import schedule_problem
from job.settings import Settings
from job.trl_names import CONFIG_FIELDS, LOSS_TYPES


def contradictions(spec: Settings) -> Iterator[str]:
    """Every one in *spec*, as a sentence without its full stop that names the settings and the next thing to try."""
    yield from _of_inputs(spec)
    yield from _of_method(spec)
    yield from _of_preferences(spec)
    yield from _of_losses(spec)
    yield from _of_start(spec)
    if METHODS[spec.method].draws:
        yield from of_rewards(spec)
    yield from _of_adapter(spec)
    if KINDS[spec.adapter].is_full:
        yield from _of_all_weights(spec)
    yield from _of_optimization(spec)
    yield from _of_evaluation(spec)
    yield from _of_running(spec)


def _of_inputs(spec: Settings) -> Iterator[str]:
    if spec.dataset_weights and len(spec.dataset_weights) != len(spec.dataset_uri):
        yield (
            f"JOB_DATASET_WEIGHTS has {len(spec.dataset_weights)} numbers for the {len(spec.dataset_uri)} sources "
            "of JOB_DATASET_URI; give one for each"
        )


def _of_method(spec: Settings) -> Iterator[str]:
    method, name = METHODS[spec.method], spec.method
    for setting in sorted(set().union(*(one.settings for one in METHODS.values()))):
        if getattr(spec, setting) not in (None, (), {}) and setting not in method.settings:
            yield f"JOB_{setting.upper()} is not for JOB_METHOD={name}; {_and(methods_with(setting))} have it"
    if spec.format and spec.format not in method.formats:
        yield f"JOB_FORMAT={spec.format} is nothing that JOB_METHOD={name} learns from; it needs {_or(method.formats)}"
    if name != "sft":
        if spec.packing is True:
            yield f"JOB_PACKING=true is not for JOB_METHOD={name}, whose answers stand alone; leave it unset"
        if spec.response_template:
            yield f"JOB_RESPONSE_TEMPLATE is for rows of text, which JOB_METHOD={name} does not learn from; unset it"
        if spec.lora_dropout and spec.trainer_args.get("disable_dropout", True):
            yield (
                f"JOB_LORA_DROPOUT={spec.lora_dropout:g} is turned off by TRL with JOB_METHOD={name}; leave it unset, "
                'or set JOB_TRAINER_ARGS={"disable_dropout": false}'
            )
    for field in spec.trainer_args:
        if field not in CONFIG_FIELDS[name]:
            close = difflib.get_close_matches(field, CONFIG_FIELDS[name], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "remove it"
            yield f"JOB_TRAINER_ARGS: {field!r} is not a field of TRL's {method.config}; {hint}"


def _of_preferences(spec: Settings) -> Iterator[str]:
    method, name = METHODS[spec.method], spec.method
    asked = spec.per_device_train_batch_size
    if asked and asked < method.least:
        yield (
            f"JOB_PER_DEVICE_TRAIN_BATCH_SIZE={asked} is too small for JOB_METHOD={name}, which compares the rows of "
            f"a micro-batch; set {method.least} or more"
        )
    if name == "reward" and KINDS[spec.adapter].is_prompt:
        yield f"JOB_ADAPTER={spec.adapter} trains no head, which JOB_METHOD=reward needs; use lora"


def _of_start(spec: Settings) -> Iterator[str]:
    if spec.adapter_start and not spec.adapter_uri:
        yield f"JOB_ADAPTER_START={spec.adapter_start} has nothing to start from; set JOB_ADAPTER_URI too"
    if spec.adapter_start == "continue" and METHODS[spec.method].start != "continue":
        yield (
            f"JOB_ADAPTER_START=continue is not for JOB_METHOD={spec.method}, whose reference or base is the model "
            "that the adapter makes; use merge"
        )
    if spec.adapter_start == "merge" and (spec.adapter == "qlora" or spec.quantization not in ("auto", "none")):
        name = "JOB_ADAPTER=qlora" if spec.adapter == "qlora" else f"JOB_QUANTIZATION={spec.quantization}"
        yield (
            f"JOB_ADAPTER_START=merge contradicts {name}: the sum with the adapter would be rounded once more; use "
            "JOB_QUANTIZATION=none, or merge it yourself and name the result in JOB_MODEL"
        )
    if spec.adapter_start and spec.strategy == "zero3":
        yield "JOB_STRATEGY=zero3 shares the base before an adapter can be added; use fsdp with JOB_ADAPTER_URI"


def _of_losses(spec: Settings) -> Iterator[str]:
    """Of names that TRL knows, and what it raises only when the model is loaded."""
    known = LOSS_TYPES.get(spec.method, ())
    for loss_type in spec.loss_type if known else ():
        if loss_type not in known:
            close = difflib.get_close_matches(loss_type, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use {_or(known)}"
            yield f"JOB_LOSS_TYPE={loss_type} is not a loss of TRL's {METHODS[spec.method].config}; {hint}"
    if len(spec.loss_type) > 1 and spec.method != "dpo":
        yield f"JOB_LOSS_TYPE={','.join(spec.loss_type)}: JOB_METHOD={spec.method} has one loss; name one"
    if spec.method != "dpo":
        return
    args = spec.trainer_args
    weights = args.get("loss_weights")
    if weights is not None and len(weights) != len(spec.loss_type):
        yield f'JOB_TRAINER_ARGS: "loss_weights" has {len(weights)} numbers for {len(spec.loss_type)} of JOB_LOSS_TYPE'
    if "exo_pair" in spec.loss_type and not args.get("label_smoothing"):
        yield 'JOB_LOSS_TYPE=exo_pair needs JOB_TRAINER_ARGS={"label_smoothing": 0.001}'
    if args.get("use_weighting") and {"aot", "aot_unpaired"} & set(spec.loss_type):
        yield 'JOB_LOSS_TYPE=aot sorts rows, which contradicts "use_weighting" in JOB_TRAINER_ARGS; remove one'
    if spec.beta == 0:
        yield "JOB_BETA=0 leaves nothing to learn from pairs; set it above 0, such as 0.1"


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)


def _or(names: Iterable[str]) -> str:
    return " or ".join(names)


def _of_adapter(spec: Settings) -> Iterator[str]:
    if spec.adapter == "qlora" and spec.quantization not in ("auto", "nf4"):
        yield f"JOB_ADAPTER=qlora contradicts JOB_QUANTIZATION={spec.quantization}; use lora, or leave it unset"
    elif reason := _never(spec):
        yield reason
    yield from _of_other_adapters(spec)
    yield from problems_of(spec.adapter, spec.peft_args)
    yield from _of_modules(spec)
    if spec.target_modules == ("all-linear",) and (layers := [name for name in spec.peft_args if "layers_" in name]):
        yield f"JOB_PEFT_ARGS: {layers[0]!r} needs modules by name; set JOB_TARGET_MODULES=q_proj,v_proj or others"
    if changes_base(spec) and (patterns := [name for name in spec.peft_args if name.endswith("_pattern")]):
        yield (
            f"JOB_INIT_LORA_WEIGHTS={spec.init_lora_weights} cannot be published with {patterns[0]} of JOB_PEFT_ARGS; "
            "leave one of them out"
        )
    if spec.gradient_checkpointing is True and not can_checkpoint(spec):
        yield (
            f"JOB_GRADIENT_CHECKPOINTING=true contradicts JOB_ADAPTER={spec.adapter}, whose cache of keys and values "
            "cannot be recomputed; leave it unset"
        )
    if spec.packing is True and not can_pack(spec):
        yield (
            f"JOB_PACKING=true contradicts JOB_ADAPTER={spec.adapter}: its virtual tokens would stand before the first "
            "row of a pack alone; leave it unset"
        )


def _of_all_weights(spec: Settings) -> Iterator[str]:
    """What an adapter makes possible: a base that is still there."""
    if spec.beta:
        others = "; set JOB_BETA=0, or use lora" if METHODS[spec.method].draws else "; use lora"
        yield (
            f"JOB_ADAPTER=full leaves JOB_METHOD={spec.method} no reference, which is the base below an adapter{others}"
        )
    if spec.adapter_uri:
        yield (
            "JOB_ADAPTER=full has no adapter that could start from JOB_ADAPTER_URI; merge that one into its base "
            "yourself and name the result in JOB_MODEL"
        )
    if spec.cpu_offload is True:
        yield (
            "JOB_CPU_OFFLOAD=true contradicts JOB_ADAPTER=full, whose weights would all be updated by the CPU; leave "
            "it unset, or use lora"
        )
    if spec.load_best_model_at_end and _evaluates(spec):
        yield (
            "JOB_LOAD_BEST_MODEL_AT_END=true would hold all weights of JOB_ADAPTER=full twice in every process; leave "
            "it unset, and stop soon after the best with JOB_EARLY_STOPPING_PATIENCE"
        )


def _never(spec: Settings) -> str | None:
    """Why nothing that *spec* leaves open can be had."""
    strategies = [one for one in EVERY if spec.strategy in ("auto", one)]
    ways = [(strategy, quantization) for quantization in quantizations(spec) for strategy in strategies]
    reasons = [objection(spec, *way) for way in ways]
    if None in reasons:
        return None
    asked = [f"JOB_ADAPTER={spec.adapter}"]
    asked += [f"JOB_QUANTIZATION={spec.quantization}"] if spec.quantization not in ("auto", "none") else []
    asked += [f"JOB_STRATEGY={spec.strategy}"] if spec.strategy != "auto" else []
    others = [q for q in ("none", "int8", "nf4") if any(objection(spec, s, q) is None for s in strategies)]
    fix = f"set JOB_QUANTIZATION={others[0]}" if others and spec.adapter != "qlora" else "set JOB_STRATEGY=auto"
    return f"{' with '.join(asked)} cannot be trained: {reasons[0]}; {fix}"


def _of_other_adapters(spec: Settings) -> Iterator[str]:
    for name in SPECIAL:
        value, kind = getattr(spec, name), KINDS[spec.adapter]
        if value != type(spec).model_fields[name].default and name not in kind.settings:
            shown = ",".join(value) if isinstance(value, tuple) else str(value).lower()
            hint = f"; {', '.join(kind.fields)} are set by JOB_PEFT_ARGS" if kind.fields else ""
            yield (
                f"JOB_{name.upper()}={shown} is for JOB_ADAPTER={' or '.join(have(name))}, and {spec.adapter} has no "
                f"such option; leave it unset{hint}"
            )


def _of_modules(spec: Settings) -> Iterator[str]:
    if "all-linear" in spec.target_modules and len(spec.target_modules) > 1:
        yield f"JOB_TARGET_MODULES={','.join(spec.target_modules)} names modules beside all-linear; keep one of them"
    if heads := [name for name in spec.target_modules if name.split(".")[-1] in ("lm_head", "embed_out")]:
        yield (
            f"JOB_TARGET_MODULES={','.join(spec.target_modules)} would adapt the head, which the fused loss never "
            f"calls, so it would learn nothing; set JOB_MODULES_TO_SAVE={heads[0]} to train it whole"
        )
    if both := sorted(set(spec.target_modules) & set(spec.modules_to_save)):
        yield f"JOB_TARGET_MODULES and JOB_MODULES_TO_SAVE both name {both[0]}; leave it out of one of them"


def _of_evaluation(spec: Settings) -> Iterator[str]:
    if spec.eval_fraction and spec.eval_dataset_uri:
        yield "JOB_EVAL_FRACTION and JOB_EVAL_DATASET_URI are both set; keep one of them"

    if not _evaluates(spec):
        for name in ("early_stopping_patience", "eval_steps", "eval_generate", "eval_samples"):
            if getattr(spec, name):
                yield f"JOB_{name.upper()} is set without rows to evaluate on; set JOB_EVAL_FRACTION=0.05 too"
    yield from of_answers(spec)
    if spec.early_stopping_threshold and not spec.early_stopping_patience:
        yield "JOB_EARLY_STOPPING_THRESHOLD is set without JOB_EARLY_STOPPING_PATIENCE; set it too"


def _evaluates(spec: Settings) -> bool:
    return bool(spec.eval_fraction or spec.eval_dataset_uri)


def _of_optimization(spec: Settings) -> Iterator[str]:
    if problem := schedule_problem(spec.lr_scheduler_type, spec.lr_scheduler_kwargs):
        yield f"JOB_LR_SCHEDULER_TYPE={spec.lr_scheduler_type} {problem}"
    if spec.lr_scheduler_type == "reduce_lr_on_plateau" and not _evaluates(spec):
        yield "JOB_LR_SCHEDULER_TYPE=reduce_lr_on_plateau goes by evaluations; set JOB_EVAL_FRACTION=0.05 too"


def _of_running(spec: Settings) -> Iterator[str]:
    if spec.max_cost and not spec.gpu_hour_price:
        yield "JOB_MAX_COST is set without a price; set JOB_GPU_HOUR_PRICE too"
    if spec.strategy == "single" and (spec.num_processes or 1) > 1:
        yield f"JOB_STRATEGY=single contradicts JOB_NUM_PROCESSES={spec.num_processes}; use ddp"
    if spec.cpu_offload is True and spec.strategy not in ("auto", "fsdp", "zero3"):
        yield f"JOB_CPU_OFFLOAD=true contradicts JOB_STRATEGY={spec.strategy}; use fsdp or zero3"
    if spec.optim not in ("auto", *OPTIMIZERS_OF.get(spec.strategy, OPTIMIZERS)):
        yield (
            f"JOB_STRATEGY={spec.strategy} cannot run JOB_OPTIM={spec.optim}, whose states it cannot share; use "
            f"{' or '.join(OPTIMIZERS_OF[spec.strategy])}"
        )
    if spec.quantization == "int8" and spec.strategy == "fsdp":
        yield (
            "JOB_STRATEGY=fsdp cannot share a base with JOB_QUANTIZATION=int8, whose scales are lost on the way; "
            "use JOB_QUANTIZATION=nf4, or JOB_STRATEGY=zero3"
        )
    if spec.quantization == "int8" and spec.strategy == "auto" and spec.cpu_offload is True:
        yield (
            "JOB_CPU_OFFLOAD=true is done by fsdp, which contradicts JOB_QUANTIZATION=int8; leave JOB_CPU_OFFLOAD "
            "unset, or use JOB_QUANTIZATION=none"
        )
    if spec.num_processes and spec.global_batch_size % spec.num_processes:
        yield (
            f"JOB_GLOBAL_BATCH_SIZE={spec.global_batch_size} cannot be shared by "
            f"JOB_NUM_PROCESSES={spec.num_processes}; make it a multiple"
        )
