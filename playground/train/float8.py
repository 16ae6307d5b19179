"""Products with weights and activations in float8 (e4m3), a scale a row of each: forward and backward of a frozen layer.

A product of 8-bit numbers takes little more than half the time of one in bfloat16 on GPUs that have it (RTX 40 and 50,
H100 and later). The weight is quantized once, as it is loaded: each output row divided by its largest magnitude / 448.
Activations and gradients are quantized token by token as they come. In the backward pass the weight's row scales lie
along the summed axis, so they are multiplied into the gradient before that is quantized.
Format: Micikevicius et al. 2022, arXiv 2209.05433.

Shapes: x (tokens, in), codes of a weight (out, in) as bytes, scales (out,), upstream gradient (tokens, out).
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from playground.model.float8_linear import E4M3

MIN_CAPABILITY = (8, 9)  # CUDA compute capability with float8 products


@cache
def has_products(device: torch.device) -> bool:
    """Whether this device multiplies float8 numbers, and Triton is there to quantize for it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def linear(codes: Tensor, scales: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + bias, on a device that `has_products`."""
    quantized, x_scales = _kernels().quantize_tokens(x, None)
    return torch._scaled_mm(
        quantized,
        codes.view(E4M3).t(),
        scale_a=x_scales[:, None],
        scale_b=scales[None, :],
        bias=bias,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )


def linear_backward(codes: Tensor, scales: Tensor, upstream: Tensor) -> Tensor:
    """The gradient for x, on a device that `has_products`."""
    kernels = _kernels()
    quantized, row_scales = kernels.quantize_tokens(upstream, scales)
    transposed = kernels.transpose(codes)
    return torch._scaled_mm(
        quantized,
        transposed.view(E4M3).t(),
        scale_a=row_scales[:, None],
        scale_b=_ones(codes.shape[1], codes.device)[None, :],
        out_dtype=upstream.dtype,
        use_fast_accum=True,
    )


@cache
def _ones(count: int, device: torch.device) -> Tensor:
    return torch.ones(count, device=device)


@cache
def _kernels() -> Any:
    """The module of Triton kernels, which can't be imported without Triton."""
    from playground.train import float8_kernels

    return float8_kernels
