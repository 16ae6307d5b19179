"""Operators that aren't as torch's meta device has them: CUDA's own attention and dropout, LLM.int8()'s products, what autograd does in place."""

import functools

import bitsandbytes  # noqa: F401  its operators
import torch
from torch.nn import functional

TORCH_ATTENTION = functional.scaled_dot_product_attention
TORCH_DROPOUT = functional.dropout


def _in_8_bits(rows: torch.Tensor, threshold: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, None]:
    empty = functools.partial(torch.empty, device="meta")
    return empty(rows.shape, dtype=torch.int8), empty(rows.shape[:-1].numel(), dtype=torch.float32), None


def _product_in_8_bits(rows: torch.Tensor, codes, weight: torch.Tensor, *_) -> tuple[torch.Tensor, None]:
    return torch.empty(*rows.shape[:-1], weight.shape[0], dtype=rows.dtype, device="meta"), None


# LLM.int8()'s own operators as if no activation were an outlier: how many are is in the values. And what autograd does in
# place, where it sees that nothing like this tape is looking on (torch/csrc/autograd/FunctionsManual.cpp, index_backward).
REPLACEMENTS = {
    torch.ops.bitsandbytes.int8_vectorwise_quant.default: _in_8_bits,
    torch.ops.bitsandbytes.int8_mixed_scaled_mm.default: _product_in_8_bits,
    torch.ops.aten.index_put.default: lambda into, *_: into,
}


def dropout(values: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """As CUDA has it: one kernel that keeps a byte a value, which everywhere else is a product with a tensor of their type."""
    if values.is_meta and training and 0 < p < 1:
        return torch.native_dropout(values, p, True)[0]
    return TORCH_DROPOUT(values, p, training, inplace)


def attention(query, *args, **kwargs):
    """Attention as CUDA has it: torch's meta device would compute it step by step, with a square of scores."""
    return (_fused if query.is_meta else TORCH_ATTENTION)(query, *args, **kwargs)


def _fused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The kernel that torch chooses on CUDA: flash where there is no mask, in half precision; else the memory-efficient one.

    shapes: (rows, heads, tokens, size). Fewer heads of key and value that nobody said are shared fit no kernel: they are
    spread out, and the square of scores is there (Falcon). Nor does a mask whose last dimension isn't the innermost (T5).
    """
    aten, half = torch.ops.aten, query.dtype in (torch.float16, torch.bfloat16)
    if key.shape[1] != query.shape[1] and not enable_gqa:
        return TORCH_ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if attn_mask is not None and attn_mask.stride(-1) != 1:
        return _by_steps(query, key, value, attn_mask, dropout_p, query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None and half and query.shape[-1] <= 256 and query.shape[-1] == value.shape[-1]:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    bias = None
    if attn_mask is not None:
        bias = (
            torch.zeros(attn_mask.shape, dtype=query.dtype, device="meta")
            if attn_mask.dtype == torch.bool
            else attn_mask
        )
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    needs = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, needs, dropout_p, is_causal, scale=scale
    )[0]


def _by_steps(query, key, value, mask, dropout_p, scale):
    """Attention without a kernel of its own, in float32 (aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math)."""
    query, key, value = (one.float() for one in (query, key, value))
    scores = (query * scale**0.5) @ (key.transpose(-2, -1) * scale**0.5)
    shares = torch._safe_softmax(scores.add_(mask), -1)
    return (dropout(shares, dropout_p) @ value).to(mask.dtype)
