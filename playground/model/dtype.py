"""Which dtype the settings ask for; which one "auto" means depends on the hardware (load.compute_dtype)."""

import torch

from playground.settings import Load


def requested_dtype(load: Load) -> torch.dtype | None:
    """The dtype to compute in that these settings fix, or None where they leave the choice to the hardware.

    float32 at 32 bits; at any other width the half-precision type that `dtype` names, if it isn't "auto".
    """
    if load.bits == 32:
        return torch.float32
    return None if load.dtype == "auto" else getattr(torch, load.dtype)
