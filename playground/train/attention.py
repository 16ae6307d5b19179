"""Attention over packed rows on CUDA: each row looks at itself alone, and no mask of tokens × tokens is made.

torch.nn.attention.varlen reads where rows begin and end (flash attention: Dao 2023, arXiv 2307.08691); transformers'
`AttentionInterface` lets any of its models use it.
"""

import contextlib
import inspect
from collections.abc import Iterator

import torch
from transformers import AttentionInterface, PreTrainedModel

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch without it
    varlen_attn = None

NAME = "packed_rows"
NEEDS_GQA_FLAG = (
    varlen_attn is not None and "enable_gqa" in inspect.signature(varlen_attn).parameters
)  # before torch 2.12 fewer heads of key and value needed no flag


def supports_packed_rows(model: PreTrainedModel) -> bool:
    """Whether this model's attention can go that way here: on CUDA, in half precision, with heads that the kernel takes."""
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    capable = getattr(model, "stands_for", "") == "cuda" or (
        model.device.type == "cuda" and torch.cuda.get_device_capability(model.device)[0] >= 8
    )
    drops = any(
        getattr(config, name, 0) for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
    )  # the kernel can't
    settable = getattr(
        model, "_can_set_attn_implementation", lambda: True
    )()  # an older family's attention can't be set
    return (
        varlen_attn is not None
        and capable
        and settable
        and not drops
        and model.dtype in (torch.float16, torch.bfloat16)
        and head % 8 == 0
        and head <= 256
    )


@contextlib.contextmanager
def packed_rows(model: PreTrainedModel) -> Iterator[None]:
    """Within it, the model's attention is ours."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    cu_seq_lens_q=None,
    max_length_q=0,
    softcap=None,
    s_aux=None,
    **_,
):
    """query, key, value: (1, heads, tokens, head size), fewer heads of key and value where they are grouped.

    Raises ValueError for what the kernel can't: capped logits, sinks.
    """
    if softcap or s_aux is not None or cu_seq_lens_q is None:
        raise ValueError(NAME)
    rows = [
        tensor.transpose(1, 2).flatten(0, 1).contiguous() for tensor in (query, key, value)
    ]  # keeps no wider tensor alive
    grouped = {"enable_gqa": True} if NEEDS_GQA_FLAG and key.shape[1] != query.shape[1] else {}
    made = varlen_attn(
        *rows, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, window_size=(-1, 0), scale=scaling, **grouped
    )
    return made[None], None


AttentionInterface.register(NAME, _attend)
