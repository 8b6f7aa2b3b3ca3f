"""The adapter folder as it will be published: nothing in it names a path of this machine."""

import json
from pathlib import Path

from trl import SFTTrainer

from job.records import TrainTask
from job.rundir import write_json


def save_adapter(trainer: SFTTrainer, task: TrainTask, folder: Path) -> None:
    """Write ``adapter_model.safetensors``, ``adapter_config.json`` and the tokenizer with its chat template."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    # "auto" would add both whole matrices where they were resized; the adapter holds the rows that are new.
    new_tokens = model.peft_config["default"].trainable_token_indices is not None
    model.save_pretrained(folder, save_embedding_layers=False if new_tokens else "auto")
    trainer.processing_class.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card; the job writes its own
    _name_base(folder / "adapter_config.json", task)


def _name_base(config_path: Path, task: TrainTask) -> None:
    config = json.loads(config_path.read_text())
    config["base_model_name_or_path"] = task.base_model_name
    config["revision"] = task.base_model_revision
    write_json(config_path, config)
