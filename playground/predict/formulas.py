"""Check a prediction by formula: each part as one line of arithmetic, compared with the bytes in the trace."""

from collections.abc import Iterator
from typing import NamedTuple

from transformers import PreTrainedConfig

from playground import compat
from playground.predict.meta_model import ModelFacts
from playground.predict.phase_traces import CHAT_ROWS
from playground.settings import Settings

TOLERANCE = 0.05  # of the traced bytes; a formula further off doesn't agree
BYTES_PER_WEIGHT = {32: 4.0, 16: 2.0, 8: 1.0}
# At 4 bits, with the constants of a block of 64 weights (Dettmers et al. 2023, arXiv 2305.14314).
BYTES_PER_4BIT_WEIGHT, BYTES_WITH_DOUBLE_QUANT = 0.5625, 0.51587


class Line(NamedTuple):
    """A formula: its part of the ledger, the arithmetic as text (B: bytes), and what it amounts to in bytes."""

    part: str
    arithmetic: str
    size: float


def explain(
    config: PreTrainedConfig, facts: ModelFacts, settings: Settings, predictions: dict, context: int
) -> list[dict]:
    """Formulas for the predictions of the phases: [{"part", "arithmetic", "bytes", "traced", "agrees"}].

    facts: of the whole network. predictions: by phase. context: tokens of a chat's row.
    """
    loaded, chat, tune = (predictions[phase]["parts"] for phase in ("load", "chat", "tune"))
    traced = {
        "weights": loaded.get("weights", 0) + loaded.get("quant_constants", 0),
        "adapters": tune.get("adapters", 0),
        "optimizer": tune.get("optimizer", 0),
        "kv_cache": chat.get("kv_cache", 0),
    }
    lines = (
        *_weights(facts, settings),
        *_trained(predictions["tune"]["trainable"], settings),
        *_kv_cache(config, settings, context),
    )
    return [
        {
            "part": line.part,
            "arithmetic": line.arithmetic,
            "bytes": round(line.size),
            "traced": traced[line.part],
            "agrees": abs(line.size - traced[line.part]) <= TOLERANCE * traced[line.part],
        }
        for line in lines
        if line.part != "optimizer" or "optimizer" in tune  # absent where start values have the peak
    ]


def _weights(facts: ModelFacts, settings: Settings) -> Iterator[Line]:
    """Linear layers at the chosen bits, the rest in 16."""
    bits, count, linear = settings.load.bits, facts.parameters, facts.linear
    four_bits = BYTES_WITH_DOUBLE_QUANT if settings.load.double_quant else BYTES_PER_4BIT_WEIGHT
    each = BYTES_PER_WEIGHT.get(bits, four_bits)
    if bits >= 16:
        yield Line("weights", f"{count / 1e9:.2f} × 10⁹ × {each:g} B", count * each)
        return
    arithmetic = f"{linear / 1e9:.2f} × 10⁹ × {each:g} B + {(count - linear) / 1e9:.2f} × 10⁹ × 2 B"
    yield Line("weights", arithmetic, linear * each + (count - linear) * 2)


def _trained(count: int, settings: Settings) -> Iterator[Line]:
    """AdamW has two moments; for adapters in half precision, also copies in float32."""
    if settings.train.optimizer != "adamw":
        return
    lora, float32 = settings.train.method == "lora", settings.load.bits == 32
    if lora:
        each = 4 if float32 else 2
        yield Line("adapters", f"{count / 1e6:.1f} × 10⁶ × {each} B", count * each)
    copies = lora and not float32
    each = 2 * (4 if float32 or copies else 2) + (4 if copies else 0)
    yield Line("optimizer", f"{count / 1e6:.1f} × 10⁶ × {each} B", count * each)


def _kv_cache(config: PreTrainedConfig, settings: Settings, context: int) -> Iterator[Line]:
    """Keys and values of every layer for every token of two rows; no formula for encoder-decoder models."""
    if config.is_encoder_decoder:
        return
    layers, inner = config.get_text_config().num_hidden_layers, compat.layer_configs(config.get_text_config())[0]
    heads = getattr(inner, "num_key_value_heads", None) or getattr(inner, "num_attention_heads", None)
    if not heads:
        return  # a recurrent network, such as Mamba
    if getattr(inner, "multi_query", False) and not getattr(inner, "new_decoder_architecture", False):
        heads = 1
    head_size = getattr(inner, "head_dim", None) or inner.hidden_size // inner.num_attention_heads
    each = 4 if settings.load.bits == 32 else 2
    arithmetic = f"2 × {layers} × {heads} × {head_size} × {CHAT_ROWS} × {context:,} × {each} B"
    yield Line("kv_cache", arithmetic, 2 * layers * heads * head_size * CHAT_ROWS * context * each)
