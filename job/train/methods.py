"""From records to a trainer that is ready for its first step."""

from collections.abc import Callable

from datasets import Dataset
from transformers import AutoTokenizer

from job.adapters import peft_fields
from job.records import AddedTokens, Plan, TrainTask
from job.rundir import RunDir
from job.spec import JobSpec
from job.train.adapters import peft_config
from job.train.model import load_base
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
    args = sft_config(plan, shared_settings(spec, plan, task, run_dir, len(train_rows)))
    model, tokenizer = load_base(plan, task, args.device), AutoTokenizer.from_pretrained(task.model_path)
    alive()
    added = add_tokens(model, tokenizer, task.chat_template)
    trainer = SftTrainer(
        plan,
        task,
        run_dir,
        model=model,
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
        peft_config=peft_config(
            spec.adapter, peft_fields(spec), model, trainable_token_indices(model, added, spec, plan)
        ),
    )
    alive()
    return trainer, added
