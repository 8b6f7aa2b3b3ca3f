"""Every way of running the job that its spec allows, with the memory it needs and the speed it gives."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from job.activations import Adapter, activations, formula_holds, is_masked
from job.adapters import KINDS
from job.batch import MAX_SHARE, Batch
from job.compatibility import adapter_dtypes, can_checkpoint, can_offload, quantizations, settled_optim, works
from job.facts.gpus import GpuSpeed, speed_of
from job.memory import BYTES, Setup, cache_per_token, estimate
from job.methods import METHODS
from job.parameters import Parameters
from job.records import Activations, Facts, MemoryEstimate, Precision, Quantization, Strategy
from job.spec import JobSpec
from job.speed import micro_step_s

# Larger micro-batches gain little throughput on one GPU and cost activation memory linearly.
MAX_PER_DEVICE = MAX_SHARE
# For GPUs whose speed nobody has written down: only the order of the candidates depends on it.
UNKNOWN_GPU = GpuSpeed(tflops=100, memory_gb_s=1000, link_gb_s=32, host_gb_s=32)


@dataclass(frozen=True)
class Case:
    """What is settled before the choice."""

    spec: JobSpec
    facts: Facts
    parameters: Parameters
    num_processes: int
    batch: Batch
    precision: Precision


@dataclass(frozen=True)
class Way:
    """What tells one way of running a job from another, apart from the size of the micro-batch."""

    strategy: Strategy
    quantization: Quantization
    cpu_offload: bool = False


@dataclass(frozen=True)
class Candidate:
    """A way to run the job in all detail, with what it needs and gives."""

    setup: Setup
    memory: MemoryEstimate
    tokens_per_s: float  # over all GPUs, padding left out

    @property
    def way(self) -> Way:
        return Way(self.setup.strategy, self.setup.quantization, self.setup.cpu_offload)


def ways(case: Case) -> Iterator[Way]:
    """The ways that *case* leaves open, in order of preference.

    The order is that of traffic. With ``single`` and ``ddp`` nothing but the adapter's gradients moves between GPUs;
    ``fsdp`` brings the base together in every pass; offloaded, it also crosses from the host each time. A 4-bit base
    is taken before the host's memory is, which holds the base in 16 bits.
    """
    spec = case.spec
    parallel: list[Strategy] = ["ddp", "fsdp"] if case.num_processes > 1 else ["single"]
    strategies = parallel if spec.strategy == "auto" else [spec.strategy]
    sharded: Strategy = "zero3" if spec.strategy == "zero3" else "fsdp"
    for quantization in quantizations(spec):
        for strategy in strategies:
            if spec.cpu_offload is not True and works(spec, strategy, quantization):
                yield Way(strategy, quantization)
    # A quantized base is whole on each GPU while it is loaded: where that fits, nothing need be offloaded.
    exact = quantizations(spec)[0]
    if (
        spec.cpu_offload is not False
        and can_offload(spec)
        and spec.strategy in ("auto", sharded)
        and works(spec, sharded, exact)
    ):
        yield Way(sharded, exact, cpu_offload=True)


def candidates(case: Case, way: Way) -> list[Candidate]:
    """*way* with every micro-batch that divides a process's share, each with activations kept and recomputed."""
    asked = case.spec.gradient_checkpointing if can_checkpoint(case.spec) else False
    return [
        candidate(case, way, checkpointing, per_device)
        for checkpointing in ([False, True] if asked == "auto" else [asked])
        for per_device in per_device_sizes(case)
    ]


def per_device_sizes(case: Case) -> list[int]:
    """Rows or packs of one forward pass."""
    if case.spec.per_device_train_batch_size:
        return [case.spec.per_device_train_batch_size]
    # A device's packs are flattened into one row, whose attention mask grows with the square of their number.
    most = 1 if case.batch.packing else MAX_PER_DEVICE
    least = METHODS[case.spec.method].least
    return [size for size in range(least, most + 1) if case.batch.share % size == 0]


def candidate(case: Case, way: Way, checkpointing: bool, per_device: int) -> Candidate:
    """*way* with its micro-batch, on the smallest and the slowest of the GPUs."""
    method = METHODS[case.spec.method]
    setup = Setup(
        strategy=way.strategy,
        num_processes=case.num_processes,
        quantization=way.quantization,
        precision=case.precision,
        adapter_dtype=adapter_dtype(case.spec, way, case.precision),
        cpu_offload=way.cpu_offload,
        gradient_checkpointing=checkpointing,
        per_device=per_device,
        length=case.batch.longest,
        packing=case.batch.packing,
        masked=is_masked(
            case.facts.model.config, case.batch.longest, per_device * method.sequences > 1, case.batch.packing
        ),
        optim=settled_optim(case.spec.optim, way.strategy, way.quantization),
        dropout=case.spec.lora_dropout > 0,
        drawn=case.batch.share if case.spec.num_generations else 0,
        cache_per_token=cache_per_token(case.facts.model.config, case.precision),
        reward_bytes=BYTES[case.precision] * case.facts.reward_parameters,
        vocabulary=int(case.facts.model.config.get("vocab_size") or 0),
        sequences=method.sequences,
        forwards=method.forwards,
        scores=case.spec.method == "reward",
        full=KINDS[case.spec.adapter].is_full,
    )
    smallest_gib = min(gpu.memory_gib for gpu in case.facts.hardware.gpus)
    memory = estimate(case.parameters, _activations(case, setup), setup, smallest_gib)
    return Candidate(setup, memory, _tokens_per_s(case, setup))


