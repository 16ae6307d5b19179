"""Check a model's config for plausible numbers, before anything is built from it.

The limits leave room for several times the largest open models, of some hundred layers and some hundred experts a
layer, and keep every network small enough to be built on the meta device.
"""

from collections.abc import Iterator
from typing import Any

from playground.errors import Problem

MOST_LAYERS = 1_000
MOST: dict[str, int] = {
    **dict.fromkeys(
        (
            *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"),
            *("num_encoder_layers", "num_decoder_layers", "block_count", "num_nextn_predict_layers"),
        ),
        MOST_LAYERS,
    ),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "n_embed", "d_model", "dim", "emb_dim", "embedding_length", "head_dim", "d_kv"), 2**18
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "feed_forward_length", "moe_intermediate_size"), 2**21
    ),
    **dict.fromkeys(
        ("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads", "head_count", "head_count_kv"),
        2**13,
    ),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "moe_num_experts", "expert_count"),
        2**12,
    ),
    # Names that transformers (5.23) repeats into lists as it reads a config, besides those that end in "layers".
    **dict.fromkeys(("first_k_dense_replace", "attention_types", "block_repeats", "stage_num_blocks"), MOST_LAYERS),
    "num_labels": 2**16,
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "type_vocab_size"), 2**24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "context_length"), 2**32),
}
MOST_LISTED = 2**20  # values of one list
MOST_OTHER = 2**48  # of any other number of a config
MOST_EXPERT_LAYERS = 100_000  # experts of all layers together
LAYERS = tuple(name for name in MOST if "layer" in name or name == "block_count")
EXPERTS = tuple(name for name, most in MOST.items() if most == 2**12)
MAX_LEVELS = 8  # of configs in each other


def implausible_sizes(values: Any, level: int = 0) -> Iterator[Problem]:
    """A Problem for every size in a config, and in those within it, that no model has.

    values: of a config.json, or the metadata of a GGUF file, whose names begin with the architecture's.
    """
    if not isinstance(values, dict) or level > MAX_LEVELS:
        return
    for name, value in values.items():
        short = str(name).rsplit(".", 1)[-1]
        if isinstance(value, dict):
            yield from implausible_sizes(value, level + 1)
            continue
        most = MOST.get(short, MOST_LAYERS if short.endswith("layers") else MOST_OTHER)
        if isinstance(value, (list, tuple)):
            longest = MOST_LAYERS if short.startswith("layer") else MOST_LISTED
            yield from _too_large(name, len(value), longest)
            value = max((abs(number) for number in _whole_numbers(value)), default=0)
        if type(value) is int:
            yield from _too_large(name, value, most)
    layers, experts = _largest(values, LAYERS), _largest(values, EXPERTS)
    if layers * experts > MOST_EXPERT_LAYERS:
        together = layers * experts
        yield Problem("error.config_large", {"name": "layers × experts", "value": together, "most": MOST_EXPERT_LAYERS})


def _too_large(name: Any, size: int, most: int) -> Iterator[Problem]:
    if abs(size) > most:
        yield Problem("error.config_large", {"name": str(name)[:60], "value": _short(size), "most": most})


def _whole_numbers(values: Any, level: int = 0) -> Iterator[int]:
    """The whole numbers in a list, and in those within it."""
    for value in values[:MOST_LISTED]:
        if type(value) is int:
            yield value
        elif isinstance(value, (list, tuple)) and level < MAX_LEVELS:
            yield from _whole_numbers(value, level + 1)


def _largest(values: dict, names: tuple[str, ...]) -> int:
    """The largest of the whole numbers of these names; 0 for none."""
    found = (value for name, value in values.items() if str(name).rsplit(".", 1)[-1] in names)
    return max((value for value in found if type(value) is int), default=0)


def _short(value: int) -> str:
    """A number in a sentence, in few digits."""
    try:
        return f"{value:.3g}" if abs(value) >= 10**15 else str(value)
    except OverflowError:
        return "1e+308"
