"""Model families that are exported as GGUF: llama.cpp's name for each, its metadata, and how it stores their tensors.

Only families that transformers reads back are here, so that each file is compared with the model that it was made from.
Rules as of llama.cpp's convert_hf_to_gguf.py: query and key of the Llama family are reordered for its rotary embedding,
Gemma's norms count from 1, GPT-2's layers are transposed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gguf import GGUFWriter
from torch import Tensor
from transformers import PreTrainedConfig

from playground.errors import problem

WINDOWED = "sliding_attention"  # layers of Gemma 3 whose rotary base no GGUF file holds
Change = Callable[[str, Tensor, PreTrainedConfig], Tensor]  # of a tensor, by its name in the model


def _unchanged(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    return tensor


def _reordered(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    """Rows of query and key with the two halves of each head interleaved, as llama.cpp rotates them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _norm_from_one(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    return tensor + 1 if name.endswith("norm.weight") else tensor


def _transposed(name: str, tensor: Tensor, config: PreTrainedConfig) -> Tensor:
    return tensor.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else tensor


def _decoder(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Metadata of a decoder with rotary positions and RMSNorm."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_vocab_size(config.vocab_size)


def _llama(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _decoder(writer, config)
    writer.add_rope_dimension_count(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _phi3(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _decoder(writer, config)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_sliding_window(config.sliding_window or 0)


def _gemma(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _decoder(writer, config)
    writer.add_sliding_window(config.sliding_window)
    for add, value in (
        (writer.add_attn_logit_softcapping, config.attn_logit_softcapping),
        (writer.add_final_logit_softcapping, config.final_logit_softcapping),
    ):
        if value:
            add(value)


def _gpt2(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)


GEMMA_UNSTORED = (
    "hidden_activation",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "layer_types",
)


@dataclass(frozen=True)
class Family:
    """How GGUF stores a model type.

    architecture: llama.cpp's name. unstored: config fields that a GGUF file has no place for, so that only the config's
    defaults can be exported. always_tied: whether its files have room for one table as embedding and head.
    """

    architecture: str
    write_metadata: Callable[[GGUFWriter, PreTrainedConfig], None]
    change: Change = _unchanged
    unstored: tuple[str, ...] = ()
    always_tied: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", _llama, _reordered, ("hidden_act", "attention_bias", "mlp_bias")),
    "mistral": Family("llama", _llama, _reordered, ("hidden_act",)),
    "qwen2": Family("qwen2", _decoder, unstored=("hidden_act", "use_sliding_window")),
    "qwen3": Family("qwen3", _decoder, unstored=("hidden_act", "head_dim", "use_sliding_window", "attention_bias")),
    "gemma2": Family(
        "gemma2",
        _gemma,
        _norm_from_one,
        GEMMA_UNSTORED,
        always_tied=True,
    ),
    "gemma3_text": Family(
        "gemma3",
        _gemma,
        _norm_from_one,
        GEMMA_UNSTORED,
        always_tied=True,
    ),
    "phi3": Family("phi3", _phi3, unstored=("hidden_act", "partial_rotary_factor")),
    "gpt2": Family("gpt2", _gpt2, _transposed, ("activation_function", "n_inner", "scale_attn_by_inverse_layer_idx")),
}


def family_of(config: PreTrainedConfig) -> Family:
    """How GGUF stores a model with this config.

    Raises PlaygroundError for a family that can't be read back, or a config field that GGUF files don't hold.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise problem("error.export_family", family=config.model_type, families=list(FAMILIES))
    kind: Any = type(config)
    defaults = kind(num_hidden_layers=config.num_hidden_layers)
    for name in family.unstored:
        value, default = getattr(config, name, None), getattr(defaults, name, None)
        if value != default:
            raise problem("error.export_field", family=config.model_type, field=name, value=value, default=default)
    _check_scale(config)
    for layers, rope in rope_settings(config).items():
        _check_rope(config.model_type, rope, rope_settings(defaults).get(layers, {}) if layers == WINDOWED else {})
    return family


def _check_scale(config: PreTrainedConfig) -> None:
    """Raise PlaygroundError for attention scaled otherwise than by the head's size, which llama.cpp takes for Gemma."""
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is not None and scalar != config.head_dim:
        field, head = "query_pre_attn_scalar", config.head_dim
        raise problem("error.export_field", family=config.model_type, field=field, value=scalar, default=head)


def _check_rope(family: str, rope: dict[str, Any], fixed: dict[str, Any]) -> None:
    """Raise PlaygroundError for positions that are scaled, or for another base than the `fixed` one."""
    expected = {"rope_type": "default"} | ({"rope_theta": fixed["rope_theta"]} if fixed else {})
    for name, default in expected.items():
        if rope.get(name) != default:
            raise problem("error.export_field", family=family, field=name, value=rope.get(name), default=default)


def rope_settings(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """{kind of layer: {"rope_type", "rope_theta", ...}} of a config; one nameless kind where all layers are alike."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope if rope and all(isinstance(value, dict) for value in rope.values()) else {"": rope} if rope else {}


def rope_theta(config: PreTrainedConfig) -> float:
    """The base of the rotary embedding; of Gemma 3, that of the layers which attend to all tokens."""
    kinds = rope_settings(config)
    return float((kinds.get("full_attention") or kinds[""])["rope_theta"])


def float_matrix(tensor: Tensor) -> Tensor:
    """The tensor in float32 and contiguous, which the quantizers expect."""
    return tensor.detach().to(torch.float32).contiguous()
