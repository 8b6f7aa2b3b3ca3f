"""TRL's trainer with what an adapter needs under every strategy."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import TrainerState
from trl import SFTTrainer

from job.checkpoints import is_complete
from job.compatibility import adapter_dtypes
from job.errors import Bug
from job.records import Plan, TrainTask
from job.train.fsdp import gather_head, leave_outputs_unrounded
from job.train.model import DTYPES, hold_adapter_in
from job.train.proof import TOKEN_ROWS
from job.train.save import save_adapter, whole_adapter
from job.train.vocabulary import show_bias


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]
    """Holds the adapter in the plan's dtype, and saves it whole."""

    def __init__(self, plan: Plan, task: TrainTask, **settings: Any) -> None:
        super().__init__(**settings)
        self.plan, self.task = plan, task
        self._check_strategy()
        self.resumed_at_step = self._recall(task.resume_from) if task.resume_from else 0
        show_bias(self.model)
        hold_adapter_in(self.model, DTYPES[plan.adapter_dtype])
        if plan.strategy == "fsdp":
            leave_outputs_unrounded(self.accelerator, plan)
            gather_head(self.model)

    def _check_strategy(self) -> None:
        """Raises:
        Bug: upstream would run the plan in another way, or hold the adapter in another dtype, and say nothing.
        """
        plan, wrapped = self.plan, (self.is_fsdp_enabled, self.is_deepspeed_enabled)
        if wrapped != (plan.strategy == "fsdp", plan.strategy in ("zero2", "zero3")):
            kind = self.accelerator.distributed_type.value
            raise Bug(f"The plan says {plan.strategy}, but accelerate runs {kind} here.", "Set JOB_STRATEGY=ddp.")
        if plan.adapter_dtype not in adapter_dtypes(plan.strategy, plan.quantization, plan.precision):
            base = f"a {plan.precision} base with quantization {plan.quantization} under {plan.strategy}"
            raise Bug(f"An adapter cannot be held in {plan.adapter_dtype} over {base}.", "Set JOB_QUANTIZATION=none.")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """PEFT brings adapters of 16 bits back in float32, and the run would go on with other numbers."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        hold_adapter_in(self.model, DTYPES[self.plan.adapter_dtype])

    def _recall(self, checkpoint: Path) -> int:
        """Count tokens on from *checkpoint*, as upstream counts steps; its step.

        Raises:
            Bug: it is not complete. Upstream would start the optimizer afresh and say nothing.
        """
        if not is_complete(checkpoint, self.plan):
            raise Bug(f"The checkpoint {checkpoint} lacks files that {self.plan.strategy} needs.", "Remove it.")
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        counts = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        self._total_train_tokens = int(counts[-1]) if counts else 0
        return int(state.global_step)

    @property
    def adapted_model(self) -> PeftModel:
        """The model without what a strategy wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Rows of new tokens are left out: weight decay pulls to zero, and they begin at a mean."""
        return [name for name in super().get_decay_parameter_names(model) if TOKEN_ROWS not in name]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter alone, also into checkpoints; every rank must call it. Upstream gathers the whole base model to
        the first rank's memory under FSDP, and leaves ``training_args.bin`` behind, which can hold credentials."""
        tensors = whole_adapter(self.adapted_model)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_adapter(self.adapted_model, tensors, self.processing_class, self.task, folder)
