"""What a cutoff costs: a fine-tune's memory from the planner, and its seconds, estimated from a card's peak rate.

The estimate counts floating-point operations: two a weight of the layers and token in a forward pass (Kaplan et al. 2020,
arXiv 2001.08361), as many again in the backward pass of frozen weights, once more where they are trained or a layer is
computed twice; attention over the tokens before; the head for labelled tokens alone. A card is taken to do the share of
its peak that whole passes reached on an H100 (README), and a micro-batch at least as long as its kernels take to launch.
"""

import math
import re
from dataclasses import replace

import torch
from transformers import PreTrainedConfig

from playground import beside
from playground.data.lengths import Lengths, cut, padding
from playground.errors import PlaygroundError, problem
from playground.memory import shape
from playground.memory.cards import cards, verdict
from playground.memory.planner import SLOWER, placed
from playground.settings import Settings
from playground.train.loop import total_steps
from playground.train.plan import ASSUMED, FIXED, LAUNCHING, OFFLOADING, REACHED, linear_weights

PEAK_TRIED = 989.4e12  # operations a second of the H100 that ASSUMED and REACHED were measured on, as its maker says
UTILIZED = REACHED * ASSUMED / PEAK_TRIED  # of a card's peak, by a whole pass: 0.48
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # layers of which a token takes only some


def price(lengths: Lengths, settings: Settings, config: PreTrainedConfig, capacity: int = 0, device: str = "cuda", card: str = "", measured: dict | None = None, scale: float = 1.0) -> dict:
    """What a fine-tune on rows of these lengths costs, its cutoff being settings.train.length.

    scale: rows there are for each one that was counted; steps and seconds are of them all. capacity: bytes of the memory that it is to fit (0: no limit); card: an id of the catalog's, or a device's name; measured:
    the speed of an earlier run, as runs.speed has it. The result: what `cut` says, "padding", "steps", "epochs", and
    "memory" {"bytes", "capacity", "verdict", "checkpointing", "feed", "tokens", "rows"} or None, "trouble" (an error as a
    dict, where there is no memory to tell of), "estimates" [{"card", "seconds", "bound"
    ("compute" or "launch"), "tflops", "source", "utilized"}], "measured" {"seconds", "run", "tokens_per_s"} or None.
    """
    train = settings.train
    found = cut(lengths, train.length, settings.data.train_on_prompt) | {"cutoff": train.length, "memory": None, "trouble": None, "estimates": [], "measured": None}
    kept = lengths.within(train.length)
    if not found["kept"]:
        return found | {"trouble": problem("error.all_too_long", rows=found["rows"], length=train.length).to_dict(), "padding": None, "steps": 0, "epochs": 0.0}
    rows = round(found["kept"] * scale)
    steps = total_steps(rows, train)
    epochs = train.epochs if not train.steps else train.steps * train.batch / rows
    found |= {"padding": padding(kept, train.batch, train.seed), "steps": steps, "epochs": round(epochs, 3)}
    if measured:
        found["measured"] = measured | {"seconds": round(found["tokens"] * scale * epochs / measured["tokens_per_s"], 1)}
    try:
        settings, place = placed(settings, device, capacity)
        longest = getattr(config.get_text_config(), "max_position_embeddings", None)
        if longest and train.length > longest:
            raise problem("error.length", length=train.length, longest=longest)
        told = beside.tune(config, settings, place, kept.examples(settings.data.train_on_prompt))
    except PlaygroundError as error:
        return found | {"trouble": error.to_dict()}
    need = told.get("device") or told["resident"]
    found["memory"] = {"bytes": need, "capacity": capacity, "verdict": verdict(need, capacity) if capacity else None} | {
        key: told[key] for key in ("checkpointing", "budget", "feed", "tokens", "rows")
    }
    if device == "cuda" and settings.load.bits in SLOWER:
        counted = work(config, settings, told, found, kept, scale * epochs / steps)
        found["estimates"] = [_estimate(counted, peak, steps) for peak in peaks(card) if counted]
    return found


def peaks(card: str) -> list[dict]:
    """What is known of the speed of the cards of that id, or of the one that a device's name tells: [{"name", "tflops", "source"}]."""
    every = {entry["id"]: entry.get("peaks", []) for entry in cards()}
    if card in every:
        return every[card]
    other = r"(?! ?(?:Ti|SUPER|D|Laptop)\b)"  # a name that goes on so is another card's
    named = [peak for known in every.values() for peak in known if re.search(rf"(?<!\w){peak.get('device', peak['name'])}{other}(?!\w)", card)]
    return named[:1]


def work(config: PreTrainedConfig, settings: Settings, told: dict, found: dict, kept: Lengths, share: float) -> dict | None:
    """A step's floating-point operations, mean over a run, and the seconds that its launches take at least; None for models
    of which that isn't known: with an encoder, or with experts.

    told: the memory's prediction, which has the dial; found: what `cut` says; share: of the tokens counted, those of a step.
    """
    inner, train = config.get_text_config(), settings.train
    if config.is_encoder_decoder or any((getattr(inner, name, None) or 0) > 1 for name in EXPERTS):
        return None
    layers, head, deep, wide = _weights(config)
    backward = min(settings.lora.layers or deep, deep) / deep if train.method == "lora" else 1.0
    passes = 1 + backward * (1 + _again(told["checkpointing"])) + (train.method == "full")
    tokens = share * (found["padding"]["padded"] if told["feed"] == "padded" else found["tokens"])
    parts = max(math.ceil(tokens / told["budget"]) if told["budget"] else 1, math.ceil(min(train.batch, found["kept"]) / (train.micro_batch or train.batch)))
    seen = float((kept.rows.astype(float) ** 2).sum() / kept.rows.sum())  # a token's own row, as long as the mean token finds it
    operations = passes * 2 * layers * (tokens + FIXED * parts) + (passes + 1) * 2 * seen * wide * deep * tokens + 2 * 2 * head * found["trained"] * share
    return {"operations": operations * SLOWER[settings.load.bits], "launching": parts * deep * passes * LAUNCHING}


def _estimate(counted: dict, peak: dict, steps: int) -> dict:
    computing = counted["operations"] / (UTILIZED * peak["tflops"] * 1e12)
    bound, seconds = ("compute", computing) if computing >= counted["launching"] else ("launch", counted["launching"])
    return {"card": peak["name"], "seconds": round(seconds * steps, 1), "bound": bound, "tflops": peak["tflops"], "source": peak["source"], "utilized": round(UTILIZED, 2)}


def _again(checkpointing: str) -> float:
    """How many layers are computed twice, as a share, with what offloading costs besides."""
    if checkpointing in ("off", "all", "offload"):
        return {"off": 0.0, "all": 1.0, "offload": 1.0 + OFFLOADING}[checkpointing]
    return 1 / int(checkpointing)


def _weights(config: PreTrainedConfig) -> tuple[int, int, int, int]:
    """Of a model: weights that every token is multiplied with in its layers, those of its head, layers, width of attention."""
    model = shape.build(config, replace(Settings().load, bits=16), torch.bfloat16, "cuda")
    head, inner = model.get_output_embeddings(), config.get_text_config()
    layers = sum(linear_weights(module) for module in model.modules() if module is not head)
    size = getattr(inner, "head_dim", None) or inner.hidden_size // inner.num_attention_heads
    return layers, linear_weights(head) if head is not None else 0, inner.num_hidden_layers, inner.num_attention_heads * size
