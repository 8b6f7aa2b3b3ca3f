"""Packages that upstream imports wherever they are installed, and that most runs never call."""

import sys

from job.optimizers import OPTIMIZERS
from job.records import Plan


def leave_out_bitsandbytes(plan: Plan) -> None:
    """Have PEFT find no bitsandbytes where *plan* does not use it: with it comes torch's compiler, a fifth of the time
    that a process takes to import everything. To be called before PEFT is imported."""
    if plan.quantization == "none" and not OPTIMIZERS[plan.optim].from_bitsandbytes:
        # What Python itself takes for "cannot be imported" (the import system, section 5.3.1).
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
