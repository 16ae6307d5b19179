"""Forecast memory before anything is loaded: a model's phases, each saving's effect, and what fits which GPU.

Every function takes validated settings; the planning process parses them.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedConfig

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.errors import PlaygroundError, problem
from playground.model.dtype import default_bits, requested_dtype
from playground.model.language_part import max_context_length
from playground.planning.durations import rates_for, step_seconds, with_durations, without_calls
from playground.predict import meta_model, phases
from playground.predict.formulas import explain
from playground.predict.peak_rate_estimate import RELATIVE_TOKEN_SECONDS, relative_token_seconds
from playground.predict.streamed_choice import can_stream, choose_streamed_layers, streaming_need
from playground.settings import BIT_WIDTHS, Settings, stored_quant_type

MIN_CONTEXT = 32  # tokens of a chat, at least
JOBS = ("chat", "tune")  # that a model may be too large for


def forecast(settings: Settings, context: int = 1024, capacity: int = 0, device: str = "cuda") -> dict:
    """Predict loading, chatting and fine-tuning with these settings, every row of full length.

    context: tokens of the chat. capacity: bytes of the memory that `auto` plans for, 0: no limit. Returns {"model",
    "name", "family", "parameters", "layers", "longest" (tokens that the model can take), "bits", "method",
    "trainable" (parameters), "context", "seconds" (of this forecast), "phases": {phase: predict.phases' prediction},
    "explained" (predict.formulas)}; also "streamed", {"layers", "need", "main_memory" (bytes)}, where the fine-tune
    only fits with so many layers streamed from main memory, or streams them by the settings. Raises PlaygroundError.
    """
    began, config = time.perf_counter(), meta_model.config_of(settings.load.model)
    settings, target = resolve_target(settings, device, capacity)
    check_context_length(config, max(context, settings.train.max_seq_length))
    chat_context = max(context, MIN_CONTEXT)
    with _traceable(config):
        predictions = {
            "load": phases.predict_load(config, settings, target),
            "chat": phases.predict_chat(config, settings, target, chat_context),
            "tune": phases.predict_tune(config, settings, target, full_rows(settings)),
        }
        facts = meta_model.model_facts(config, settings.load, target.dtype, device)
        streamed = _streamed(config, settings, target, facts, predictions)
    predictions = with_durations(predictions, device, capacity)
    return streamed | {
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


def _streamed(
    config: PreTrainedConfig,
    settings: Settings,
    target: phases.Target,
    facts: meta_model.ModelFacts,
    predictions: dict[str, dict],
) -> dict:
    """{"streamed": …} where layers of a fine-tune are streamed, or would have to be; else {}."""
    tuned, layers = predictions["tune"], sum(len(stack) for stack in facts.kinds)
    if not tuned.get("streamed_layers"):
        fits = not target.capacity or verdict(tuned["need"], target.capacity) != "no"
        can = can_stream(config, settings, layers) and target.device == "cuda"
        if fits or not can or settings.load.streamed_layers != "auto":
            return {}
        count = choose_streamed_layers(streaming_need(config, target, True), settings, layers, target.capacity)
        if not count:
            return {}
        load = replace(settings.load, streamed_layers=str(count))
        tuned = phases.predict_tune(config, replace(settings, load=load), target, full_rows(settings))
    return {"streamed": {"layers": tuned["streamed_layers"], **{key: tuned[key] for key in ("need", "main_memory")}}}


@contextlib.contextmanager
def _traceable(config: PreTrainedConfig) -> Iterator[None]:
    """Turn what a family's code raises without weights or a cache (RWKV, BERT) into a PlaygroundError."""
    try:
        yield
    except PlaygroundError:
        raise
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise problem("error.not_traceable", kind=config.model_type, detail=detail) from error


def check_context_length(config: PreTrainedConfig, tokens: int) -> None:
    """Raise PlaygroundError if that is more tokens than the model can take."""
    longest = max_context_length(config)
    if longest and tokens > longest:
        raise problem("error.length", length=tokens, longest=longest)


def resolve_target(settings: Settings, device: str, capacity: int) -> tuple[Settings, phases.Target]:
    """The settings with a bit width, and the target to predict for.

    Bits left open become those that "auto" means on that device. On a CPU, 8 bits are always int8, and nf4-fast is nf4.
    A half-precision type left open becomes bfloat16, whatever GPU the page runs on: float16 needs the same bytes.
    """
    decided: dict[str, Any] = {"bits": settings.load.bits or default_bits(device)}
    if device == "cpu":
        decided |= {"quant_type_8bit": "int8", "quant_type": stored_quant_type(settings.load)}
    settings = _with(settings, load=decided)
    dtype = requested_dtype(settings.load) or torch.bfloat16
    return settings, phases.Target(device, dtype, capacity)


def waterfall(settings: Settings, device: str = "cuda") -> list[dict]:
    """A fine-tune's peak as one saving after another is added: [{"step", "need" (bytes of that device's memory)}].

    From float32 with every weight trained to LoRA at 4 bits, one row at a time, every layer recomputed and, on a GPU,
    its input offloaded. A full fine-tune needs weights of 16 bits at least, so LoRA comes before 8 and 4 bits.
    """
    full: dict[str, Any] = {"method": "full", "gradient_checkpointing": "off"}
    lora: dict[str, Any] = {"method": "lora", "gradient_checkpointing": "off"}
    recompute = lora | {"gradient_checkpointing": "all"}
    row_by_row = recompute | {"max_tokens_per_micro_batch": settings.train.max_seq_length}
    steps = [  # name, bits, settings, all logits at once
        ("float32_full", 32, full, True),
        ("bits16_full", 16, full, True),
        ("bits16_lora", 16, lora, True),
        ("bits8_lora", 8, lora, True),
        ("bits4_lora", 4, lora, True),
        ("checkpointing", 4, recompute, True),
        ("chunked_loss", 4, recompute, False),
        ("row_by_row", 4, row_by_row, False),
    ]
    if device == "cuda":
        steps.append(("offload", 4, row_by_row | {"gradient_checkpointing": "offload"}, False))
    plain = {"optimizer": "adamw", "max_tokens_per_micro_batch": 0}
    bars = []
    for name, bits, train, all_logits in steps:
        changed = _with(settings, load={"bits": bits}, train=plain | train)
        bars.append({"step": name, "need": _predict_tune(changed, device=device, all_logits=all_logits)["need"]})
    return bars


def fastest_settings(settings: Settings, capacity: int) -> list[dict]:
    """Settings under which a fine-tune of this model fits that many bytes of a GPU, the fastest first.

    For each bit width, the checkpointing that `auto` chooses for such a GPU, and "all", which leaves more memory free.
    Ranked by the predicted seconds of a step where such a GPU's speed is known, else by an assumed time of a token.
    Returns [{"speed" (relative to the best), "seconds" (of a step, or None), "bits", "checkpointing", "tokens",
    "need"}]. `need` is what a forecast of just these settings says: `auto` itself measures a forward pass first, which
    can fragment the allocator's memory.
    """
    options: dict[tuple[int, str, int], tuple[float, float | None, dict]] = {}  # (work, seconds of a step, option)
    rates = next((one for one, _ in rates_for("cuda", capacity)), None)
    for bits in RELATIVE_TOKEN_SECONDS:
        for checkpointing in ("auto", "all"):
            chosen = _predict_tune(_with_plan(settings, bits, checkpointing, 0), capacity)
            plan = bits, chosen["checkpointing"], chosen["budget"]
            need = _predict_tune(_with_plan(settings, *plan), capacity)["need"]
            if verdict(need, capacity) != "no":
                option = {"bits": bits, "checkpointing": plan[1], "tokens": plan[2], "need": need}
                work = chosen["work"] * relative_token_seconds(replace(settings.load, bits=bits))
                options[plan] = work, step_seconds(chosen, rates) if rates else None, option
    known = all(seconds for _, seconds, _ in options.values())
    times = [
        (seconds if known and seconds else work, option | {"seconds": seconds if known else None})
        for work, seconds, option in options.values()
    ]
    ranked = sorted(times, key=lambda pair: pair[0])
    return [{"speed": round(ranked[0][0] / time, 3), **option} for time, option in ranked]


def _with_plan(settings: Settings, bits: int, checkpointing: str, tokens: int) -> Settings:
    """The settings with LoRA at that bit width and checkpointing, and at most so many tokens at once (0: no limit)."""
    train = {"method": "lora", "gradient_checkpointing": checkpointing, "max_tokens_per_micro_batch": tokens}
    return _with(settings, load={"bits": bits}, train=train)


def required_memory(
    model: str, bits: int, job: str, device: str = "cuda", context: int = 1024, length: int = 256
) -> int:
    """Bytes that a model needs to "chat", or to "tune" with LoRA, one row at a time and every layer recomputed.

    Bytes of a GPU for the device "cuda", of main memory for "cpu". context, length: tokens of the chat and of the row.
    """
    train = {"batch_size": 1, "max_seq_length": length, "gradient_checkpointing": "all"}
    settings, target = resolve_target(_with(Settings(), load={"model": model, "bits": bits}, train=train), device, 0)
    config = meta_model.config_of(model)
    if job == "chat":
        return phases.predict_chat(config, settings, target, context)["need"]
    return phases.predict_tune(config, settings, target, full_rows(settings))["need"]


def largest_models(
    context: int = 1024, length: int = 256, on_progress: Callable[..., Any] = lambda *step: None
) -> list[dict]:
    """For each GPU and bit width, the catalog's largest model to chat with and the largest to fine-tune with LoRA.

    Fine-tuning is predicted for one row at a time and every layer recomputed, the least that it takes; larger batches
    are split until they fit. Models that can't take so many tokens are left out. on_progress: called with the models
    tried, all models and "models". Returns [{"card", "gib", "bits", "chat": {"id", "name", "need" (bytes)} or None,
    "tune": the same}], cards in the catalog's order.
    """
    table: dict[tuple[str, int], dict] = {
        (card["id"], bits): {"card": card["id"], "gib": card["gib"], "bits": bits, **dict.fromkeys(JOBS)}
        for card in cards()
        for bits in BIT_WIDTHS
        if bits < 32
    }
    models = sorted(catalog.shapes().values(), key=lambda entry: -entry["parameters"])
    for tried, entry in enumerate(models):
        if all(row[job] for row in table.values() for job in JOBS):
            break
        on_progress(tried, len(models), "models")
        longest = max_context_length(meta_model.config_of(entry["id"]))
        for bits, job, rows in _open_cells(table):
            if longest and longest < {"chat": context, "tune": length}[job]:
                continue
            # Where even the weights at that width don't fit, there is nothing to trace.
            rows = [row for row in rows if entry["parameters"] * bits / 8 < row["gib"] * 2**30]
            if not rows:
                continue
            need = required_memory(entry["id"], bits, job, context=context, length=length)
            for row in rows:
                if verdict(need, row["gib"] * 2**30) != "no":
                    row[job] = {"id": entry["id"], "name": entry["name"], "need": need}
    return list(table.values())


def predict_full_rows(settings: Settings, device: str, capacity: int) -> dict:
    """Predict a fine-tune whose rows all have the full number of tokens (phases.predict_tune).

    Raises PlaygroundError for a model that is unknown or can't take so many tokens.
    """
    settings, target = resolve_target(settings, device, capacity)
    config = meta_model.config_of(settings.load.model)
    check_context_length(config, settings.train.max_seq_length)
    return without_calls(phases.predict_tune(config, settings, target, full_rows(settings)))


def _open_cells(table: dict[tuple[str, int], dict]) -> Iterator[tuple[int, str, list[dict]]]:
    """For each bit width and job the rows that have no model yet, where there are any."""
    for bits in dict.fromkeys(bits for _, bits in table):
        for job in JOBS:
            rows = [row for (_, width), row in table.items() if width == bits and row[job] is None]
            if rows:
                yield bits, job, rows


def _predict_tune(settings: Settings, capacity: int = 0, device: str = "cuda", all_logits: bool = False) -> dict:
    settings, target = resolve_target(settings, device, capacity)
    config = meta_model.config_of(settings.load.model)
    return phases.predict_tune(config, settings, target, full_rows(settings), all_logits=all_logits)


def full_rows(settings: Settings) -> list[int]:
    """The lengths of a batch whose rows all have the full number of tokens."""
    return [settings.train.max_seq_length] * settings.train.batch_size


def _with(settings: Settings, load: dict | None = None, train: dict | None = None) -> Settings:
    """Settings with some fields replaced by values of this program's own, which need no validation."""
    return replace(settings, load=replace(settings.load, **load or {}), train=replace(settings.train, **train or {}))
