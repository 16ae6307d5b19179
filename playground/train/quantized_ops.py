"""The product of a frozen linear layer with its adapter's, its gradients, and how compiled layers have both (see linear.py).

For compiled layers these are operators of torch's registry, which the compiler calls and doesn't look into. Layers that
aren't compiled call the functions: calling an operator costs several times as much.

Shapes: x and `upstream` (tokens, in or out), A (r, in), B (out, r), low = x Aᵀ (tokens, r). From `weight` to `columns`,
arguments say what the frozen weight is and how it is read, as `linear.frozen` gives them.
"""

import torch
from torch import Tensor
from torch.nn import functional

bits = torch.ops.bitsandbytes


def dequantize(
    weight: Tensor,
    kind: str,
    constants: list[Tensor],
    block: int,
    outer_block: int,
    rows: int,
    columns: int,
    dtype: torch.dtype,
) -> Tensor:
    """A frozen weight as a matrix (rows, columns) in `dtype`; a fresh one if it was quantized."""
    if kind == "dense":
        return weight
    if kind == "int8":  # code × largest of its row / 127 (Dettmers et al. 2022, arXiv 2208.07339)
        return torch.mul(
            weight, constants[0][:, None] / 127, out=torch.empty(weight.shape, dtype=dtype, device=weight.device)
        )
    absmax = constants[0]
    if (
        len(constants) > 1
    ):  # double quantization: the constants are codes themselves (Dettmers et al. 2023, arXiv 2305.14314)
        _, code, inner, offset = constants
        absmax = bits.dequantize_blockwise(absmax, inner, code, outer_block, torch.float32).add_(offset)
    return bits.dequantize_4bit(weight, absmax, block, kind, [rows, columns], dtype)


def product(
    x: Tensor,
    weight: Tensor,
    kind: str,
    constants: list[Tensor],
    block: int,
    outer_block: int,
    rows: int,
    columns: int,
    bias: Tensor | None,
) -> Tensor:
    """x Wᵀ + bias"""
    return functional.linear(x, dequantize(weight, kind, constants, block, outer_block, rows, columns, x.dtype), bias)


def product_backward(
    upstream: Tensor,
    weight: Tensor,
    kind: str,
    constants: list[Tensor],
    block: int,
    outer_block: int,
    rows: int,
    columns: int,
) -> Tensor:
    """The gradient for x."""
    return upstream @ dequantize(weight, kind, constants, block, outer_block, rows, columns, upstream.dtype)


def adapted(
    x: Tensor,
    weight: Tensor,
    kind: str,
    constants: list[Tensor],
    block: int,
    outer_block: int,
    rows: int,
    columns: int,
    bias: Tensor | None,
    low: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
) -> Tensor:
    """x Wᵀ + bias + scale low Bᵀ, added in place. A is only here to have a gradient."""
    return product(x, weight, kind, constants, block, outer_block, rows, columns, bias).addmm_(low, b.T, alpha=scale)


def adapter_backward(
    upstream: Tensor, x: Tensor, low: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for low (tokens, r), A and B."""
    below = (upstream @ b).mul_(scale)
    return below, below.T @ x, (upstream.T @ low).mul_(scale)


def adapted_backward(
    upstream: Tensor,
    x: Tensor,
    low: Tensor,
    weight: Tensor,
    kind: str,
    constants: list[Tensor],
    block: int,
    outer_block: int,
    rows: int,
    columns: int,
    a: Tensor,
    b: Tensor,
    scale: float,
    for_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for x (empty unless `for_x`), A and B."""
    below, for_a, for_b = adapter_backward(upstream, x, low, b, scale)
    if not for_x:
        return x.new_empty(0), for_a, for_b
    return (
        product_backward(upstream, weight, kind, constants, block, outer_block, rows, columns).addmm_(below, a),
        for_a,
        for_b,
    )


# --- for compiled layers ---

product_op = torch.library.custom_op("playground::product", product, mutates_args=())
product_backward_op = torch.library.custom_op("playground::product_backward", product_backward, mutates_args=())
adapted_op = torch.library.custom_op("playground::adapted", adapted, mutates_args=())
adapted_backward_op = torch.library.custom_op("playground::adapted_backward", adapted_backward, mutates_args=())


def compiled(x: Tensor, read: tuple, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """x Wᵀ + bias + scale (x Aᵀ) Bᵀ for the compiler; `read`: the arguments from `weight` to `columns`.

    x Aᵀ stands apart, so that a layer that is computed again for its gradients leaves its last product out.
    """
    return adapted_op(x, *read, bias, x.detach() @ a.detach().T, a, b, scale)


@product_op.register_fake
def _(x, weight, kind, constants, block, outer_block, rows, columns, bias):
    return x.new_empty(x.shape[0], rows)


@product_backward_op.register_fake
def _(upstream, weight, kind, constants, block, outer_block, rows, columns):
    return upstream.new_empty(upstream.shape[0], columns)


@adapted_op.register_fake
def _(x, weight, kind, constants, block, outer_block, rows, columns, bias, low, a, b, scale):
    return x.new_empty(x.shape[0], rows)


@adapted_backward_op.register_fake
def _(upstream, x, low, weight, kind, constants, block, outer_block, rows, columns, a, b, scale, for_x):
    return x.new_empty(x.shape) if for_x else x.new_empty(0), a.new_empty(a.shape), b.new_empty(b.shape)


def _keep_product(ctx, inputs, output):
    _, weight, ctx.kind, constants, *ctx.sizes, _ = inputs
    ctx.save_for_backward(weight, *constants)


def _product_gradients(ctx, upstream):
    weight, *constants = ctx.saved_tensors
    return (
        product_backward_op(upstream, weight, ctx.kind, constants, *ctx.sizes),
        None,
        None,
        [None] * len(constants),
        *[None] * 5,
    )


def _keep_adapted(ctx, inputs, output):
    x, weight, ctx.kind, constants, *ctx.sizes, _, low, a, b, ctx.scale = inputs
    ctx.save_for_backward(x, low, weight, a, b, *constants)


def _adapted_gradients(ctx, upstream):
    x, low, weight, a, b, *constants = ctx.saved_tensors
    for_x = ctx.needs_input_grad[0]
    down, for_a, for_b = adapted_backward_op(
        upstream, x, low, weight, ctx.kind, constants, *ctx.sizes, a, b, ctx.scale, for_x
    )
    return down if for_x else None, None, None, [None] * len(constants), *[None] * 6, for_a, for_b, None


product_op.register_autograd(_product_gradients, setup_context=_keep_product)
adapted_op.register_autograd(_adapted_gradients, setup_context=_keep_adapted)
