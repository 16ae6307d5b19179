"""Frozen linear layers and their LoRA adapters, forward and backward, as functions and as registered operators.

linear.py calls the functions. Compiled layers call the same functions as operators of torch's registry, which the
compiler calls without looking inside. Calling an operator costs several times as much as calling a function, so layers
that aren't compiled don't.

Shapes: x (tokens, in), upstream gradient (tokens, out), A (r, in), B (out, r), low = x Aᵀ (tokens, r).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from playground.model import float8, int8_fast, nf4_fast
from playground.model.row_scales import scale_rows


class FrozenWeight(NamedTuple):
    """A frozen linear layer's weight as it lies in memory, with everything that is needed to read it.

    data: dense (out, in), int8 (out, in), float8 as bytes (out, in), or packed 4-bit codes.
    format: "dense", "int8", "fp8" (multiplied in float8), "int8-fast" (multiplied in integers), either with
        "-stored" (dequantized for each product), "nf4", "fp4" or "nf4-fast" (multiplied in float8).
    constants: none for dense; int8, int8-fast and fp8: [scales (out,)]; nf4 and fp4: [absmax], or, quantized twice,
        [absmax as codes, code book, scales of the absmax, offset of the absmax]; nf4-fast: then also the 16 levels,
        and scales (out,) of the rows in float8.
    block_size: weights that share one absmax (4 bits; else 0).
    constants_block_size: absmax codes that share one scale (4 bits, quantized twice; else 0).
    """

    data: Tensor
    format: str
    constants: list[Tensor]
    block_size: int
    constants_block_size: int
    out_features: int
    in_features: int


def dequantize(weight: FrozenWeight, dtype: torch.dtype) -> Tensor:
    """The weight as a matrix (out, in) in `dtype`: a new one if it is quantized; a dense one is returned unchanged."""
    if weight.format == "dense":
        return weight.data
    if weight.format in ("int8-fast", "int8-fast-stored"):
        return int8_fast.dequantize_rows(weight.data, weight.constants[0], dtype)
    if weight.format in ("fp8", "fp8-stored"):
        return float8.dequantize_rows(weight.data, weight.constants[0], dtype)
    if weight.format == "int8":  # code × largest of its row / 127 (Dettmers et al. 2022, arXiv 2208.07339)
        return scale_rows(weight.data, weight.constants[0] / 127, dtype)
    bitsandbytes = torch.ops.bitsandbytes
    constants, kind = weight.constants, weight.format
    if kind == "nf4-fast":
        constants, kind = constants[:-2], "nf4"
    absmax = constants[0]
    if len(constants) > 1:  # double quantization: absmax is quantized too (Dettmers et al. 2023, arXiv 2305.14314)
        codes, code_book, scales, offset = constants
        absmax = bitsandbytes.dequantize_blockwise(
            codes, scales, code_book, weight.constants_block_size, torch.float32
        ).add_(offset)
    shape = [weight.out_features, weight.in_features]
    return bitsandbytes.dequantize_4bit(weight.data, absmax, weight.block_size, kind, shape, dtype)


def dense_float8(weight: FrozenWeight, transposed: bool) -> Tensor:
    """The e4m3 codes of an "nf4-fast" weight: (out, in), or (in, out) if `transposed`."""
    sizes = weight.block_size, weight.constants_block_size, weight.in_features
    return nf4_fast.dense_float8(weight.data, weight.constants, *sizes, transposed)


def frozen_linear(weight: FrozenWeight, x: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + bias"""
    if weight.format == "fp8" and float8.can_multiply(x):
        return float8.linear(weight.data, weight.constants[0], x, bias)
    if weight.format == "int8-fast" and int8_fast.can_multiply(x):
        return int8_fast.linear(weight.data, weight.constants[0], x, bias)
    if weight.format == "nf4-fast" and float8.can_multiply(x):
        return float8.linear(dense_float8(weight, False), weight.constants[-1], x, bias)
    return functional.linear(x, dequantize(weight, x.dtype), bias)


def frozen_linear_backward(weight: FrozenWeight, upstream: Tensor) -> Tensor:
    """The gradient for x."""
    if weight.format == "fp8" and float8.can_multiply(upstream):
        return float8.linear_backward(lambda: float8.transposed(weight.data), weight.constants[0], upstream)
    if weight.format == "int8-fast" and int8_fast.can_multiply(upstream):
        return int8_fast.linear_backward(weight.data, weight.constants[0], upstream)
    if weight.format == "nf4-fast" and float8.can_multiply(upstream):
        return float8.linear_backward(lambda: dense_float8(weight, True), weight.constants[-1], upstream)
    return upstream @ dequantize(weight, upstream.dtype)


