"""Products of weights and activations in 8-bit integers, a scale a row of each: a frozen layer forward and backward.

The same scheme as float8.py with another type: every row is divided by its largest magnitude / 127 and rounded. It is
three times as exact as float8 where the numbers of a row are of one size, and GPUs have had integer products for longer
(RTX 20 and later). Unlike LLM.int8() no outlier is computed apart. On a GPU one kernel multiplies the integers, applies
both scales and adds the bias: torch's own integer product writes 4 bytes a number, which costs what it saves (measured
on an H100, tests/bench/README.md). On a CPU the products are oneDNN's (int8_cpu.py).
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from playground import compat
from playground.model import cpu_speed, float8, int8_cpu
from playground.model.int8_cpu import LARGEST
from playground.model.row_scales import scale_rows

MIN_CAPABILITY = (7, 5)  # CUDA compute capability with integer products


@cache
def has_products(device: str) -> bool:
    """Whether this device ("cuda" or "cpu") multiplies 8-bit integers faster than 16 bits.

    A GPU by this program's kernel, which needs Triton; a CPU where a trial says so (cpu_speed.py).
    """
    if device == "cpu":
        return cpu_speed.int8_speedup() > 1
    return device == "cuda" and torch.cuda.get_device_capability() >= MIN_CAPABILITY and find_spec("triton") is not None


def can_multiply(x: Tensor) -> bool:
    """Whether activations of this type are multiplied in integers now."""
    return x.dtype in (torch.bfloat16, torch.float16) and not float8.is_exact()


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 codes, float32 scales (rows,)) of a matrix; a row of zeros gets the scale 1."""
    if x.device.type == "cpu" or (x.is_cuda and find_spec("triton") is not None):
        return _kernels(x.is_cuda).quantize_tokens(x, None)
    largest = x.abs().amax(1).float()
    scales = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    return (x.float() / scales[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scales


def dequantize_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that codes and scales stand for."""
    return scale_rows(codes, scales, dtype)


def linear(codes: Tensor, scales: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + bias, on a device that `has_products`."""
    quantized, x_scales = float8.quantize_once(x, quantize_tokens)
    return multiply(quantized, codes, x_scales, scales, bias, x.dtype)


def linear_backward(codes: Tensor, scales: Tensor, upstream: Tensor) -> Tensor:
    """The gradient for x, on a device that `has_products`."""
    float8.forget_shared_input()
    quantized, row_scales = quantize_tokens(upstream, scales)
    transposed = codes.t() if codes.device.type == "cpu" else float8.transposed(codes)
    return multiply(quantized, transposed, row_scales, None, None, upstream.dtype)


def multiply(
    a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """a bᵀ + bias in `dtype` of codes with a scale a row (None: 1)."""
    if a.is_meta:
        m, n = a.shape[0], b.shape[0]
        compat.count_meta_kernel("product:int8_fast", 2 * m * n * a.shape[1], a.numel() + b.numel() + 2 * m * n)
        return a.new_empty(m, n, dtype=dtype)
    return _kernels(a.is_cuda).multiply(a, b, a_scales, b_scales, bias, dtype)


def quantize_tokens(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    """(int8 codes, scales (rows,)) of x, its columns multiplied by `factors` first."""
    if x.is_meta:
        compat.count_meta_kernel("elementwise:bfloat16", x.numel(), x.nbytes + x.numel())
        return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[0], dtype=torch.float32)
    return _kernels(x.is_cuda).quantize_tokens(x, factors)


def _kernels(on_gpu: bool) -> Any:
    """The module of a GPU's or the CPU's kernels; the former can't be imported without Triton."""
    if not on_gpu:
        return int8_cpu
    from playground.model import int8_kernels

    return int8_kernels
