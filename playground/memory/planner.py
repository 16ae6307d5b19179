"""Questions about memory, answered before anything is loaded: what this takes, what saves how much, what fits."""

import time
from dataclasses import replace

import torch
from transformers import PreTrainedConfig

from playground import catalog
from playground.errors import problem
from playground.memory import predict, shape
from playground.memory.cards import cards, verdict
from playground.settings import Settings, check, problems

DIALS = ("off", "2", "all", "offload")
LEAST = 32  # tokens of a context or a row


def forecast(settings: Settings, context: int = 1024, capacity: int = 0, device: str = "cuda") -> dict:
    """Parts and peaks in bytes of loading, chatting and fine-tuning with these settings; every row of full length.

    capacity: bytes of the card that `auto` plans with (0: no limit). The result: {"model", "name", "family", "parameters",
    "layers", "longest", "bits", "method", "trainable", "context", "seconds", "phases", "explained"}. Raises PlaygroundError.
    """
    check(problems(settings))
    began, config = time.perf_counter(), shape.config_of(settings.load.model)
    settings, place = _settled(settings, device, capacity)
    inner = config.get_text_config()
    longest, used = getattr(inner, "max_position_embeddings", None), max(context, settings.train.length)
    if longest and used > longest:
        raise problem("error.length", length=used, longest=longest)
    lengths = [settings.train.length] * settings.train.batch
    phases = {
        "load": predict.load(config, settings, place), "chat": predict.chat(config, settings, place, max(context, LEAST)),
        "tune": predict.tune(config, settings, place, lengths),
    }  # fmt: skip
    entry = catalog.shapes().get(settings.load.model, {})
    model = shape.build(config, replace(settings.load, bits=16), place.dtype, device)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "model": settings.load.model, "name": entry.get("name", settings.load.model), "family": config.model_type, "parameters": parameters,
        "layers": inner.num_hidden_layers, "longest": longest, "bits": settings.load.bits, "method": settings.train.method,
        "trainable": phases["tune"]["trainable"], "context": context, "seconds": round(time.perf_counter() - began, 2),
        "phases": phases, "explained": [_weights_explained(model, settings, phases)],
    }  # fmt: skip


def waterfall(settings: Settings, capacity: int = 0) -> list[dict]:
    """What a fine-tune's peak on the card is as one saving after another is added: [{"step", "device"}].

    From float32 with every weight trained to this program's LoRA at 4 bits, every layer computed twice, kept in main memory.
    """
    steps = {
        "float32_full": ({"bits": 32}, {"method": "full", "checkpointing": "off"}), "bits16_full": ({"bits": 16}, {"method": "full", "checkpointing": "off"}),
        "bits16_lora": ({"bits": 16}, {"method": "lora", "checkpointing": "off"}), "bits8_lora": ({"bits": 8}, {"method": "lora", "checkpointing": "off"}),
        "bits4_lora": ({"bits": 4}, {"method": "lora", "checkpointing": "off"}), "checkpointing": ({"bits": 4}, {"method": "lora", "checkpointing": "all"}),
        "offload": ({"bits": 4}, {"method": "lora", "checkpointing": "offload"}),
    }  # fmt: skip
    return [{"step": name, "device": _tuned(_with(settings, load, train | {"optimizer": "adamw", "tokens": 0}))["device"]} for name, (load, train) in steps.items()]


def fastest(settings: Settings, capacity: int) -> list[dict]:
    """Settings under which a fine-tune of this model fits that many bytes, the fastest first.

    Speed is relative to the best, in passes over the model: a layer computed twice is one pass more of three.
    """
    found = []
    for bits in (16, 8, 4):
        for dial in DIALS:
            told = _tuned(_with(settings, {"bits": bits}, {"checkpointing": dial, "method": "lora", "tokens": 0}))
            if verdict(told["device"], capacity) != "no":
                work = {"off": 2.0, "2": 2.5, "all": 3.0, "offload": 3.15}[dial] * {16: 1.0, 8: 1.1, 4: 1.05}[bits]
                found.append({"bits": bits, "checkpointing": dial, "tokens": 0, "device": told["device"], "speed": 1 / work})
                break  # what saves more is slower
    found.sort(key=lambda one: -one["speed"])
    return [one | {"speed": round(one["speed"] / found[0]["speed"], 3)} for one in found]


def largest(context: int = 1024, batch: int = 1, length: int = 256) -> list[dict]:
    """For each card and bit width, the largest model of the catalog that it can chat with, and fine-tune with LoRA."""
    needs = []
    for entry in sorted(catalog.shapes().values(), key=lambda e: -e["parameters"]):
        config = shape.config_of(entry["id"])
        for bits in (16, 8, 4):
            settings, place = _settled(_with(Settings(), {"model": entry["id"], "bits": bits}, {"batch": batch, "length": length, "checkpointing": "all"}), "cuda", 0)
            needs.append((entry, bits, predict.chat(config, settings, place, context)["device"], predict.tune(config, settings, place, [length] * batch)["device"]))
    rows = []
    for card in cards():
        for bits in (16, 8, 4):
            fit = {"chat": None, "tune": None}
            for entry, width, *sizes in needs:
                for kind, size in zip(fit, sizes):
                    if width == bits and fit[kind] is None and verdict(size, card["bytes"]) != "no":
                        fit[kind] = {"id": entry["id"], "name": entry["name"], "device": size}
            rows.append({"card": card["id"], "gib": card["gib"], "bits": bits, **fit})
    return rows


def _with(settings: Settings, load: dict, train: dict) -> Settings:
    return replace(settings, load=replace(settings.load, **load), train=replace(settings.train, **train))


def _settled(settings: Settings, device: str, capacity: int) -> tuple[Settings, predict.Place]:
    """The settings with a bit width, and the place; on a card half precision is bfloat16 unless float16 is asked for."""
    bits = settings.load.bits or 16
    half = torch.float16 if settings.load.dtype == "float16" else torch.bfloat16
    place = predict.Place(device, torch.float32 if bits == 32 else half, capacity)
    return _with(settings, {"bits": bits}, {}), place


def _tuned(settings: Settings) -> dict:
    check(problems(settings))
    settings, place = _settled(settings, "cuda", 0)
    config: PreTrainedConfig = shape.config_of(settings.load.model)
    return predict.tune(config, settings, place, [settings.train.length] * settings.train.batch)


def _weights_explained(model, settings: Settings, phases: dict) -> dict:
    """The weights in one line of arithmetic beside what the trace has: linear layers in the chosen bits, the rest in 16."""
    from playground.model import adapt

    bits, rest = settings.load.bits, sum(p.numel() for p in model.parameters())
    linear = sum(m.weight.numel() for m in adapt.linear_layers(model).values()) if bits < 16 else 0
    a_weight = {32: 4.0, 16: 2.0, 8: 1.0, 4: 0.51587 if settings.load.double_quant else 0.5625}[bits]  # with its constants (arXiv 2305.14314)
    size = round(linear * a_weight + (rest - linear) * (4 if bits == 32 else 2))
    traced = sum(phases["load"]["parts"].get(part, 0) for part in ("weights", "quant_constants"))
    whole = f"{rest / 1e9:.2f} B × {a_weight:g} B" if bits >= 16 else f"{linear / 1e9:.2f} B × {a_weight:g} B + {(rest - linear) / 1e9:.2f} B × 2 B"
    return {"part": "weights", "arithmetic": whole, "bytes": size, "traced": traced, "agrees": abs(size - traced) <= 0.05 * traced}
