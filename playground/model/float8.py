"""Products of weights and activations in float8 (e4m3), a scale a row of each: a frozen layer forward and backward.

A product of 8-bit numbers takes little more than half the time of one in bfloat16 on GPUs that have it (RTX 40 and 50,
H100 and later). The weight is quantized once, as it is loaded: each output row divided by its largest magnitude / 448.
Activations and gradients are quantized token by token as they come. In the backward pass the weight's row scales lie
along the summed axis, so they are multiplied into the gradient before that is quantized. One product differs from the
exact one by about 3 to 4 % of its norm (H100, normally distributed numbers).
Format: Micikevicius et al. 2022, arXiv 2209.05433.

Shapes: x (tokens, in), codes of a weight (out, in) as bytes, scales (out,), upstream gradient (tokens, out).
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from playground import compat
from playground.model.row_scales import scale_rows

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # magnitude of an e4m3 number
MIN_CAPABILITY = (8, 9)  # CUDA compute capability with float8 products
ALIGNMENT = 16  # a weight's sizes have to be multiples of it
# cuBLASLt (CUDA 13.0, an H100) found no algorithm that adds a bias to a product of 1, 2 or 7 rows of 11,008 or 16,384
# numbers; for 5,024 rows it did, and without a bias for 1 row too
FEW_ROWS = 256

_exact = False
_input: Tensor | None = None  # what the layer that is computed reads, if others may read it too
_shared: tuple[Any, int, Any, tuple[Tensor, Tensor]] | None = None  # of the last: see `quantize_once`


@cache
def has_products(device: str) -> bool:
    """Whether this device ("cuda" or "cpu") multiplies float8 numbers, and Triton is there to quantize for it."""
    return device == "cuda" and torch.cuda.get_device_capability() >= MIN_CAPABILITY and find_spec("triton") is not None


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Within it, weights are dequantized and activations aren't quantized, which would amplify differences."""
    global _exact
    before, _exact = _exact, True
    try:
        yield
    finally:
        _exact = before


@contextlib.contextmanager
def shared_input(x: Tensor) -> Iterator[None]:
    """Within it, `linear` quantizes x once for all layers that read it one after another, such as q, k and v.

    x: the tensor itself, which a layer may pass on in another shape. Not for code that is compiled: that writes into
    memory without telling torch, so a tensor that is alive may have other values.
    """
    global _input
    _input = None if x.is_inference() else x
    try:
        yield
    finally:
        _input = None


def is_exact() -> bool:
    """Whether this is within `exact_products`."""
    return _exact


def can_multiply(x: Tensor) -> bool:
    """Whether activations of this type are multiplied in float8 now: `torch._scaled_mm` returns bfloat16 alone."""
    return x.dtype == torch.bfloat16 and not _exact


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(codes as bytes, float32 scales (rows,)) of a matrix; a row of zeros gets the scale 1."""
    if x.is_cuda and find_spec("triton") is not None:
        codes, scales = _kernels().quantize_tokens(x, None)
        return codes.view(torch.uint8), scales
    largest = x.abs().amax(1).float()
    scales = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    codes = (x.float() / scales[:, None]).clamp_(-LARGEST, LARGEST).to(E4M3)
    return codes.view(torch.uint8), scales


def dequantize_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that codes and scales stand for."""
    return scale_rows(codes.view(E4M3).to(dtype), scales, dtype)


def linear(codes: Tensor, scales: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + bias, on a device that `has_products`."""
    quantized, x_scales = quantize_once(x, quantize_tokens)
    return multiply(quantized, codes, x_scales, scales, bias)


def linear_backward(transpose: Callable[[], Tensor], scales: Tensor, upstream: Tensor) -> Tensor:
    """The gradient for x, on a device that `has_products`. transpose: makes the codes of the transposed weight."""
    forget_shared_input()
    quantized, row_scales = quantize_tokens(upstream, scales)
    transposed = transpose()
    return multiply(quantized, transposed, row_scales, _ones(transposed.shape[0], str(upstream.device)), None)


def transposed(codes: Tensor) -> Tensor:
    """The codes (out, in) of a weight as (in, out)."""
    if codes.is_meta:
        compat.count_meta_kernel("elementwise:int8", codes.numel(), 2 * codes.numel())
        return codes.new_empty(codes.shape[1], codes.shape[0])
    return _kernels().transpose(codes)


def multiply(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor, bias: Tensor | None) -> Tensor:
    """a bᵀ + bias in bfloat16 of codes with a scale a row."""
    if a.is_meta:
        m, n = a.shape[0], b.shape[0]
        compat.count_meta_kernel("product:float8", 2 * m * n * a.shape[1], a.numel() + b.numel() + 2 * m * n)
        return a.new_empty(m, n, dtype=torch.bfloat16)
    added_after = bias if a.shape[0] < FEW_ROWS else None
    try:
        product = torch._scaled_mm(
            a,
            b.view(E4M3).t(),
            scale_a=a_scales[:, None],
            scale_b=b_scales[None, :],
            bias=None if added_after is bias else bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
    except RuntimeError as error:
        if "NOT_SUPPORTED" not in str(error):
            raise
        product = _dequantized(a, a_scales) @ _dequantized(b, b_scales).T  # exact, if slower
        added_after = bias
    return product if added_after is None else product.add_(added_after)


def _dequantized(codes: Tensor, scales: Tensor) -> Tensor:
    return dequantize_rows(codes, scales, torch.bfloat16)


def quantize_once(
    x: Tensor, quantize: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Codes and scales of x by `quantize(x, None)`, but not again for the `shared_input` of the layer before.

    Kept of the last: a weak reference to the tensor, so that memory that was given to another one is never taken for
    it; its version, which torch counts up with every change in place; the function; and what that returned.
    """
    global _shared
    if _input is None:
        return quantize(x, None)
    if _shared is not None and _shared[0]() is _input and _shared[1:3] == (_input._version, quantize):
        return _shared[3]
    _shared = None  # freed before the next are made
    quantized = quantize(x, None)
    _shared = weakref.ref(_input), _input._version, quantize, quantized
    return quantized


def forget_shared_input() -> None:
    """Free what `quantize_once` has kept: nothing is read again once gradients are computed."""
    global _shared
    _shared = None


def quantize_tokens(x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
    """(e4m3 codes, scales (rows,)) of x, its columns multiplied by `factors` first."""
    if x.is_meta:
        compat.count_meta_kernel("elementwise:bfloat16", x.numel(), x.nbytes + x.numel())
        return x.new_empty(x.shape, dtype=E4M3), x.new_empty(x.shape[0], dtype=torch.float32)
    return _kernels().quantize_tokens(x, factors)


@cache
def _ones(count: int, device: str) -> Tensor:
    return torch.ones(count, device=device)


@cache
def _kernels() -> Any:
    """The module of Triton kernels, which can't be imported without Triton."""
    from playground.model import float8_kernels

    return float8_kernels
