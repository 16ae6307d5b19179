"""Questions about memory, answered before anything is loaded: what this takes, what saves how much, what fits."""

import time
from dataclasses import replace
from functools import cache

import torch
from transformers import PreTrainedConfig

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.errors import problem
from playground.predict import meta_model, phases
from playground.predict.formulas import explain
from playground.settings import Settings, problems, raise_all

SLOWER = {16: 1.0, 8: 1.14, 4: 1.05}  # a trained token beside one at 16 bits: OpenCALM-7B on an H100 (README)
LEAST = 32  # tokens of a context or a row


def forecast(settings: Settings, context: int = 1024, capacity: int = 0, device: str = "cuda") -> dict:
    """Parts and peaks in bytes of loading, chatting and fine-tuning with these settings; every row of full length.

    capacity: bytes of the card that `auto` plans with (0: no limit). The result: {"model", "name", "family", "parameters",
    "layers", "longest", "bits", "method", "trainable", "context", "seconds", "phases", "explained"}. Raises PlaygroundError.
    """
    raise_all(problems(settings))
    began, config = time.perf_counter(), meta_model.config_of(settings.load.model)
    settings, place = resolve_target(settings, device, capacity)
    inner = config.get_text_config()
    longest, used = getattr(inner, "max_position_embeddings", None), max(context, settings.train.max_seq_length)
    if longest and used > longest:
        raise problem("error.length", length=used, longest=longest)
    lengths = [settings.train.max_seq_length] * settings.train.batch_size
    predictions = {
        "load": phases.predict_load(config, settings, place),
        "chat": phases.predict_chat(config, settings, place, max(context, LEAST)),
        "tune": phases.predict_tune(config, settings, place, lengths),
    }
    whole = meta_model.model_facts(config, settings.load, place.dtype, device)
    return {
        "model": settings.load.model,
        "name": catalog.display_name(settings.load.model),
        "family": config.model_type,
        "parameters": whole.parameters,
        "layers": inner.num_hidden_layers,
        "longest": longest,
        "bits": settings.load.bits,
        "method": settings.train.method,
        "trainable": predictions["tune"]["trainable"],
        "context": context,
        "seconds": round(time.perf_counter() - began, 2),
        "phases": predictions,
        "explained": explain(config, whole, settings, predictions, max(context, LEAST)),
    }


def waterfall(settings: Settings) -> list[dict]:
    """What a fine-tune's peak on a card is as one saving after another is added: [{"step", "device_used"}].

    From float32 with every weight trained to this program's LoRA at 4 bits, a row at a time, every layer computed twice. A
    full fine-tune needs weights of 16 bits at least, so LoRA comes before 8 and 4.
    """
    full, lora = (
        {"method": "full", "gradient_checkpointing": "off"},
        {"method": "lora", "gradient_checkpointing": "off"},
    )
    again = lora | {"gradient_checkpointing": "all"}
    steps = [
        ("float32_full", 32, full, True),
        ("bits16_full", 16, full, True),
        ("bits16_lora", 16, lora, True),
        ("bits8_lora", 8, lora, True),
        ("bits4_lora", 4, lora, True),
        ("checkpointing", 4, again, True),
        ("chunked_loss", 4, again, False),
        ("row_by_row", 4, again | {"max_tokens_per_micro_batch": settings.train.max_seq_length}, False),
        (
            "offload",
            4,
            again | {"max_tokens_per_micro_batch": settings.train.max_seq_length, "gradient_checkpointing": "offload"},
            False,
        ),
    ]
    asked = (
        (name, _with(settings, {"bits": bits}, {"optimizer": "adamw", "max_tokens_per_micro_batch": 0} | train), whole)
        for name, bits, train, whole in steps
    )
    return [
        {"step": name, "device_used": _tuned(chosen, all_logits=whole)["device_used"]} for name, chosen, whole in asked
    ]


