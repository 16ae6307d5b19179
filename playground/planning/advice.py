"""Advice on a fine-tune's settings by published evidence: each with the sources that it rests on."""

import math
from typing import Any

from playground.settings import Settings

# Allen-Zhu and Li, arXiv 2404.05405: what a long training stores at most. "LoRA Without Regret" (Schulman and others,
# Thinking Machines 2025, https://thinkingmachines.ai/blog/lora/) sets it against the loss of the data, about 1 bit a
# token: what learning them by heart takes, more than what generalizes.
BITS_PER_PARAMETER, BITS_PER_TOKEN = 2, 1
# "LoRA Without Regret": the best learning rate of LoRA is that of full fine-tuning times this, whatever the model.
LORA_LR_RATIO = 10
# Ours: what lies between usual rates of the two. Full fine-tunes take 1e-5 to 1e-4, adapters 1e-4 to 1e-3.
LR_BETWEEN = 1e-4
HIGH_RANK, LOW_SCALE = 32, 0.5  # ours: from this rank on and below this α/r, the two ways of scaling differ much

Advice = dict[str, Any]  # {"key" of the words table, "values", "sources": as ui/advice_view.py knows them, "warns"}


def advice_for(settings: Settings, trainable: int | None, labelled: int | None) -> list[Advice]:
    """What published evidence says of these settings, what warns first.

    trainable: parameters that are trained; labelled: different labelled tokens that the run learns from; None where
    they aren't known.
    """
    found = [_targets(settings), _learning_rate(settings), _scale(settings), _capacity(settings, trainable, labelled)]
    return sorted((advice for advice in found if advice), key=lambda advice: not advice["warns"])


def _targets(settings: Settings) -> Advice | None:
    """Adapters on attention layers alone learn worse than on all linear layers (Dettmers and others, 2305.14314)."""
    if settings.train.method == "full" or settings.lora.target_modules.strip() != "attention":
        return None
    return _advice("advice.targets", ("qlora", "without_regret"))


def _learning_rate(settings: Settings) -> Advice | None:
    lr, sources = settings.train.lr, ("without_regret",)
    if settings.train.method == "full" and lr > LR_BETWEEN:
        return _advice("advice.lr_high", sources, lr=lr, other=lr / LORA_LR_RATIO)
    if settings.train.method == "lora" and lr < LR_BETWEEN:
        return _advice("advice.lr_low", sources, lr=lr, other=lr * LORA_LR_RATIO)
    return None


def _scale(settings: Settings) -> Advice | None:
    """Of α/r and α/√r: the sources weigh it differently, so both are told (Kalajdzievski, arXiv 2312.03732)."""
    lora = settings.lora
    scale = lora.alpha / lora.r
    if settings.train.method == "full" or lora.use_rslora or lora.r < HIGH_RANK or scale >= LOW_SCALE:
        return None
    values = {"r": lora.r, "scale": scale, "root": lora.alpha / math.sqrt(lora.r)}
    return _advice("advice.scale", ("rslora", "without_regret"), **values)


def _capacity(settings: Settings, trainable: int | None, labelled: int | None) -> Advice | None:
    if settings.train.method == "full" or not trainable or not labelled:
        return None
    room, needed = BITS_PER_PARAMETER * trainable, BITS_PER_TOKEN * labelled
    values = {"parameters": trainable, "room": room, "tokens": labelled, "needed": needed}
    sources = ("capacity", "without_regret")
    if needed > room:
        return _advice("advice.over_capacity", sources, **values)
    return _advice("advice.capacity", sources, **values) | {"warns": False}


def _advice(key: str, sources: tuple[str, ...], **values: float) -> Advice:
    return {"key": key, "values": values, "sources": list(sources), "warns": True}
