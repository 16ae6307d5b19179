"""Prediction beside measurement: what a job says before a phase, and what was found once it was over.

A phase is load, chat or tune. Said is a `prediction` event: {"phase", "parts", and bytes by kind: "allocated", "reserved"
and "device" on CUDA, "rss" on a CPU; "need", the one of them that decides, "capacity", "verdict"}. Found is a `measured` event: {"phase", "parts", "peak": bytes
by kind}. accuracy.py pairs them.
"""

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
from playground.settings import Load, Settings

WORKING = ("activations", "loss", "kv_cache", "buffers")  # parts of which only the sum can be measured


def predict_load_event(load: Load, config: PreTrainedConfig, device: str) -> Iterator[dict]:
    """What loading a model of this config will take."""
    yield from _said(
        "load",
        load,
        device,
        compute_dtype(load, device)[0],
        lambda place: phases.predict_load(config, Settings(load=load), place),
    )


def predict_tune_event(
    settings: Settings, loaded: LoadedModel, examples: Sequence[Example], wanted: bool = True
) -> Iterator[dict]:
    """What the heaviest step of a fine-tune on these rows will take; `wanted` False yields nothing, as in the following."""

    if wanted:
        yield from _said(
            "tune",
            settings.load,
            loaded.device,
            loaded.dtype,
            lambda place: predict_heaviest_step(loaded.model.config, settings, place, examples),
        )


def predict_chat_event(
    settings: Settings, loaded: LoadedModel, rows: int, context: int, wanted: bool = True
) -> Iterator[dict]:
    """What an answer took by the same reckoning: `rows` sequences (sides × beams) of `context` tokens."""
    shared = max(
        2, -(-rows * context // phases.CHAT_ROWS)
    )  # it reckons with that many rows: with as many tokens in all, the KV cache is as large
    if wanted:
        yield from _said(
            "chat",
            settings.load,
            loaded.device,
            loaded.dtype,
            lambda place: phases.predict_chat(loaded.model.config, settings, place, shared),
        )


def measured_event(phase: str, peaks: PeakTracker, parts: dict[str, int]) -> dict:
    """The `measured` event of a phase that is over; parts: the ledger as the phase left it."""
    return {
        "kind": "memory_measured",
        "phase": phase,
        "parts": with_remainder(parts, peaks.phase_peak()),
        "peak": peaks.phase_peak(),
    }


def with_remainder(parts: dict[str, int], peak: dict[str, int]) -> dict[str, int]:
    """The parts of a measured peak: exact ones, and what is left over. On a CPU that can't be told from the program itself."""
    known = sum(parts.values())
    rest = (
        {"working": peak["allocated"] - known, "runtime": peak["device_used"] - peak["allocated"]}
        if "allocated" in peak
        else {}
    )
    return {part: size for part, size in (parts | rest).items() if size > 0}


def full_ledger(parts: dict[str, int], peak: dict[str, int]) -> dict[str, int]:
    """The same with everything in it, also on a CPU; parts: empty while a model is loaded, when all that is allocated is weights."""
    if "allocated" in peak and not any(parts.values()):
        parts = {"weights": peak["allocated"]}
    ledger = with_remainder(parts, peak)
    return ledger if "allocated" in peak else ledger | {"rest_cpu": peak["rss"] - sum(ledger.values())}


def _said(
    phase: str, load: Load, device: str, dtype: torch.dtype, predicted: Callable[[phases.Target], dict]
) -> Iterator[dict]:
    """A prediction as an event. One that fails must not fail the job: not every model can be built without its weights."""
    try:
        said, most = predicted(phases.Target(device, dtype, available_memory(load, device))), capacity(load, device)
        yield {
            "kind": "memory_predicted",
            "phase": phase,
            **said,
            "capacity": most,
            "verdict": verdict(said["need"], most),
        }
        if load.simulate_gpu_gib and device == "cpu":
            card = int(load.simulate_gpu_gib * 2**30)
            need = predicted(phases.Target("cuda", dtype, card))["need"]
            yield {
                "kind": "note",
                "key": f"note.card_{verdict(need, card)}",
                "values": {"job": phase, "need_bytes": need, "card_bytes": card},
            }
    except Exception as error:
        yield {
            "kind": "note",
            "key": "note.not_predicted",
            "values": {"job": phase, "detail": str(as_playground_error(error)).split("\n")[0][:200]},
        }