def fastest_settings(settings: Settings, capacity: int) -> list[dict]:
    """Settings under which a fine-tune of this model fits that many bytes, the fastest first.

    For each bit width what the training core itself would choose for such a card, and every layer computed twice, which
    leaves more of it free. Speed is relative to the best.
    """
    found: dict[tuple, dict] = {}
    for bits in (16, 8, 4):
        for policy in ("auto", "all"):
            told = _tuned(
                _with(
                    settings,
                    {"bits": bits},
                    {"gradient_checkpointing": policy, "method": "lora", "max_tokens_per_micro_batch": 0},
                ),
                capacity,
            )
            if verdict(told["device_used"], capacity) != "no":
                one = {
                    "bits": bits,
                    "checkpointing": told["checkpointing"],
                    "tokens": told["budget"],
                    "device_used": told["device_used"],
                }
                found[bits, told["checkpointing"], told["budget"]] = one | {"work": told["work"] * SLOWER[bits]}
    best = min((one["work"] for one in found.values()), default=1)
    return [
        {"speed": round(best / one.pop("work"), 3)} | one for one in sorted(found.values(), key=lambda one: one["work"])
    ]


def required_memory(
    model: str, bits: int, kind: str, device: str = "cuda", context: int = 1024, batch: int = 1, length: int = 256
) -> int:
    """Bytes of the card, or of main memory on a CPU, that it takes to "chat" with a model, or to "tune" it with LoRA and every layer computed twice."""
    train = {"batch_size": batch, "max_seq_length": length, "gradient_checkpointing": "all"}
    settings, place = resolve_target(_with(Settings(), {"model": model, "bits": bits}, train), device, 0)
    config = meta_model.config_of(model)
    told = (
        phases.predict_chat(config, settings, place, context)
        if kind == "chat"
        else phases.predict_tune(config, settings, place, [length] * batch)
    )
    return told["need"]


def largest_models(context: int = 1024, batch: int = 1, length: int = 256) -> list[dict]:
    """For each card and bit width, the largest model of the catalog that it can chat with, and fine-tune with LoRA."""
    models = sorted(catalog.shapes().values(), key=lambda entry: -entry["parameters"])
    needed = cache(
        lambda model, bits, kind: required_memory(model, bits, kind, context=context, batch=batch, length=length)
    )

    def fit(bits: int, kind: str, most: int) -> dict | None:
        for entry in models:
            # weights alone, as if all were of that width: what doesn't even fit so need not be traced
            if entry["parameters"] * bits / 8 < most and verdict(needed(entry["id"], bits, kind), most) != "no":
                return {"id": entry["id"], "name": entry["name"], "device_used": needed(entry["id"], bits, kind)}
        return None

    return [
        {
            "card": card["id"],
            "gib": card["gib"],
            "bits": bits,
            **{kind: fit(bits, kind, card["bytes"]) for kind in ("chat", "tune")},
        }
        for card in cards()
        for bits in (16, 8, 4)
    ]


def _with(settings: Settings, load: dict, train: dict) -> Settings:
    return replace(settings, load=replace(settings.load, **load), train=replace(settings.train, **train))


def resolve_target(settings: Settings, device: str, capacity: int) -> tuple[Settings, phases.Target]:
    """The settings with a bit width, and the place; on a card half precision is bfloat16 unless float16 is asked for."""
    bits = settings.load.bits or 16
    half = torch.float16 if settings.load.dtype == "float16" else torch.bfloat16
    place = phases.Target(device, torch.float32 if bits == 32 else half, capacity)
    return _with(settings, {"bits": bits}, {}), place


def _tuned(settings: Settings, capacity: int = 0, all_logits: bool = False) -> dict:
    raise_all(problems(settings))
    settings, place = resolve_target(settings, "cuda", capacity)
    config: PreTrainedConfig = meta_model.config_of(settings.load.model)
    return phases.predict_tune(
        config, settings, place, [settings.train.max_seq_length] * settings.train.batch_size, all_logits=all_logits
    )
