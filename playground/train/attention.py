"""Attention over packed rows on CUDA: each row attends to itself alone, without a mask of tokens × tokens.

torch.nn.attention.varlen reads where rows begin and end (flash attention: Dao 2023, arXiv 2307.08691); transformers'
`AttentionInterface` lets any of its models use it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from playground import compat

NAME = "packed_rows"
VARLEN_ATTENTION, NEEDS_GQA_FLAG = compat.varlen_attention()


def supports_packed_rows(model: PreTrainedModel) -> bool:
    """Whether this model can use it: on CUDA, in half precision, without dropout, and with a head size it takes."""
    config = model.config.get_text_config()
    head_sizes = _head_sizes(config)
    on_cuda = getattr(model, "stands_for", "") == "cuda" or (
        model.device.type == "cuda" and torch.cuda.get_device_capability(model.device)[0] >= 8
    )
    has_dropout = any(
        getattr(config, name, 0) for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
    )
    return (
        VARLEN_ATTENTION is not None
        and on_cuda
        and compat.can_set_attention(model)
        and not has_dropout
        and model.dtype in (torch.float16, torch.bfloat16)
        and bool(head_sizes)
        and all(size % 8 == 0 and 0 < size <= 256 for size in head_sizes)
    )


def _head_sizes(config: PreTrainedConfig) -> set[int]:
    """The sizes of attention heads; empty where a model has none (RWKV). Layers may differ in theirs (Gemma 4)."""
    layers = compat.layer_configs(config)
    sizes = {size for layer in layers if (size := getattr(layer, "head_dim", None))}
    counts = {count for layer in layers if (count := getattr(layer, "num_attention_heads", None))}
    return sizes or {config.hidden_size // count for count in counts}


@contextlib.contextmanager
def packed_rows(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend within packed rows, by the batch's `cu_seq_lens_q`."""
    before = compat.attention_implementation(model.config)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query, key, value: (1, heads, tokens, head size), fewer heads of key and value where they are grouped.

    Raises ValueError for what the kernel doesn't do: capped logits, sinks.
    """
    if softcap or s_aux is not None or cu_seq_lens_q is None or VARLEN_ATTENTION is None:
        raise ValueError(NAME)
    # contiguous, so that autograd keeps no wider tensor alive
    rows = [tensor.transpose(1, 2).flatten(0, 1).contiguous() for tensor in (query, key, value)]
    grouped = {"enable_gqa": True} if NEEDS_GQA_FLAG and key.shape[1] != query.shape[1] else {}
    output = VARLEN_ATTENTION(
        *rows, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, window_size=(-1, 0), scale=scaling, **grouped
    )
    return output[None], None


AttentionInterface.register(NAME, _attend)
