"""From records to a trainer that is ready for its first step."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import AutoTokenizer, PreTrainedModel

from job.adapters import KINDS, peft_fields
from job.records import AddedTokens, Plan, TrainTask
from job.rundir import RunDir
from job.spec import JobSpec
from job.train.adapters import peft_config
from job.train.model import load_base, merged
from job.train.settings import shared_settings
from job.train.sft import SftTrainer, sft_config
from job.train.trainer import AdapterTrainer
from job.train.vocabulary import add_tokens, trainable_token_indices


def make_trainer(
    spec: JobSpec, plan: Plan, task: TrainTask, run_dir: RunDir, alive: Callable[[], None]
) -> tuple[AdapterTrainer, AddedTokens]:
    """The trainer of ``spec.method``, on the base model at ``task.model_path`` with a fresh adapter, and the tokens new
    with it. *alive* is called after whatever takes long."""
    alive()
    train_rows = Dataset.from_file(str(task.data_path / "train.arrow"))
    eval_rows = Dataset.from_file(str(task.data_path / "eval.arrow")) if task.has_eval else None
    # First, as the model is loaded differently under ZeRO-3, and on the device that is chosen here.
    kind, own, args = method_of(spec, plan, task, shared_settings(spec, plan, task, run_dir, len(train_rows)))
    scores = spec.method == "reward"
    full = KINDS[spec.adapter].is_full
    model = load_base(
        plan, task, args.device, scores_from=spec.seed if scores else None, dtype=plan.adapter_dtype if full else None
    )
    start = task.start
    if start and start.how == "merge":
        model = merged(model, start)
    tokenizer = AutoTokenizer.from_pretrained(task.model_path, trust_remote_code=False)
    alive()
    added = add_tokens(model, tokenizer, task.chat_template)
    token_rows = trainable_token_indices(model, added, spec, plan)
    config = None if full else _adapter(spec, model, token_rows)
    if start and start.how == "continue":
        model, config = PeftModel.from_pretrained(model, start.path, is_trainable=True), None
    trainer = kind(
        plan,
        task,
        run_dir,
        model=model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=config,
        **own(args),
    )
    alive()
    return trainer, added


def _adapter(spec: JobSpec, model: PreTrainedModel, token_rows: dict[str, list[int]] | None) -> PeftConfig:
    # Of a model that scores PEFT trains the head whole.
    kind = {"task_type": "SEQ_CLS"} if spec.method == "reward" else {}
    return peft_config(spec.adapter, peft_fields(spec) | kind, model, token_rows)


def method_of(
    spec: JobSpec, plan: Plan, task: TrainTask, settings: dict[str, Any]
) -> tuple[type[AdapterTrainer], Callable[[Any], dict[str, Any]], Any]:
    """The trainer of ``spec.method``, what it is given besides what all are, and its configuration. Each is imported
    where it is used: TRL's trainers take seconds."""
    if spec.method in ("rloo", "grpo"):
        from job.train.rewards import reward_settings

        def rewards(args: Any) -> dict[str, Any]:
            return reward_settings(spec, plan, task.reward_model, args.device)

        if spec.method == "rloo":
            from job.train.rloo import RlooTrainer, rloo_config

            return RlooTrainer, rewards, rloo_config(spec, settings)
        from job.train.grpo import GrpoTrainer, grpo_config

        return GrpoTrainer, rewards, grpo_config(spec, settings)
    if spec.method == "dpo":
        from job.train.dpo import DpoTrainer, dpo_config

        return DpoTrainer, lambda args: {}, dpo_config(spec, plan, settings)
    if spec.method == "kto":
        from job.train.kto import KtoTrainer, kto_config

        return KtoTrainer, lambda args: {}, kto_config(spec, plan, settings)
    if spec.method == "reward":
        from job.train.reward import RewardModelTrainer, reward_config

        return RewardModelTrainer, lambda args: {}, reward_config(spec, plan, settings)
    return SftTrainer, lambda args: {}, sft_config(spec, plan, settings)
