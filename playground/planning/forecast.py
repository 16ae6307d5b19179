"""Forecast memory before anything is loaded: a model's phases, each saving's effect, and what fits which GPU.

Every function takes validated settings; the planning process parses them.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedConfig

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.errors import PlaygroundError, problem
from playground.model.dtype import default_bits, requested_dtype
from playground.model.language_part import max_context_length
from playground.planning import several
from playground.planning.auto_streaming import as_run, streamed_facts
from playground.planning.durations import rates_for, step_seconds, with_durations, without_calls
from playground.planning.several import full_rows
from playground.predict import meta_model, phases
from playground.predict.formulas import explain
from playground.predict.relative_speed import RELATIVE_TOKEN_SECONDS, relative_token_seconds
from playground.predict.streamed_events import without_streaming
from playground.settings import Settings, stored_quant_type

JOBS = ("load", "chat", "tune")
MIN_CONTEXT = 32  # tokens of a chat, at least


def forecast(settings: Settings, context: int = 1024, capacity: int = 0, device: str = "cuda") -> dict:
    """Predict loading, chatting and fine-tuning with these settings, every row of full length.

    With several GPUs, loading and fine-tuning are those of one of them, beside "several" (several.compare_ways); a chat
    is on a single one.

    context: tokens of the chat. capacity: bytes of the memory that `auto` plans for, 0: no limit. Returns {"model",
    "name", "family", "parameters", "layers", "longest" (tokens that the model can take), "bits", "method",
    "trainable" (parameters), "context", "seconds" (of this forecast), "phases": {phase: predict.phases' prediction},
    "explained" (predict.formulas)}; also "streamed", {"layers", "main_memory" (bytes)}, where the fine-tune streams so
    many layers from main memory, by the settings or because it only fits so, as its prediction then has it;
    "offloaded", {"main_memory" (bytes)}, where gradients and optimizer state wait there. Raises PlaygroundError.
    """
    began, config = time.perf_counter(), meta_model.config_of(settings.load.model)
    settings, target = resolve_target(settings, device, capacity)
    check_context_length(config, max(context, settings.train.max_seq_length))
    chat_context = max(context, MIN_CONTEXT)
    with _traceable(config):
        predictions = _by_job(config, settings, target, chat_context)
        facts = meta_model.model_facts(config, settings.load, target.dtype, device)
        if settings.train.num_processes == 1:
            further = _in_main_memory(predictions["tune"])
        else:
            further = {"several": several.compare_ways(config, settings, target)}
        explained = _explained(config, facts, settings, target, predictions, chat_context)
    predictions = with_durations(predictions, device, capacity)
    return further | {
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
        "explained": explained,
    }


def card_verdicts(settings: Settings, context: int = 1024, device: str = "cuda") -> list[dict]:
    """What fits each GPU size of the catalog, with what "auto" chooses there: [{"card" (id), "gib", and by job "load",
    "chat" and "tune" its verdict}]. context, device and errors as of `forecast`.
    """
    config = meta_model.config_of(settings.load.model)
    settings, target = resolve_target(settings, device, 0)
    check_context_length(config, max(context, settings.train.max_seq_length))
    verdicts = []
    with _traceable(config):
        for card in cards():
            own = replace(target, capacity=card["bytes"])
            needs = {job: one["need"] for job, one in _by_job(config, settings, own, max(context, MIN_CONTEXT)).items()}
            fits = {job: verdict(need, card["bytes"]) for job, need in needs.items()}
            verdicts.append({"card": card["id"], "gib": card["gib"], **fits})
    return verdicts


def _by_job(
    config: PreTrainedConfig, settings: Settings, target: phases.Target, context: int
) -> dict[str, dict[str, Any]]:
    return {job: as_run(config, settings, target, job, context)[1] for job in JOBS}


def _explained(
    config: PreTrainedConfig,
    facts: meta_model.ModelFacts,
    settings: Settings,
    target: phases.Target,
    predictions: dict[str, dict],
    context: int,
) -> list[dict]:
    """Formulas for the predictions (predict.formulas); those of weights are of a model that no GPU has a share of."""
    resident = replace(settings, load=without_streaming(settings.load))
    whole = phases.predict_load(config, resident, target)
    return explain(config, facts, settings, predictions | {"load": whole}, context)


def _in_main_memory(tuned: dict) -> dict:
    """{"streamed": …} where the predicted fine-tune streams layers; {"offloaded": …}; else {}."""
    if tuned.get("streamed_layers"):
        return {"streamed": {"layers": tuned["streamed_layers"], "main_memory": tuned["main_memory"]}}
    return {"offloaded": {"main_memory": tuned["main_memory"]}} if tuned.get("main_memory") else {}


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

    Of a single GPU, whatever the settings say.
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
    plain = {"optimizer": "adamw", "offload_optimizer": False, "max_tokens_per_micro_batch": 0, "num_processes": 1}
    bars = []
    for name, bits, train, all_logits in steps:
        changed = _with(settings, load={"bits": bits}, train=plain | train)
        bars.append({"step": name, "need": _predict_tune(changed, device=device, all_logits=all_logits)["need"]})
    return bars


def fastest_settings(settings: Settings, capacity: int) -> list[dict]:
    """Settings under which a fine-tune of this model fits that many bytes of a GPU, the fastest first.

    For each bit width, the checkpointing that `auto` chooses for such a GPU, and "all", which leaves more memory free.
    Ranked by the predicted seconds of a step where such a GPU's speed is known, else by an assumed time of a token.
    Where nothing fits without streamed layers, what fits with them, the fewest bytes in main memory first: their speed
    isn't predicted. Returns [{"speed" (relative to the best, or None), "seconds" (of a step, or None), "bits",
    "checkpointing", "tokens", "need", "streamed" (layers)}]. `need` is what a forecast of just these settings says:
    `auto` itself measures a forward pass first, which can fragment the allocator's memory. Of several GPUs it is one's,
    and no seconds are known.
    """
    options = _fitting_options(settings, capacity)
    if not options:
        return _streamed_options(settings, capacity) if settings.train.num_processes == 1 else []
    known = all(seconds for _, seconds, _ in options)
    times = [
        (seconds if known and seconds else work, option | {"seconds": seconds if known else None})
        for work, seconds, option in options
    ]
    ranked = sorted(times, key=lambda pair: pair[0])
    return [{"speed": round(ranked[0][0] / time, 3), **option} for time, option in ranked]


def _fitting_options(settings: Settings, capacity: int) -> list[tuple[float, float | None, dict]]:
    """Options of `fastest_settings` that "auto" streams no layers for, without their speed.

    Each with the work of a token relative to that at 16 bits, and seconds of a step where they are known.
    """
    options: dict[tuple[int, str, int], tuple[float, float | None, dict]] = {}
    alone = settings.train.num_processes == 1
    rates = next((one for one, _ in rates_for("cuda", capacity)), None) if alone else None
    for bits in RELATIVE_TOKEN_SECONDS:
        for checkpointing in ("auto", "all"):
            chosen = _predict_tune(_with_plan(settings, bits, checkpointing, 0), capacity)
            plan = bits, chosen["checkpointing"], chosen["budget"]
            planned = _with_plan(settings, *plan)
            need = _predict_tune(planned, capacity)["need"]
            if verdict(need, capacity) != "no" and not _is_rather_streamed(planned, capacity):
                option = {"bits": bits, "checkpointing": plan[1], "tokens": plan[2], "need": need}
                option["streamed"] = chosen.get("streamed_layers", 0)
                work = chosen["work"] * relative_token_seconds(replace(settings.load, bits=bits))
                options[plan] = work, step_seconds(chosen, rates) if rates else None, option
    return list(options.values())


def _is_rather_streamed(settings: Settings, capacity: int) -> bool:
    """Whether "auto" streams layers although the fine-tune fits: where it does only because it offloads."""
    offloads = settings.train.gradient_checkpointing == "offload" and settings.load.streamed_layers == "auto"
    return offloads and bool(predict_full_rows(settings, "cuda", capacity)["streamed"])


def _streamed_options(settings: Settings, capacity: int) -> list[dict]:
    """Options of `fastest_settings` that fit by streaming layers, as "auto" would."""
    options = []
    for bits in RELATIVE_TOKEN_SECONDS:
        chosen = predict_full_rows(_with_plan(settings, bits, "auto", 0), "cuda", capacity)
        if chosen["streamed"] and verdict(chosen["need"], capacity) != "no":
            option = {"speed": None, "seconds": None, "bits": bits, "checkpointing": "auto", "tokens": 0}
            option |= {"need": chosen["need"], "streamed": chosen["streamed"]["count"]}
            options.append((chosen["main_memory"], option))
    return [option for _, option in sorted(options, key=lambda pair: pair[0])]


def _with_plan(settings: Settings, bits: int, checkpointing: str, tokens: int) -> Settings:
    """The settings with LoRA at that bit width and checkpointing, and at most so many tokens at once (0: no limit)."""
    train = {"method": "lora", "gradient_checkpointing": checkpointing, "max_tokens_per_micro_batch": tokens}
    return _with(settings, load={"bits": bits}, train=train)


def predict_full_rows(settings: Settings, device: str, capacity: int) -> dict:
    """Predict a fine-tune whose rows all have the full number of tokens (phases.predict_tune).

    Returns its prediction without calls, and "streamed" (auto_streaming.streamed_facts). Raises PlaygroundError for
    a model that is unknown, or whose context is shorter than the rows.
    """
    settings, target = resolve_target(settings, device, capacity)
    config = meta_model.config_of(settings.load.model)
    check_context_length(config, settings.train.max_seq_length)
    _, prediction = as_run(config, settings, target, "tune", MIN_CONTEXT)
    return without_calls(prediction) | {"streamed": streamed_facts(config, settings, target, prediction)}


def _predict_tune(settings: Settings, capacity: int = 0, device: str = "cuda", all_logits: bool = False) -> dict:
    settings, target = resolve_target(settings, device, capacity)
    config = meta_model.config_of(settings.load.model)
    if all_logits:
        return phases.predict_tune(config, settings, target, full_rows(settings), all_logits=True)
    return several.predict_tune(config, settings, target)


def _with(settings: Settings, load: dict | None = None, train: dict | None = None) -> Settings:
    """Settings with some fields replaced by values of this program's own, which need no validation."""
    return replace(settings, load=replace(settings.load, **load or {}), train=replace(settings.train, **train or {}))
