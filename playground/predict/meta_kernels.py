"""Operators as CUDA has them, for the meta device, where torch has them otherwise.

CUDA's attention and dropout kernels, LLM.int8()'s products, and what autograd does in place.
"""

import functools
from typing import Any

import bitsandbytes  # noqa: F401  registers its operators
import torch
from torch.nn import functional

from playground import compat

TORCH_ATTENTION = functional.scaled_dot_product_attention
TORCH_DROPOUT = functional.dropout


def install() -> None:
    """Replace torch's attention and dropout by those of this module; on tensors with values they do the same."""
    functional.scaled_dot_product_attention = attention
    functional.dropout = dropout


def uninstall() -> None:
    """Undo `install`."""
    functional.scaled_dot_product_attention, functional.dropout = TORCH_ATTENTION, TORCH_DROPOUT


def _int8_vectorwise_quant(rows: torch.Tensor, threshold: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, None]:
    empty = functools.partial(torch.empty, device="meta")
    return empty(rows.shape, dtype=torch.int8), empty(rows.shape[:-1].numel(), dtype=torch.float32), None


def _int8_mixed_scaled_mm(
    rows: torch.Tensor, codes: torch.Tensor, weight: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, None]:
    return torch.empty(*rows.shape[:-1], weight.shape[0], dtype=rows.dtype, device="meta"), None


# LLM.int8()'s operators as if no activation were an outlier: how many are depends on the values. index_put is done in
# place by autograd unless a dispatch mode such as a trace is active (torch/csrc/autograd/FunctionsManual.cpp,
# index_backward).
REPLACEMENTS = {
    torch.ops.bitsandbytes.int8_vectorwise_quant.default: _int8_vectorwise_quant,
    torch.ops.bitsandbytes.int8_mixed_scaled_mm.default: _int8_mixed_scaled_mm,
    torch.ops.aten.index_put.default: lambda target, *_: target,
}


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Dropout as on CUDA: one kernel that keeps a byte per value.

    Elsewhere torch multiplies by a tensor of the input's type.
    """
    if input.is_meta and training and 0 < p < 1:
        return torch.native_dropout(input, p, True)[0]
    return TORCH_DROPOUT(input, p, training, inplace)


def attention(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Attention as on CUDA; torch's meta device would compute it step by step, with a square of scores."""
    return (_fused_attention if query.is_meta else TORCH_ATTENTION)(query, *args, **kwargs)


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The kernel that torch chooses on CUDA: flash for half precision without a mask, else the memory-efficient one.

    shapes: (rows, heads, tokens, size). No kernel takes fewer heads of key and value unless `enable_gqa` says that they
    are shared: they are broadcast, and the square of scores is allocated (Falcon). Nor does one take a mask whose last
    dimension isn't contiguous (T5).
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    if key.shape[1] != query.shape[1] and not enable_gqa:
        return TORCH_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if attn_mask is not None and attn_mask.stride(-1) != 1:
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        return _unfused_attention(query, key, value, attn_mask, dropout_p, scale)
    if attn_mask is None and half and query.shape[-1] <= 256 and query.shape[-1] == value.shape[-1]:
        return compat.flash_attention(query, key, value, dropout_p, is_causal, scale=scale)
    if key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    bias = None
    if attn_mask is not None:
        is_bool = attn_mask.dtype == torch.bool
        bias = torch.zeros(attn_mask.shape, dtype=query.dtype, device="meta") if is_bool else attn_mask
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    keeps_sums = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return compat.efficient_attention(query, key, value, bias, keeps_sums, dropout_p, is_causal, scale=scale)


def _unfused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, dropout_p: float, scale: float
) -> torch.Tensor:
    """Attention by separate products, in float32.

    After _scaled_dot_product_attention_math in aten/src/ATen/native/transformers/attention.cpp.
    """
    query, key, value = (tensor.float() for tensor in (query, key, value))
    scores = (query * scale**0.5) @ (key.transpose(-2, -1) * scale**0.5)
    probabilities = compat.safe_softmax(scores.add_(mask), -1)
    return (dropout(probabilities, dropout_p) @ value).to(mask.dtype)
