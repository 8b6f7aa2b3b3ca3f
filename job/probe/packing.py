"""``python -m job.probe.packing MODEL_DIR OUT_DIR``: may rows of this architecture be packed?

Some architectures ignore position_ids when they build their mask, and a row then reads its neighbour without any
warning. So a tiny random model of the same architecture gets two packed rows; changing the first must not move the
logits of the second.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from job.child import run_child
from job.records import PackingProbe
from job.rundir import write_json

# sdpa's float32 result moves by at most 4e-6 with another neighbour when rows are apart; a leak by 5e-3 and up.
TOLERANCE = 1e-4
ROW_TOKENS = 12
LAYERS = 2
REASON_LENGTH = 160  # characters; upstream's messages can be a page long
VOCABULARY = 128
# Sizes that only set the width of a layer, not its kind; each model has some of them.
_WIDTHS = {
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "num_layers": LAYERS, "vocab_size": VOCABULARY,
    "intermediate_size": 64, "ffn_dim": 64, "n_inner": 64, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}  # fmt: skip


def probe_packing(model_dir: Path) -> PackingProbe:
    """Whether packed rows stay apart, with the reason when they do not or when it could not be found out."""
    try:
        model = _tiny_model(AutoConfig.from_pretrained(model_dir, trust_remote_code=False))
        moved = _influence(model)
    except Exception as error:  # any architecture may refuse the shrunken sizes or the packed batch in its own way
        text = f"{type(error).__name__}: {error}"[:REASON_LENGTH]
        return PackingProbe(isolated=False, reason=f"the packing probe could not run ({text})")
    if moved <= TOLERANCE:
        return PackingProbe(isolated=True, reason=f"a packed neighbour moves logits by {moved:.1e} at most")
    return PackingProbe(isolated=False, reason=f"a packed neighbour moves logits by {moved:.1e}: rows would mix")


def _tiny_model(config: PreTrainedConfig) -> torch.nn.Module:
    text = config.get_text_config()
    for name, size in _WIDTHS.items():
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(getattr(text, name), size))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, 0)
    if getattr(text, "layer_types", None):
        kinds = list(dict.fromkeys(text.layer_types))  # one layer of each kind: any of them may leak
        text.layer_types = kinds
        text.num_hidden_layers = len(kinds)
    torch.manual_seed(0)
    model: torch.nn.Module = AutoModelForCausalLM.from_config(text, dtype=torch.float32, trust_remote_code=False)
    return model.eval()


@torch.no_grad()
def _influence(model: torch.nn.Module) -> float:
    """The largest change of the second row's logits when the first row is another one.

    Raises:
        RuntimeError: not even the first row's own logits moved, so the measurement says nothing.
    """
    generator = torch.Generator().manual_seed(0)
    first, other, second = torch.randint(1, VOCABULARY, (3, ROW_TOKENS), generator=generator)
    one, two = (model(**_packed(row, second)).logits[0] for row in (first, other))
    changes = (one - two).abs()
    if changes[:ROW_TOKENS].max() <= TOLERANCE:
        raise RuntimeError("the tiny model's logits do not depend on its input")
    return float(changes[ROW_TOKENS:].max())


def _packed(*rows: torch.Tensor) -> dict[str, Any]:
    """The batch that TRL's padding-free collator builds from one pack of *rows*, each of shape (ROW_TOKENS,)."""
    cu_seq_lens = torch.arange(len(rows) + 1, dtype=torch.int32) * ROW_TOKENS
    return {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.arange(ROW_TOKENS).repeat(len(rows))[None],
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": ROW_TOKENS,
        "max_length_k": ROW_TOKENS,
        "seq_idx": torch.arange(len(rows), dtype=torch.int32).repeat_interleave(ROW_TOKENS)[None],
        "use_cache": False,
    }


def main() -> None:
    model_dir, out = Path(sys.argv[1]), Path(sys.argv[2])
    run_child(lambda: write_json(out / "packing.json", probe_packing(model_dir)), out / "error.json")


if __name__ == "__main__":
    main()
