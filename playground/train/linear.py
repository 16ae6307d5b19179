"""Memory-efficient frozen linear layers, with and without a LoRA adapter: forward and backward by hand.

y = x Wᵀ + bias + s (x Aᵀ) Bᵀ, where only A and B are trained (Hu et al. 2021, arXiv 2106.09685). By hand because

* nothing is kept for the backward pass but x and the r numbers a token of x Aᵀ; a layer without adapter keeps nothing;
* the adapter's product is added in place, so the wide output is read and written once instead of four times;
* 4- and 8-bit weights are dequantized when they are multiplied, forward and backward, and dropped right after. At 8
  bits that is one product in the type of the activations: faster and more exact than LLM.int8()'s own, which also
  rounds the activations and keeps its input through gradient checkpointing.
"""

from functools import cache
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from playground import compat
from playground.model import float8, nf4_fast
from playground.model.float8_linear import Float8Linear
from playground.train import quantized_ops
from playground.train.quantized_ops import FrozenWeight


def frozen_weight(layer: Any) -> FrozenWeight:
    """The weight of a linear layer, without a copy.

    layer: of bitsandbytes (4 or 8 bits), this program (float8), torch or transformers (`Conv1D`).
    """
    if isinstance(layer, Linear4bit):
        state: Any = layer.weight.quant_state  # type: ignore[attr-defined]
        inner = state.state2
        constants = [state.absmax] if inner is None else [state.absmax, inner.code, inner.absmax, state.offset]
        inner_block_size, form = inner.blocksize if inner else 0, state.quant_type
        scales = nf4_fast.row_scales(state)
        if scales is not None:
            constants, form = [*constants, state.code, scales], "nf4-fast"
        return FrozenWeight(layer.weight.data, form, constants, state.blocksize, inner_block_size, *state.shape)
    if isinstance(layer, Linear8bitLt):
        return FrozenWeight(layer.weight.data, "int8", [compat.int8_row_scales(layer)], 0, 0, *layer.weight.shape)
    if isinstance(layer, Float8Linear):
        form = layer.form if layer.multiplies else f"{layer.form}-stored"
        return FrozenWeight(layer.weight.data, form, [layer.scales], 0, 0, *layer.weight.shape)
    weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    return FrozenWeight(weight, "dense", [], 0, 0, *weight.shape)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: FrozenWeight, x: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return quantized_ops.frozen_linear(weight, x, bias)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        return None, quantized_ops.frozen_linear_backward(ctx.weight, upstream), None


class _LoraDown(torch.autograd.Function):
    """x Aᵀ; also saves what `_LoraLinear` needs for its gradients, and hands its context to `contexts`.

    x is needed for the gradient of A alone, and MiSS doesn't train A.

    Saved here, before the large product: gradient checkpointing stops recomputing a layer at the last tensor that was
    saved, so the last product of a layer, a third of it, isn't computed twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, contexts: list) -> Tensor:  # b: so that it has gradients
        low = x @ a.T
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, low)
        ctx.set_materialize_grads(False)
        contexts.append(ctx)
        return low

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple:
        return None, None, None, None  # `_LoraLinear` has computed them all


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: FrozenWeight,
        x: Tensor,
        bias: Tensor | None,
        low: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        contexts: list,
    ) -> Tensor:
        ctx.weight, ctx.adapter, ctx.contexts = weight, (a, b, scale), contexts
        return quantized_ops.lora_linear(weight, x, bias, low, a, b, scale)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        (a, b, scale), (x, low) = ctx.adapter, ctx.contexts.pop().saved_tensors
        for_low, for_a, for_b = quantized_ops.lora_backward(upstream, x, low, b, scale)
        del x, low  # recomputed tensors: free them before the large product
        for_x = None
        if ctx.needs_input_grad[1]:
            for_x = quantized_ops.frozen_linear_backward(ctx.weight, upstream).addmm_(for_low, a)
        return None, for_x, None, None, for_a, for_b, None, None


class _EfficientLinear:
    """The forward pass of the replacement classes. Each is also a subclass of the class that it replaces."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(self, LoraLayer) and x.dtype != self.lora_A[self.active_adapters[0]].weight.dtype:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]  # PEFT converts it
        flat = x.reshape(-1, x.shape[-1])
        output = (_lora_forward if isinstance(self, LoraLayer) else _frozen_forward)(self, flat, x)
        return output.view(*x.shape[:-1], output.shape[-1])


def _frozen_forward(layer: Any, x: Tensor, whole: Tensor) -> Tensor:
    """x Wᵀ + bias. x: (tokens, in), of `whole`, the input as other layers read it too."""
    if torch.compiler.is_compiling():
        return quantized_ops.frozen_linear_op(*frozen_weight(layer), x, layer.bias)
    with float8.shared_input(whole):
        return _FrozenLinear.apply(frozen_weight(layer), x, layer.bias)


def _lora_forward(layer: Any, x: Tensor, whole: Tensor) -> Tensor:
    """The same with an adapter."""
    name, weight, bias = layer.active_adapters[0], frozen_weight(layer.base_layer), layer.base_layer.bias
    a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])
    if torch.compiler.is_compiling():
        if not a.requires_grad:  # the operator would keep x for its gradient
            return _frozen_forward(layer.base_layer, x, whole) + scale * (x @ a.T) @ b.T
        return quantized_ops.lora_linear_compiled(weight, x, bias, a, b, scale)
    contexts: list = []
    low = _LoraDown.apply(x, a, b, contexts)
    with float8.shared_input(whole):
        return _LoraLinear.apply(weight, x, bias, low, a, b, scale, contexts)


def efficient_linears(model: nn.Module) -> dict[nn.Module, type]:
    """The frozen linear layers of the model that this module can compute, each with the class to swap in.

    Left to PEFT: adapters with dropout or a bias, and DoRA. Left alone as well: unquantized layers without an adapter,
    of which torch keeps nothing either.
    """
    supported: list[Any] = [module for module in model.modules() if _is_supported(module)]
    base_layers = {id(module.base_layer) for module in supported if isinstance(module, LoraLayer)}
    return {module: _efficient_class(module.__class__) for module in supported if id(module) not in base_layers}


@cache
def _efficient_class(kind: Any) -> type:
    return type(f"Efficient{kind.__name__}", (_EfficientLinear, kind), {})


def _is_plain(layer: Any) -> bool:
    """Whether a layer computes what torch's or transformers' linear layer does, or what bitsandbytes' does."""
    if isinstance(layer, (Linear4bit, Linear8bitLt, Float8Linear)):
        return True
    return isinstance(layer, (nn.Linear, Conv1D)) and type(layer).forward in (nn.Linear.forward, Conv1D.forward)


def _is_supported(module: nn.Module) -> bool:
    if isinstance(module, (Linear4bit, Linear8bitLt, Float8Linear)):
        return not module.weight.requires_grad
    if not isinstance(module, LoraLayer) or not _is_plain(module.base_layer):
        return False
    if len(module.active_adapters) != 1:
        return False
    name = module.active_adapters[0]
    return (
        compat.is_plain_lora(module, name)
        and isinstance(module.lora_dropout[name], nn.Identity)
        and not module.base_layer.weight.requires_grad
    )
