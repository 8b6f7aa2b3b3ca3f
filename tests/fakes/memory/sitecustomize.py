"""A GPU with little memory, for a worker on a CPU: a micro-batch of more than FAKE_TOKENS tokens, padding included,
does not fit. FAKE_SEEN names a file that gets the size of each. Python imports it on its own."""

import os
import sys

if "job.train" in sys.orig_argv:
    from pathlib import Path
    from typing import Any

    import torch
    from torch.nn import functional

    embedding, limit = functional.embedding, int(os.environ.get("FAKE_TOKENS", "0"))

    def within_memory(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if limit and input_ids.numel() > limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {input_ids.numel()} tokens.")
        if seen := os.environ.get("FAKE_SEEN"):
            with Path(seen).open("a") as file:
                file.write(f"{input_ids.numel()}\n")
        return embedding(input_ids, *args, **kwargs)

    functional.embedding = within_memory
