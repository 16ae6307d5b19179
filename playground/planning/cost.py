"""What a cutoff costs: a fine-tune's memory from the planner, and its seconds, estimated from a card's peak rate.

The estimate counts floating-point operations: two a weight of the layers and token in a forward pass (Kaplan et al. 2020,
arXiv 2001.08361), as many again in the backward pass of frozen weights, once more where they are trained or a layer is
computed twice; attention over the tokens before; the head for labelled tokens alone. A card is taken to do the share of
its peak that whole passes reached on an H100 (README), and a micro-batch at least as long as its kernels take to launch.
"""

import math
import re
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

from playground.catalog.cards import cards, verdict
from playground.data.lengths import Lengths, cutoff_effect, padding
from playground.errors import PlaygroundError, problem
from playground.planning.forecast import SLOWER, resolve_target
from playground.predict import meta_model
from playground.predict.heaviest import predict_heaviest_step
from playground.settings import Settings
from playground.train.loop import total_steps
from playground.train.memory_policy import (
    ASSUMED_RATE,
    FIXED_TOKENS,
    LAUNCH_SECONDS,
    OFFLOAD_COST,
    RATE_REACHED,
    linear_weights,
)

PEAK_TRIED = 989.4e12  # operations a second of the H100 that ASSUMED and REACHED were measured on, as its maker says
UTILIZATION = RATE_REACHED * ASSUMED_RATE / PEAK_TRIED  # of a card's peak, by a whole pass: 0.48
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # layers of which a token takes only some


@dataclass(frozen=True)
class Place:
    """Where it is to run. device: "cuda" or "cpu"; capacity: bytes of that memory, 0: no limit; card: an id of the catalog's, or a device's name."""

    device: str = "cuda"
    capacity: int = 0
    card: str = ""


def cutoff_cost(
    lengths: Lengths,
    settings: Settings,
    config: PreTrainedConfig,
    place: Place,
    measured: dict | None = None,
    scale: float = 1.0,
) -> dict:
    """What a fine-tune on rows of these lengths costs, its cutoff being settings.train.max_seq_length.

    measured: the speed of an earlier run, as runs.speed has it; scale: rows there are for each one that was counted: steps
    and seconds are of them all. The result: what `cut` says, "cutoff", "padding", "steps", "epochs", and "memory" {"bytes",
    "capacity", "verdict", "checkpointing", "budget", "batching", "tokens", "rows"} or None, "trouble" (an error as a dict, where
    there is no memory to tell of), "estimates" [{"card", "seconds", "bound" ("compute" or "launch"), "tflops", "source",
    "utilized"}], "measured" {"seconds", "run", "tokens_per_s"} or None.
    """
    train, kept = settings.train, lengths.within(settings.train.max_seq_length)
    found = cutoff_effect(lengths, train.max_seq_length, settings.data.train_on_prompt)
    found |= {
        "cutoff": train.max_seq_length,
        "padding": None,
        "steps": 0,
        "epochs": 0.0,
        "memory": None,
        "trouble": None,
        "estimates": [],
        "measured": None,
    }
    if not found["kept"]:
        return found | {
            "trouble": problem("error.all_too_long", rows=found["rows"], length=train.max_seq_length).to_dict()
        }
    rows = round(found["kept"] * scale)
    steps = total_steps(rows, train)
    epochs = train.epochs if not train.max_steps else train.max_steps * train.batch_size / rows
    found |= {"padding": padding(kept, train.batch_size, train.seed), "steps": steps, "epochs": round(epochs, 3)}
    if measured:
        found["measured"] = measured | {
            "seconds": round(found["tokens"] * scale * epochs / measured["tokens_per_s"], 1)
        }
    try:
        settings, told = _tuned(config, settings, place, kept)
    except PlaygroundError as error:
        return found | {"trouble": error.to_dict()}
    need = told["need"]
    found["memory"] = {
        "bytes": need,
        "capacity": place.capacity,
        "verdict": verdict(need, place.capacity) if place.capacity else None,
    }
    found["memory"] |= {name: told[name] for name in ("checkpointing", "budget", "batching", "tokens", "rows")}
    if place.device == "cuda" and settings.load.bits in SLOWER:
        counted = step_work(config, settings, told, found, kept, scale * epochs / steps)
        found["estimates"] = [_estimate(counted, peak, steps) for peak in known_peak_rates(place.card) if counted]
    return found


