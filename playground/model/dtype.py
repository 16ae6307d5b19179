"""Which bit width and which dtype the settings ask for, and what "auto" means where they leave it to the hardware."""

import torch

from playground.model.cpu_speed import bf16_speedup
from playground.settings import Load

MIN_BF16_SPEEDUP = 1.2  # over float32: 32 bits are left only where half precision is clearly faster


def requested_dtype(load: Load) -> torch.dtype | None:
    """The dtype to compute in that these settings fix, or None where they leave the choice to the hardware.

    float32 at 32 bits; at any other width the half-precision type that `dtype` names, if it isn't "auto".
    """
    if load.bits == 32:
        return torch.float32
    return None if load.dtype == "auto" else getattr(torch, load.dtype)


def default_bits(device: str) -> int:
    """The bit width that "auto" means: 16 if half precision is clearly faster than float32, else 32.

    Assumed on CUDA, measured once per machine on a CPU, so that loading, training, chatting and predictions agree.
    """
    return 16 if device == "cuda" or bf16_speedup() >= MIN_BF16_SPEEDUP else 32


def compute_dtype(load: Load, device: str) -> tuple[torch.dtype, str]:
    """Return the dtype to compute in on this hardware, and the words key of the reason.

    bfloat16 has float32's range, so training needs no loss scaling; GPUs before Ampere are only fast in float16.
    """
    if requested := requested_dtype(load):
        return requested, "dtype.float32" if load.bits == 32 else "dtype.chosen"
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "dtype.cuda_bf16") if fast else (torch.float16, "dtype.cuda_fp16")
    return torch.bfloat16, "dtype.cpu_bf16" if bf16_speedup() >= 1 else "dtype.cpu_slow_bf16"
