"""Forecast memory before anything is loaded: a model's phases, each saving's effect, and what fits which GPU.

Every function takes validated settings; the planning process parses them.
"""

import time
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedConfig

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.errors import problem
from playground.model.dtype import default_bits, requested_dtype
from playground.predict import meta_model, phases
from playground.predict.formulas import explain
from playground.predict.seconds import RELATIVE_TOKEN_SECONDS
from playground.settings import BIT_WIDTHS, Settings

MIN_CONTEXT = 32  # tokens of a chat, at least


def forecast(settings: Settings, context: int = 1024, capacity: int = 0, device: str = "cuda") -> dict:
    """Predict loading, chatting and fine-tuning with these settings, every row of full length.

    context: tokens of the chat. capacity: bytes of the memory that `auto` plans for, 0: no limit. Returns {"model",
    "name", "family", "parameters", "layers", "longest" (tokens that the model can take), "bits", "method",
    "trainable" (parameters), "context", "seconds" (of this forecast), "phases": {phase: predict.phases' prediction},
    "explained" (predict.formulas)}. Raises PlaygroundError.
    """
    began, config = time.perf_counter(), meta_model.config_of(settings.load.model)
    settings, target = resolve_target(settings, device, capacity)
    check_context_length(config, max(context, settings.train.max_seq_length))
    chat_context = max(context, MIN_CONTEXT)
    predictions = {
        "load": phases.predict_load(config, settings, target),
        "chat": phases.predict_chat(config, settings, target, chat_context),
        "tune": phases.predict_tune(config, settings, target, _full_rows(settings)),
    }
    facts = meta_model.model_facts(config, settings.load, target.dtype, device)
    return {
        "model": settings.load.model,
        "name": catalog.display_name(settings.load.model),
        "family": config.model_type,
        "parameters": facts.parameters,
        "layers": config.get_text_config().num_hidden_layers,
        "longest": max_context_length(config),
        "bits": settings.load.bits,
        "method": settings.train.method,
        "trainable": predictions["tune"]["trainable"],
        "context": context,
        "seconds": round(time.perf_counter() - began, 2),
        "phases": predictions,
        "explained": explain(config, facts, settings, predictions, chat_context),
    }