def lora_linear(
    weight: FrozenWeight, x: Tensor, bias: Tensor | None, low: Tensor, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """x Wᵀ + bias + scale low Bᵀ, added in place. A is an argument only so that it gets a gradient."""
    return frozen_linear(weight, x, bias).addmm_(low, b.T, alpha=scale)


def lora_backward(
    upstream: Tensor, x: Tensor | None, low: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients for low (tokens, r), A (None without x) and B."""
    for_low = (upstream @ b).mul_(scale)
    for_a = None if x is None else for_low.T @ x
    return for_low, for_a, (upstream.T @ low).mul_(scale)


def lora_linear_backward(
    weight: FrozenWeight,
    upstream: Tensor,
    x: Tensor,
    low: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    needs_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for x (an empty tensor unless `needs_x`), A and B."""
    for_low, for_a, for_b = lora_backward(upstream, x, low, b, scale)
    assert for_a is not None
    if not needs_x:
        return x.new_empty(0), for_a, for_b
    return frozen_linear_backward(weight, upstream).addmm_(for_low, a), for_a, for_b


def lora_linear_compiled(
    weight: FrozenWeight, x: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """x Wᵀ + bias + scale (x Aᵀ) Bᵀ for code that is being compiled.

    x Aᵀ is computed outside the operator, so that a layer that is recomputed for its gradients skips its last product.
    """
    return lora_linear_op(*weight, x, bias, x.detach() @ a.detach().T, a, b, scale)


# An operator's schema has no tuples: operators take a weight's fields one by one, first of all arguments.
_WEIGHT_SCHEMA = (
    "Tensor data, str format, Tensor[] constants, int block_size, int constants_block_size, "
    "int out_features, int in_features"
)


def _unflatten(arguments: tuple) -> tuple:
    """An operator's arguments, with the weight's fields as one `FrozenWeight`."""
    fields = len(FrozenWeight._fields)
    return FrozenWeight(*arguments[:fields]), *arguments[fields:]


def _no_gradients(weight: FrozenWeight) -> tuple:
    """What a backward pass returns for the fields of a weight."""
    return None, None, [None] * len(weight.constants), None, None, None, None


def _operator(function: Callable, arguments: str, returns: str, shapes: Callable) -> Any:
    """Register `function(weight, …)`. arguments, returns: the rest of its schema; shapes: the same on fake tensors.

    By `define` and `impl`: what `custom_op` checks at every call takes longer than the function itself needs to launch
    its kernels.
    """
    name = f"playground::{function.__name__}"
    torch.library.define(name, f"({_WEIGHT_SCHEMA}, {arguments}) -> {returns}")
    torch.library.impl(name, "default", lambda *flat: function(*_unflatten(flat)))
    torch.library.register_fake(name, lambda *flat: shapes(*_unflatten(flat)))
    return getattr(torch.ops.playground, function.__name__).default


frozen_linear_op = _operator(
    frozen_linear,
    "Tensor x, Tensor? bias",
    "Tensor",
    lambda weight, x, bias: x.new_empty(x.shape[0], weight.out_features),
)
frozen_linear_backward_op = _operator(
    frozen_linear_backward,
    "Tensor upstream",
    "Tensor",
    lambda weight, upstream: upstream.new_empty(upstream.shape[0], weight.in_features),
)
lora_linear_op = _operator(
    lora_linear,
    "Tensor x, Tensor? bias, Tensor low, Tensor a, Tensor b, float scale",
    "Tensor",
    lambda weight, x, bias, low, a, b, scale: x.new_empty(x.shape[0], weight.out_features),
)
lora_linear_backward_op = _operator(
    lora_linear_backward,
    "Tensor upstream, Tensor x, Tensor low, Tensor a, Tensor b, float scale, bool needs_x",
    "(Tensor, Tensor, Tensor)",
    lambda weight, upstream, x, low, a, b, scale, needs_x: (
        x.new_empty(x.shape if needs_x else 0),
        a.new_empty(a.shape),
        b.new_empty(b.shape),
    ),
)


def _save_weight(ctx: Any, weight: FrozenWeight, *tensors: Tensor) -> None:
    """Save tensors for the backward pass, those of a weight last."""
    ctx.format, ctx.sizes = weight.format, weight[3:]
    ctx.save_for_backward(*tensors, weight.data, *weight.constants)


def _saved_weight(ctx: Any, count: int) -> tuple:
    """The weight and the `count` tensors that `_save_weight` saved."""
    tensors, (data, *constants) = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
    return FrozenWeight(data, ctx.format, constants, *ctx.sizes), *tensors


def _save_frozen_linear(ctx: Any, inputs: tuple, output: Tensor) -> None:
    weight, _, _ = _unflatten(inputs)
    _save_weight(ctx, weight)


def _frozen_linear_gradients(ctx: Any, upstream: Tensor) -> tuple:
    (weight,) = _saved_weight(ctx, 0)
    return *_no_gradients(weight), frozen_linear_backward_op(*weight, upstream), None


def _save_lora_linear(ctx: Any, inputs: tuple, output: Tensor) -> None:
    weight, x, _, low, a, b, ctx.scale = _unflatten(inputs)
    _save_weight(ctx, weight, x, low, a, b)


def _lora_linear_gradients(ctx: Any, upstream: Tensor) -> tuple:
    weight, x, low, a, b = _saved_weight(ctx, 4)
    needs_x = ctx.needs_input_grad[len(FrozenWeight._fields)]
    for_x, for_a, for_b = lora_linear_backward_op(*weight, upstream, x, low, a, b, ctx.scale, needs_x)
    return *_no_gradients(weight), for_x if needs_x else None, None, None, for_a, for_b, None


torch.library.register_autograd(frozen_linear_op, _frozen_linear_gradients, setup_context=_save_frozen_linear)
torch.library.register_autograd(lora_linear_op, _lora_linear_gradients, setup_context=_save_lora_linear)