def adapter_dtype(spec: JobSpec, way: Way, precision: Precision) -> Precision:
    """Upstream's habit, as far as it works: PEFT keeps an adapter in 32 bits beside a 16-bit base, and over a quantized
    one TRL casts it to bf16. That suits what begins at zero; values near 1, as those of (IA)³, of DoRA's lengths and of
    whole modules, are further apart in bf16 than a step moves them."""
    possible = adapter_dtypes(way.strategy, way.quantization, precision)
    from_zero = "lora_r" in KINDS[spec.adapter].settings and not spec.use_dora and not spec.modules_to_save
    return "bf16" if way.quantization != "none" and from_zero and "bf16" in possible else possible[0]


def _activations(case: Case, setup: Setup) -> Activations:
    """By the formula; for an architecture that it does not know by the dry run; and where that failed by a rule of
    thumb: 34 bytes for each element of a layer's input (Korthikanti et al., arXiv 2205.05198, equation 1, without the
    scores that fused attention does not keep)."""
    spec = case.spec
    dtype: Precision = "fp32" if setup.autocasts else "bf16"
    targets = () if KINDS[spec.adapter].is_prompt else spec.target_modules
    adapter = Adapter(dtype, spec.lora_r, spec.lora_dropout, targets)
    # A device's packs are flattened into one row.
    row = setup.tokens if setup.packing else setup.length
    if formula_holds(spec, case.facts.model.config):
        found = activations(case.facts.model.config, adapter, row, setup.masked)
        if found is not None:
            return found
    if (dry_run := case.facts.dry_run) and dtype in dry_run.activations:
        # Without the casts of a 32-bit adapter, which are the adapter's line.
        return _with_fixed(dry_run.activations[dtype], dry_run.fixed["bf16"], setup.tokens)
    hidden, layers = case.parameters.hidden, case.parameters.layers
    return Activations(
        saved=34 * hidden * layers, boundary=2 * hidden * layers, layer=34 * hidden, transient=34 * hidden,
        source="rule of thumb",
    )  # fmt: skip


def _with_fixed(found: Activations, fixed: Activations, tokens: int) -> Activations:
    """*found*, with what is there whatever the tokens spread over them: experts merged with their adapters."""
    parts = ("saved", "boundary", "layer", "transient")
    return Activations(
        **{part: getattr(found, part) + getattr(fixed, part) / tokens for part in parts}, source=found.source
    )


def _tokens_per_s(case: Case, setup: Setup) -> float:
    """Real tokens of a usual micro-batch over the time that the slowest GPU takes for it."""
    real, padded = _usual_tokens(case, setup)
    usual = replace(setup, length=max(1, round(padded / (setup.per_device * setup.sequences))))
    speeds = {speed_of(gpu) or UNKNOWN_GPU for gpu in case.facts.hardware.gpus}
    return setup.num_processes * real / max(micro_step_s(case.parameters, usual, speed) for speed in speeds)


def _usual_tokens(case: Case, setup: Setup) -> tuple[float, float]:
    """Tokens of a usual micro-batch: those of its rows, and with the padding up to its longest row."""
    if setup.packing:
        return setup.tokens, setup.tokens
    # Of a pair both sequences are as long as the longer one.
    dataset, size, each = case.facts.dataset, setup.per_device, setup.sequences
    longest = expected_longest(dataset.lengths, dataset.mean_tokens / each, size)
    return size * dataset.mean_tokens, size * each * longest


def expected_longest(lengths: tuple[int, ...], mean: float, size: int) -> float:
    """Tokens to expect of the longest of *size* random rows, whose *lengths* stand in steps of equal share.

    The largest of n draws lies below quantile u with probability u^n (order statistics).
    """
    if len(lengths) < 2 or size == 1:
        return mean
    steps = len(lengths) - 1
    chances = [(i / steps) ** size for i in range(steps + 1)]
    return sum((lengths[i] + lengths[i + 1]) / 2 * (chances[i + 1] - chances[i]) for i in range(steps))