def max_context_length(config: PreTrainedConfig) -> int | None:
    """Tokens that the model can take, or None where its config doesn't say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_context_length(config: PreTrainedConfig, tokens: int) -> None:
    """Raise PlaygroundError if that is more tokens than the model can take."""
    longest = max_context_length(config)
    if longest and tokens > longest:
        raise problem("error.length", length=tokens, longest=longest)


def resolve_target(settings: Settings, device: str, capacity: int) -> tuple[Settings, phases.Target]:
    """The settings with a bit width, and the target to predict for.

    Bits left open become those that "auto" means on that device. A half-precision type left open becomes bfloat16,
    whatever GPU the page runs on: float16 needs the same bytes.
    """
    settings = _with(settings, load={"bits": settings.load.bits or default_bits(device)})
    dtype = requested_dtype(settings.load) or torch.bfloat16
    return settings, phases.Target(device, dtype, capacity)


def waterfall(settings: Settings) -> list[dict]:
    """A fine-tune's peak on a GPU as one saving after another is added: [{"step", "device_used" (bytes)}].

    From float32 with every weight trained to LoRA at 4 bits, one row at a time, every layer recomputed and its input
    offloaded. A full fine-tune needs weights of 16 bits at least, so LoRA comes before 8 and 4 bits.
    """
    full: dict[str, Any] = {"method": "full", "gradient_checkpointing": "off"}
    lora: dict[str, Any] = {"method": "lora", "gradient_checkpointing": "off"}
    recompute = lora | {"gradient_checkpointing": "all"}
    row_by_row = {"max_tokens_per_micro_batch": settings.train.max_seq_length}
    offload = {"gradient_checkpointing": "offload"}
    steps = [  # name, bits, settings, all logits at once
        ("float32_full", 32, full, True),
        ("bits16_full", 16, full, True),
        ("bits16_lora", 16, lora, True),
        ("bits8_lora", 8, lora, True),
        ("bits4_lora", 4, lora, True),
        ("checkpointing", 4, recompute, True),
        ("chunked_loss", 4, recompute, False),
        ("row_by_row", 4, recompute | row_by_row, False),
        ("offload", 4, recompute | row_by_row | offload, False),
    ]
    plain = {"optimizer": "adamw", "max_tokens_per_micro_batch": 0}
    bars = []
    for name, bits, train, all_logits in steps:
        prediction = _predict_tune(_with(settings, load={"bits": bits}, train=plain | train), all_logits=all_logits)
        bars.append({"step": name, "device_used": prediction["device_used"]})
    return bars


def fastest_settings(settings: Settings, capacity: int) -> list[dict]:
    """Settings under which a fine-tune of this model fits that many bytes of a GPU, the fastest first.

    For each bit width, the checkpointing that `auto` chooses for such a GPU, and "all", which leaves more memory free.
    Returns [{"speed" (relative to the best), "bits", "checkpointing", "tokens", "device_used"}].
    """
    options: dict[tuple[int, str, int], tuple[float, dict]] = {}  # (work a token, option)
    for bits in RELATIVE_TOKEN_SECONDS:
        for checkpointing in ("auto", "all"):
            train = {"gradient_checkpointing": checkpointing, "method": "lora", "max_tokens_per_micro_batch": 0}
            prediction = _predict_tune(_with(settings, load={"bits": bits}, train=train), capacity)
            if verdict(prediction["need"], capacity) != "no":
                option = {
                    "bits": bits,
                    "checkpointing": prediction["checkpointing"],
                    "tokens": prediction["budget"],
                    "device_used": prediction["device_used"],
                }
                work = prediction["work"] * RELATIVE_TOKEN_SECONDS[bits]
                options[bits, prediction["checkpointing"], prediction["budget"]] = work, option
    ranked = sorted(options.values(), key=lambda pair: pair[0])
    return [{"speed": round(ranked[0][0] / work, 3), **option} for work, option in ranked]


def required_memory(
    model: str, bits: int, job: str, device: str = "cuda", context: int = 1024, batch: int = 1, length: int = 256
) -> int:
    """Bytes that a model needs to "chat", or to "tune" with LoRA and every layer recomputed.

    Bytes of a GPU for the device "cuda", of main memory for "cpu". batch: rows; length: tokens of each.
    """
    train = {"batch_size": batch, "max_seq_length": length, "gradient_checkpointing": "all"}
    settings, target = resolve_target(_with(Settings(), load={"model": model, "bits": bits}, train=train), device, 0)
    config = meta_model.config_of(model)
    if job == "chat":
        return phases.predict_chat(config, settings, target, context)["need"]
    return phases.predict_tune(config, settings, target, _full_rows(settings))["need"]


def largest_models(context: int = 1024, batch: int = 1, length: int = 256) -> list[dict]:
    """For each GPU and bit width, the catalog's largest model to chat with and the largest to fine-tune with LoRA.

    Returns [{"card", "gib", "bits", "chat": {"id", "name", "device_used"} or None, "tune": the same}].
    """
    models = sorted(catalog.shapes().values(), key=lambda entry: -entry["parameters"])

    @cache
    def need(model: str, bits: int, job: str) -> int:
        return required_memory(model, bits, job, context=context, batch=batch, length=length)

    def largest(bits: int, job: str, capacity: int) -> dict | None:
        for entry in models:
            # Where even the weights at that width don't fit, there is nothing to trace.
            if entry["parameters"] * bits / 8 >= capacity:
                continue
            if verdict(need(entry["id"], bits, job), capacity) != "no":
                return {"id": entry["id"], "name": entry["name"], "device_used": need(entry["id"], bits, job)}
        return None

    return [
        {
            "card": card["id"],
            "gib": card["gib"],
            "bits": bits,
            **{job: largest(bits, job, card["bytes"]) for job in ("chat", "tune")},
        }
        for card in cards()
        for bits in BIT_WIDTHS
        if bits < 32
    ]


def predict_full_rows(settings: Settings, device: str, capacity: int) -> dict:
    """Predict a fine-tune whose rows all have the full number of tokens (phases.predict_tune).

    Raises PlaygroundError for a model that is unknown or can't take so many tokens.
    """
    settings, target = resolve_target(settings, device, capacity)
    config = meta_model.config_of(settings.load.model)
    check_context_length(config, settings.train.max_seq_length)
    return phases.predict_tune(config, settings, target, _full_rows(settings))


def _predict_tune(settings: Settings, capacity: int = 0, all_logits: bool = False) -> dict:
    settings, target = resolve_target(settings, "cuda", capacity)
    config = meta_model.config_of(settings.load.model)
    return phases.predict_tune(config, settings, target, _full_rows(settings), all_logits=all_logits)


def _full_rows(settings: Settings) -> list[int]:
    """The lengths of a batch whose rows all have the full number of tokens."""
    return [settings.train.max_seq_length] * settings.train.batch_size


def _with(settings: Settings, load: dict | None = None, train: dict | None = None) -> Settings:
    """Settings with some fields replaced by values of this program's own, which need no validation."""
    return replace(settings, load=replace(settings.load, **load or {}), train=replace(settings.train, **train or {}))
