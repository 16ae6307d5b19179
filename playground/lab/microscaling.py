"""Formats of today's GPUs: fp8, NVFP4 and MXFP4. Each takes a weight (out, in), float32, and returns values and bytes.

MXFP4: OCP Microscaling Formats (MX) Specification 1.0. NVFP4: NVIDIA, "Introducing NVFP4" (2025) and
"Pretraining Large Language Models with NVFP4" (arXiv 2509.25149). Elements of both are
E2M1, rounded to the nearest and from a tie to the even code, and saturated at 6.
"""

from collections.abc import Callable

import torch
from torch import Tensor

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_EXPONENT = 2  # of its largest value
E4M3_MAX = 448.0
MXFP4_BLOCK, NVFP4_BLOCK = 32, 16


def fp8(weight: Tensor) -> tuple[Tensor, int]:
    """E4M3 with a float32 scale a row, as torch's `_scaled_mm` takes it."""
    scales = fp8_scales(weight)
    return _to_e4m3(weight / scales) * scales, weight.numel() + 4 * len(weight)


def mxfp4(weight: Tensor) -> tuple[Tensor, int]:
    """E2M1 in blocks of 32 along a row, with a power of two (E8M0) as scale."""
    blocks, scales = _blocks(weight, MXFP4_BLOCK), mxfp4_scales(weight)
    values = _round_to_e2m1(blocks / scales) * scales
    return values.view_as(weight), weight.numel() // 2 + len(blocks)


def nvfp4(weight: Tensor) -> tuple[Tensor, int]:
    """E2M1 in blocks of 16 along a row, with an E4M3 scale each and a float32 scale for the whole tensor."""
    blocks = _blocks(weight, NVFP4_BLOCK)
    of_blocks, of_tensor = nvfp4_scales(weight)
    codes = _round_to_e2m1(blocks / (of_blocks * of_tensor))
    values = torch.where(of_blocks > 0, codes * of_blocks * of_tensor, 0.0)  # the first product is exact
    return values.view_as(weight), weight.numel() // 2 + len(blocks) + 4


FORMATS: dict[str, Callable[[Tensor], tuple[Tensor, int]]] = {"fp8": fp8, "mxfp4": mxfp4, "nvfp4": nvfp4}


def fp8_scales(weight: Tensor) -> Tensor:
    """A scale for each row, (out, 1)."""
    return weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / E4M3_MAX


def mxfp4_scales(weight: Tensor) -> Tensor:
    """A power of two for each block, (blocks, 1)."""
    largest = _blocks(weight, MXFP4_BLOCK).abs().amax(1, keepdim=True)
    exponents = torch.frexp(largest).exponent - 1 - E2M1_EXPONENT  # floor(log2(largest)) - 2
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponents.clamp(-127, 127)), 1.0)


def nvfp4_scales(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The E4M3 scale of each block, (blocks, 1), and the whole tensor's, (); a value is a code times both."""
    of_tensor = weight.abs().max().clamp(min=1e-12) / (E4M3_MAX * E2M1[-1])
    largest = _blocks(weight, NVFP4_BLOCK).abs().amax(1, keepdim=True)
    return _to_e4m3(largest / E2M1[-1] / of_tensor), of_tensor


def e4m3_values() -> Tensor:
    """Every finite value of float8 E4M3, sorted."""
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return values[values.isfinite()].unique()


def _blocks(weight: Tensor, size: int) -> Tensor:
    return weight.reshape(-1, size)


def _to_e4m3(values: Tensor) -> Tensor:
    """Values rounded to float8 E4M3, saturated at its largest."""
    return values.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()


def _round_to_e2m1(values: Tensor) -> Tensor:
    """The nearest of E2M1's values; a tie goes to the code that is even."""
    table = torch.tensor(E2M1, device=values.device)
    middles = (table[1:] + table[:-1]) / 2
    magnitudes = values.abs()
    below, above = torch.bucketize(magnitudes, middles), torch.bucketize(magnitudes, middles, right=True)
    codes = torch.where(below % 2 == 0, below, above)
    return table[codes].copysign(values)
