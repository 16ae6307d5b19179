"""Frozen linear layers, with and without a LoRA adapter: forward and backward by hand.

y = x Wᵀ + bias + s (x Aᵀ) Bᵀ, where only A and B learn (Hu et al. 2021, arXiv 2106.09685). Written out by hand because

* nothing is kept for the backward pass but x and the r numbers a token of x Aᵀ; a layer without adapter keeps nothing;
* the adapter's product is added in place, so the wide output is read and written once instead of four times;
* 4- and 8-bit weights are made dense when they are multiplied, forward and backward, and dropped right after. At 8 bits
  that is one product in the type of the activations: faster and more exact than LLM.int8()'s own, which also rounds the
  activations and keeps its input through gradient checkpointing.
"""

import contextlib
from collections.abc import Iterator
from functools import cache

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from playground.train import quantized_ops


def frozen_weight(layer: nn.Module) -> tuple[Tensor, str, list[Tensor], int, int, int, int]:
    """A layer's weight as it lies in memory, and what `operators.dense` needs to read it.

    That is its kind, constants, the block sizes of 4-bit weights and of their constants, out and in. Kinds: dense; int8
    (constants: scales (out,)); nf4 and fp4 (constants: absmax; quantized twice also its code book, scales and offset).
    """
    if isinstance(layer, Linear4bit):
        state = layer.weight.quant_state
        inner = state.state2
        constants = [state.absmax] if inner is None else [state.absmax, inner.code, inner.absmax, state.offset]
        return (
            layer.weight.data,
            state.quant_type,
            constants,
            state.blocksize,
            inner.blocksize if inner else 0,
            *state.shape,
        )
    if isinstance(layer, Linear8bitLt):
        return (
            layer.weight.data,
            "int8",
            [layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB],
            0,
            0,
            *layer.weight.shape,
        )
    weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    return weight, "dense", [], 0, 0, *weight.shape


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, read, bias):
        ctx.read = read
        return quantized_ops.product(x, *read, bias)

    @staticmethod
    def backward(ctx, upstream):
        return quantized_ops.product_backward(upstream, *ctx.read), None, None


class _Low(torch.autograd.Function):
    """x Aᵀ, and the keeper of what `_Adapted` needs for its gradients.

    Kept here, before the large product: gradient checkpointing stops computing a layer again at the last tensor that was
    kept, so the last product of a layer, a third of it, isn't computed twice.
    """

    @staticmethod
    def forward(ctx, x, a, keeper):
        low = x @ a.T
        ctx.save_for_backward(x, low)
        ctx.set_materialize_grads(False)
        keeper.append(ctx)
        return low

    @staticmethod
    def backward(ctx, _):
        return None, None, None  # `_Adapted` has made them all


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, read, bias, low, a, b, scale, keeper):
        ctx.read, ctx.factors, ctx.keeper = read, (a, b, scale), keeper
        return quantized_ops.adapted(x, *read, bias, low, a, b, scale)

    @staticmethod
    def backward(ctx, upstream):
        (a, b, scale), (x, low) = ctx.factors, ctx.keeper.pop().saved_tensors
        below, for_a, for_b = quantized_ops.adapter_backward(upstream, x, low, b, scale)
        del x, low  # where they were computed again, this makes room for what comes
        for_x = (
            quantized_ops.product_backward(upstream, *ctx.read).addmm_(below, a) if ctx.needs_input_grad[0] else None
        )
        return for_x, None, None, None, for_a, for_b, None, None


class _Lean:
    """The forward pass of the lean classes, each of which also is the class of the layer that it stands in for."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if isinstance(self, LoraLayer):
            name, read, bias = self.active_adapters[0], frozen_weight(self.base_layer), self.base_layer.bias
            a, b, scale = self.lora_A[name].weight, self.lora_B[name].weight, float(self.scaling[name])
            if torch.compiler.is_compiling():
                made = quantized_ops.compiled(flat, read, bias, a, b, scale)
            else:
                keeper: list = []
                made = _Adapted.apply(flat, read, bias, _Low.apply(flat, a, keeper), a, b, scale, keeper)
        elif torch.compiler.is_compiling():
            made = quantized_ops.product_op(flat, *frozen_weight(self), self.bias)
        else:
            made = _Plain.apply(flat, frozen_weight(self), self.bias)
        return made.view(*x.shape[:-1], made.shape[-1])


@contextlib.contextmanager
def patch_linear(model: nn.Module) -> Iterator[None]:
    """Within it, every frozen linear layer of the model that can be computes as this module says.

    Left to PEFT: adapters with dropout or a bias, and DoRA. Left alone as well: unquantized layers without an adapter, of
    which torch keeps nothing anyway.
    """
    fit = [module for module in model.modules() if _fits(module)]
    inside = {id(module.base_layer) for module in fit if isinstance(module, LoraLayer)}
    swapped = {module: type(module) for module in fit if id(module) not in inside}
    try:
        for module, kind in swapped.items():
            module.__class__ = _lean_class(kind)
        yield
    finally:
        for module, kind in swapped.items():
            module.__class__ = kind


@cache
def _lean_class(kind: type) -> type:
    return type(f"Lean{kind.__name__}", (_Lean, kind), {})


def _fits(module: nn.Module) -> bool:
    if isinstance(module, (Linear4bit, Linear8bitLt)):
        return not module.weight.requires_grad
    if not isinstance(module, LoraLayer) or not isinstance(module.base_layer, (nn.Linear, Conv1D)):
        return False
    name = module.active_adapters[0] if len(module.active_adapters) == 1 else None
    return (
        name in module.lora_A
        and not module.merged
        and not module.lora_variant.get(name)
        and not module.lora_bias.get(name)
        and isinstance(module.lora_dropout[name], nn.Identity)
        and not module.base_layer.weight.requires_grad
    )
