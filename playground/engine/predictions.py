"""Emit predicted memory before a phase and measured memory after it.

A phase is load, chat or tune. Predicted: a `memory_predicted` event {"phase", "parts", and bytes by kind: "allocated",
"reserved" and "device_used" on CUDA, "rss" on a CPU; "need", the one of them that decides, "capacity", "verdict"}.
Measured: a `memory_measured` event {"phase", "parts", "peak": bytes by kind}. runs/accuracy.py pairs them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedConfig

from playground.catalog.cards import verdict
from playground.data.batch import Example
from playground.errors import as_playground_error
from playground.memory.card_limit import available_memory, capacity
from playground.memory.peaks import PeakTracker
from playground.model.load import LoadedModel, compute_dtype
from playground.predict import phases
from playground.predict.heaviest import predict_heaviest_step
from playground.predict.phase_traces import CHAT_ROWS
from playground.settings import Load, Settings

logger = logging.getLogger(__name__)


def predict_load_memory(load: Load, config: PreTrainedConfig, device: str) -> Iterator[dict]:
    """What loading a model of this config takes."""
    dtype = compute_dtype(load, device)[0]
    yield from _predict("load", load, device, dtype, lambda t: phases.predict_load(config, Settings(load=load), t))


def predict_tune_memory(settings: Settings, loaded: LoadedModel, examples: Sequence[Example]) -> Iterator[dict]:
    """What the heaviest step of a fine-tune on these rows takes."""
    config = loaded.model.config
    yield from _predict(
        "tune",
        settings.load,
        loaded.device,
        loaded.dtype,
        lambda target: predict_heaviest_step(config, settings, target, examples),
    )


def predict_chat_memory(settings: Settings, loaded: LoadedModel, sequences: int, context: int) -> Iterator[dict]:
    """What an answer takes: `sequences` (sides × beams) of `context` tokens each.

    predict_chat assumes CHAT_ROWS sequences, so its context is chosen such that the KV cache has as many tokens in all.
    """
    context_of_rows = max(2, -(-sequences * context // CHAT_ROWS))
    config = loaded.model.config
    yield from _predict(
        "chat",
        settings.load,
        loaded.device,
        loaded.dtype,
        lambda target: phases.predict_chat(config, settings, target, context_of_rows),
    )


def measured_memory_event(phase: str, peaks: PeakTracker, parts: dict[str, int]) -> dict:
    """The `memory_measured` event of a phase that is over; parts: the ledger as the phase left it."""
    peak = peaks.phase_peak()
    return {"kind": "memory_measured", "phase": phase, "parts": with_remainder(parts, peak), "peak": peak}


def with_remainder(parts: dict[str, int], peak: dict[str, int]) -> dict[str, int]:
    """The parts of a measured peak: the exact ones, and on CUDA the remainder as `working` and `runtime`.

    On a CPU the remainder can't be distinguished from the program itself and is left out.
    """
    remainder = {}
    if "allocated" in peak:
        remainder = {
            "working": peak["allocated"] - sum(parts.values()),
            "runtime": peak["device_used"] - peak["allocated"],
        }
    return {part: size for part, size in (parts | remainder).items() if size > 0}


def full_ledger(parts: dict[str, int], peak: dict[str, int]) -> dict[str, int]:
    """The parts of a measured peak that add up to it, on a CPU too (`rest_cpu`).

    parts: all zero in the middle of a load, when all that is allocated is weights.
    """
    if "allocated" not in peak:
        exact = with_remainder(parts, peak)
        return exact | {"rest_cpu": peak["rss"] - sum(exact.values())}
    if not any(parts.values()):
        parts = {"weights": peak["allocated"]}
    return with_remainder(parts, peak)


def _predict(
    phase: str, load: Load, device: str, dtype: torch.dtype, predict: Callable[[phases.Target], dict]
) -> Iterator[dict]:
    """The `memory_predicted` event of a phase, and on a CPU a note on whether it would fit the simulated card.

    A prediction that fails must not fail the job, since not every model can be built without its weights: it becomes a
    note, and its traceback goes to the log.
    """
    try:
        prediction = predict(phases.Target(device, dtype, available_memory(load, device)))
        limit = capacity(load, device)
        fits = verdict(prediction["need"], limit)
        yield {"kind": "memory_predicted", "phase": phase, **prediction, "capacity": limit, "verdict": fits}
        if load.simulate_gpu_gib and device == "cpu":
            card = int(load.simulate_gpu_gib * 2**30)
            need = predict(phases.Target("cuda", dtype, card))["need"]
            values = {"job": phase, "need_bytes": need, "card_bytes": card}
            yield {"kind": "note", "key": f"note.card_{verdict(need, card)}", "values": values}
    except Exception as error:
        logger.exception("the memory of phase %s can't be predicted", phase)
        detail = str(as_playground_error(error)).split("\n")[0][:200]
        yield {"kind": "note", "key": "note.not_predicted", "values": {"job": phase, "detail": detail}}
