"""What the trained model in memory makes of a few rows: what its file has to make of them too, loaded anew."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn

from job.rundir import RunDir
from job.train.save import has_untouched_base
from job.train.trainer import AdapterTrainer

ROWS, TOKENS = 4, 64
# Of each row, at its end: what stands before has its say in them, and a vocabulary's logits are half a megabyte each.
KEPT = 8
# Columns that one sequence is made of, as the methods' rows have them.
_PARTS = ("prompt_ids", "input_ids", "chosen_ids", "completion_ids")

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ProofRow:
    """Tokens of shape (tokens,), and logits as `last_logits` gives them: of the trained model, and of its base."""

    ids: torch.Tensor
    tuned: torch.Tensor
    base: torch.Tensor | None  # None: it is gone, trained itself or without what the adapter has taken


def leave_proof_logits(trainer: AdapterTrainer, run_dir: RunDir) -> None:
    """Write the logits of the first trained rows, or their rewards, with their tokens. Every rank must call it, as the
    model may be spread over all of them."""
    model: nn.Module = trainer.model_wrapped
    was_training = model.training
    model.eval()
    proof: Tensors = {}
    with trainer.compute_loss_context_manager():
        for number, ids in enumerate(_first_rows(trainer.task.data_path / "train.arrow")):
            row = torch.tensor(ids)
            on_device = row.to(trainer.args.device)
            proof |= {f"ids.{number}": row, f"tuned.{number}": last_logits(model, on_device)}
            if has_untouched_base(trainer.adapted_model):
                with trainer.adapted_model.disable_adapter():
                    proof[f"base.{number}"] = last_logits(model, on_device)
    model.train(was_training)
    if trainer.is_world_process_zero():
        save_file(proof, run_dir.proof_logits)


def read_proof_logits(path: Path) -> list[ProofRow]:
    """What `leave_proof_logits` wrote."""
    proof = load_file(path)
    count = sum(name.startswith("ids.") for name in proof)
    return [ProofRow(proof[f"ids.{n}"], proof[f"tuned.{n}"], proof.get(f"base.{n}")) for n in range(count)]


@torch.no_grad()
def last_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the last KEPT of *ids*, of shape (tokens,): (KEPT, vocabulary), or of a model that scores (1, 1); in
    float32 on the CPU."""
    logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], use_cache=False).logits
    last: torch.Tensor = logits if logits.ndim == 2 else logits[0, -KEPT:]
    return last.float().cpu().contiguous()


def _first_rows(path: Path) -> list[list[int]]:
    rows = Dataset.from_file(str(path))
    return [_tokens(rows[number]) for number in range(min(ROWS, len(rows)))]


def _tokens(row: dict[str, Any]) -> list[int]:
    return [token for name in _PARTS for token in row.get(name, ())][:TOKENS]