def _tuned(config: PreTrainedConfig, settings: Settings, place: Place, kept: Lengths) -> tuple[Settings, dict]:
    """The settings with a bit width, and what is predicted of the heaviest step. Raises PlaygroundError."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest and settings.train.max_seq_length > longest:
        raise problem("error.length", length=settings.train.max_seq_length, longest=longest)
    settings, there = resolve_target(settings, place.device, place.capacity)
    return settings, predict_heaviest_step(config, settings, there, kept.examples(settings.data.train_on_prompt))


def known_peak_rates(card: str) -> list[dict]:
    """What is known of the speed of the cards of that id, or of the one that a device's name tells: [{"name", "tflops", "source"}]."""
    every = {entry["id"]: entry.get("peaks", []) for entry in cards()}
    if card in every:
        return every[card]
    other = r"(?! ?(?:Ti|SUPER|D|Laptop)\b)"  # a name that goes on so is another card's
    named = [
        peak
        for known in every.values()
        for peak in known
        if re.search(rf"(?<!\w){peak.get('device', peak['name'])}{other}(?!\w)", card)
    ]
    return named[:1]


def step_work(
    config: PreTrainedConfig, settings: Settings, told: dict, found: dict, kept: Lengths, share: float
) -> dict | None:
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
    tokens = share * (found["padding"]["padded"] if told["batching"] == "padded" else found["tokens"])
    parts = max(
        math.ceil(tokens / told["budget"]) if told["budget"] else 1,
        math.ceil(min(train.batch_size, found["kept"]) / (train.micro_batch_size or train.batch_size)),
    )
    seen = float(
        (kept.rows.astype(float) ** 2).sum() / kept.rows.sum()
    )  # a token's own row, as long as the mean token finds it
    operations = (
        passes * 2 * layers * (tokens + FIXED_TOKENS * parts)
        + (passes + 1) * 2 * seen * wide * deep * tokens
        + 2 * 2 * head * found["trained"] * share
    )
    return {"operations": operations * SLOWER[settings.load.bits], "launching": parts * deep * passes * LAUNCH_SECONDS}


def _estimate(counted: dict, peak: dict, steps: int) -> dict:
    computing = counted["operations"] / (UTILIZATION * peak["tflops"] * 1e12)
    bound, seconds = ("compute", computing) if computing >= counted["launching"] else ("launch", counted["launching"])
    return {
        "card": peak["name"],
        "seconds": round(seconds * steps, 1),
        "bound": bound,
        "tflops": peak["tflops"],
        "source": peak["source"],
        "utilized": round(UTILIZATION, 2),
    }


def _again(checkpointing: str) -> float:
    """How many layers are computed twice, as a share, with what offloading costs besides."""
    if checkpointing in ("off", "all", "offload"):
        return {"off": 0.0, "all": 1.0, "offload": 1.0 + OFFLOAD_COST}[checkpointing]
    return 1 / int(checkpointing)


def _weights(config: PreTrainedConfig) -> tuple[int, int, int, int]:
    """Of a model: weights that every token is multiplied with in its layers, those of its head, layers, width of attention."""
    model = meta_model.build(config, replace(Settings().load, bits=16), torch.bfloat16, "cuda")
    head, inner = model.get_output_embeddings(), config.get_text_config()
    layers = sum(linear_weights(module) for module in model.modules() if module is not head)
    size = getattr(inner, "head_dim", None) or inner.hidden_size // inner.num_attention_heads
    return (
        layers,
        linear_weights(head) if head is not None else 0,
        inner.num_hidden_layers,
        inner.num_attention_heads * size,
    )
