"""The analytic twin: each part of a prediction as one line of arithmetic, beside what the trace has."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from playground.predict.meta_model import ModelFacts
from playground.predict.phases import CHAT_ROWS
from playground.settings import Settings

WITHIN = 0.05  # of what the trace has; further away, the line says so
A_WEIGHT = {32: 4.0, 16: 2.0, 8: 1.0}  # bytes; at 4 bits with the constants of a block of 64 (arXiv 2305.14314)
BLOCKS, TWICE = 0.5625, 0.51587


def explain(config: PreTrainedConfig, whole: ModelFacts, settings: Settings, phases: dict, context: int) -> list[dict]:
    """[{"part", "arithmetic", "bytes", "traced", "agrees"}]; whole: the network's counts."""
    loaded, chat, tune = (phases[name]["parts"] for name in ("load", "chat", "tune"))
    traced = {
        "weights": loaded.get("weights", 0) + loaded.get("quant_constants", 0),
        "adapters": tune.get("adapters", 0),
        "optimizer": tune.get("optimizer", 0),
        "kv_cache": chat.get("kv_cache", 0),
    }
    lines = []
    for part, arithmetic, size in (
        *_weights(whole, settings),
        *_trained(phases["tune"]["trainable"], settings),
        *_cache(config, settings, context),
    ):
        lines.append(
            {
                "part": part,
                "arithmetic": arithmetic,
                "bytes": round(size),
                "traced": traced[part],
                "agrees": abs(size - traced[part]) <= WITHIN * traced[part],
            }
        )
    return lines


def _weights(whole: ModelFacts, settings: Settings) -> Iterator[tuple[str, str, float]]:
    """Linear layers in the chosen bits, the rest in 16."""
    bits, count, linear = settings.load.bits, whole.parameters, whole.linear
    each = A_WEIGHT.get(bits) or (TWICE if settings.load.double_quant else BLOCKS)
    if bits >= 16:
        yield "weights", f"{count / 1e9:.2f} B × {each:g} B", count * each
        return
    yield (
        "weights",
        f"{linear / 1e9:.2f} B × {each:g} B + {(count - linear) / 1e9:.2f} B × 2 B",
        linear * each + (count - linear) * 2,
    )


def _trained(count: int, settings: Settings) -> Iterator[tuple[str, str, float]]:
    """AdamW keeps two averages; of trained adapters in half precision, copies in float32 besides."""
    if settings.train.optimizer != "adamw":
        return
    wide = settings.load.bits == 32
    if settings.train.method == "lora":
        yield "adapters", f"{count / 1e6:.1f} M × {4 if wide else 2} B", count * (4 if wide else 2)
    copies = settings.train.method == "lora" and not wide
    each = 2 * (4 if wide or copies else 2) + (4 if copies else 0)
    yield "optimizer", f"{count / 1e6:.1f} M × {each} B", count * each


def _cache(whole: PreTrainedConfig, settings: Settings, context: int) -> Iterator[tuple[str, str, float]]:
    """Keys and values of every layer for every token of two rows."""
    config = whole.get_text_config()
    if whole.is_encoder_decoder:
        return
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        heads = 1
    size, each = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        4 if settings.load.bits == 32 else 2,
    )
    layers = config.num_hidden_layers
    yield (
        "kv_cache",
        f"2 × {layers} × {heads} × {size} × {CHAT_ROWS} × {context:,} × {each} B",
        2 * layers * heads * size * CHAT_ROWS * context * each,
    )
