"""A model of a real shape with random weights: its published configuration, and nothing to download.

python bench/random_model.py OUT_DIR meta-llama/Llama-3.1-8B [--device cuda]; names are those of tests/models.py. Run as
a process of its own, which leaves no memory of the GPU occupied.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "demo")]

from tests.models import MODELS, golden_facts  # noqa: E402

SENTENCE = "the model reads a row and learns to answer what was asked in as few words as it can"
SEED = 0


def make_model(folder: Path, name: str, device: str = "cuda") -> None:
    """Write the model *name* to *folder*, by a process of its own.

    Raises:
        OSError: the disk has no room for it.
        subprocess.CalledProcessError: it could not be made; the process has said why.
    """
    needed, free = golden_facts(name).weights_bytes, shutil.disk_usage(folder.parent).free
    if free < needed:
        raise OSError(f"{name} takes {needed / 2**30:.1f} GiB on the disk of {folder}, which has {free / 2**30:.1f}")
    subprocess.run([sys.executable, __file__, folder, name, "--device", device], check=True)


def write_model(folder: Path, name: str, device: str) -> None:
    """Safetensors in bfloat16, config.json, and a small tokenizer: every id that it gives is in the vocabulary."""
    import torch
    from tiny import token_ids, train_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = MODELS[name][1]
    tokenizer = train_tokenizer([SENTENCE], 1000, config["max_position_embeddings"])
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config | token_ids(tokenizer)), dtype=torch.bfloat16
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a model of a real shape with random weights.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    write_model(args.out_dir, args.name, args.device)


if __name__ == "__main__":
    main()
