"""Plans for real models on real GPUs, in one table that a person can judge: ``python -m tests.plans`` writes
``tests/golden/plans.md``.

Every case has the same rows, and a global batch that eight GPUs can share.
"""

from pathlib import Path

from job.errors import BadSpec
from job.facts.gpus import parse_gpus
from job.plan import make_plan
from job.records import DatasetFacts, Facts, HardwareFacts, PackingProbe, Plan
from job.spec import JobSpec
from tests.models import golden_dry_run, golden_facts

PLANS = Path(__file__).parent / "golden" / "plans.md"
# Lengths of a usual chat dataset: half of the rows below 300 tokens, one in twenty above 1,200.
LENGTHS = (20, 60, 90, 120, 145, 170, 195, 220, 245, 270, 300, 335, 375, 420, 475, 545, 630, 740, 900, 1200, 2048)
ROWS = DatasetFacts(
    rows=10_000, epoch_rows=10_000, sampled=False, mean_tokens=420, max_tokens=2048, lengths=LENGTHS, trained_share=0.5,
    format="messages", format_reason="",
)  # fmt: skip
CASES = (
    ("Qwen2.5-0.5B", "T4"), ("Qwen2.5-0.5B", "4xT4"), ("Qwen2.5-0.5B", "RTX3090"),
    ("Llama-3.2-1B", "T4"), ("Llama-3.2-1B", "L4"), ("Llama-3.2-1B", "2xRTX4090"), ("Llama-3.2-1B", "H100"),
    ("gemma-2-2b-it", "T4"), ("gemma-2-2b-it", "L4"), ("phi-2", "RTX3090"),
    ("Qwen3-4B", "T4"), ("Qwen3-4B", "A10G"), ("Qwen3-4B", "RTX5090"), ("Qwen3-4B", "8xL4"),
    ("Mistral-7B-v0.3", "T4"), ("Mistral-7B-v0.3", "2xT4"), ("Mistral-7B-v0.3", "RTX4090"), ("Mistral-7B-v0.3", "L40S"),
    ("gemma-7b", "A10G"), ("gemma-7b", "RTX6000"),
    ("Llama-3.1-8B", "L4"), ("Llama-3.1-8B", "4xL4"), ("Llama-3.1-8B", "RTX5090"), ("Llama-3.1-8B", "A100-40GB"),
    ("Llama-3.1-8B", "H100"), ("Llama-3.1-8B", "8xH100"), ("Llama-3.1-8B", "8xRTX4090"),
    ("Qwen3-8B", "A10G"), ("Qwen3-8B", "2xL40S"), ("Qwen3-8B", "H200"),
    ("Qwen2.5-14B", "RTX4090"), ("Qwen2.5-14B", "2xRTX4090"), ("Qwen2.5-14B", "A100-40GB"), ("phi-4", "L40S"),
    ("gemma-2-27b-it", "RTX5090"), ("gemma-2-27b-it", "A100-80GB"), ("gemma-2-27b-it", "4xRTX6000"),
    ("Qwen2.5-32B", "RTX3090"), ("Qwen2.5-32B", "A100-80GB"), ("Qwen2.5-32B", "RTX-PRO-6000"),
    ("Qwen2.5-32B", "8xA10G"),
    ("Qwen3-30B-A3B", "L40S"), ("Qwen3-30B-A3B", "H100"), ("Mixtral-8x7B-v0.1", "2xA100-80GB"),
    ("Mixtral-8x7B-v0.1", "H200"),
    ("Llama-3.3-70B-Instruct", "2xRTX4090"), ("Llama-3.3-70B-Instruct", "8xL4"), ("Llama-3.3-70B-Instruct", "H100"),
    ("Llama-3.3-70B-Instruct", "8xA100-40GB"), ("Llama-3.3-70B-Instruct", "8xH100"), ("Llama-3.3-70B-Instruct", "B200"),
    ("Llama-3.3-70B-Instruct", "T4"),
    ("Qwen3-235B-A22B", "8xH100"), ("Qwen3-235B-A22B", "8xH200"),
    ("Llama-3.1-405B", "8xH100"), ("Llama-3.1-405B", "8xH200"), ("Llama-3.1-405B", "8xB200"), ("Llama-3.1-405B", "L4"),
)  # fmt: skip


def facts_for(model: str, gpus: str) -> Facts:
    return Facts(
        hardware=HardwareFacts(gpus=parse_gpus(gpus)),
        model=golden_facts(model),
        dataset=ROWS,
        packing=PackingProbe(isolated=True, reason=""),
        dry_run=golden_dry_run(model),
    )


def plan_for(model: str, gpus: str, **settings: object) -> Plan:
    spec = JobSpec(model=f"org/{model}", dataset_uri="org/rows", global_batch_size=64, **settings)
    return make_plan(spec, facts_for(model, gpus))


def table() -> str:
    head = ("model", "GPUs", "strategy", "base", "offload", "packed", "checkpointing", "micro-batch", "GiB", "tokens/s")
    rows = [head, tuple("---" for _ in head)] + [_row(model, gpus) for model, gpus in CASES]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _row(model: str, gpus: str) -> tuple[str, ...]:
    try:
        plan = plan_for(model, gpus)
    except BadSpec as error:
        return (model, gpus, "none", *[""] * 5, "", error.fix)
    assert plan.memory
    assert plan.forecast
    return (
        model, gpus, plan.strategy, plan.quantization, _yes(plan.cpu_offload), _yes(plan.packing),
        _yes(plan.gradient_checkpointing), f"{plan.per_device_train_batch_size} × {plan.gradient_accumulation_steps}",
        f"{plan.memory.total_gib:.1f} of {plan.memory.limit_gib:.1f}", f"{plan.forecast.tokens_per_s:,.0f}",
    )  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else ""


if __name__ == "__main__":
    PLANS.write_text(table())
