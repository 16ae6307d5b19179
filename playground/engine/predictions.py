"""Emit predicted memory before a phase and measured memory after it.

A phase is load, chat or tune. Predicted: a `memory_predicted` event {"phase", "parts", and bytes by kind: "allocated",
"reserved" and "device_used" on CUDA, "rss" on a CPU; "need", the one of them that decides, "held", "capacity",
"verdict"}. Measured: a `memory_measured` event {"phase", "parts", "peak": bytes by kind}. runs/accuracy.py pairs them.

Seconds of a load and of a fine-tune's steps go beside them, where this machine's speed is known
(predict/calibration.py): `time_predicted` {"phase", "unit": "load" or "step", "seconds" of one, "source" (Rates.trust)}
and `time_measured` {"phase", "unit", "seconds"}.

A process that has worked before takes more than a fresh one, which the constants of memory/constants.py describe: what
it is measured to hold beyond them before the phase begins is `held`, and part of the bytes predicted.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from playground.catalog.cards import verdict
from playground.data.batch import Example
from playground.errors import as_playground_error
from playground.memory import constants, meter
from playground.memory.card_limit import MAX_RUNTIME_BYTES, available_memory, capacity
from playground.memory.peaks import PeakTracker, maximum
from playground.model.dtype import compute_dtype
from playground.model.embedding import embedding_rows
from playground.model.load import LoadedModel
from playground.predict import meta_model, phases
from playground.predict.heaviest import one_of_team, predict_heaviest_step
from playground.predict.load_seconds import predict_load_seconds
from playground.predict.phase_traces import CHAT_ROWS
from playground.predict.seconds import predict_step_seconds
from playground.predict.work import Calls
from playground.settings import Load, Settings
from playground.speed.rates import kept_rates
from playground.train.batching import Batcher
from playground.train.parallel import Team

logger = logging.getLogger(__name__)


def memory_outside_tensors(parts: dict[str, int]) -> dict[str, int]:
    """Bytes that this process takes now besides the tensors of the ledger `parts`, by the total that they belong to.

    "rss": of main memory, with the model on a CPU. "device_used": of a GPU, with other processes' share; torch's cache
    is empty between phases and isn't counted.
    """
    reading = meter.read_memory()
    outside = {"rss": reading["rss"] - sum(parts.values())}
    if "device_used" in reading:
        outside["device_used"] = reading["device_used"] - reading["reserved"]
    return outside


def predict_load_memory(load: Load, config: PreTrainedConfig, team: Team, fine_tunes: bool) -> Iterator[dict]:
    """What loading a model of this config takes, in a process that has no model in memory.

    fine_tunes: whether the team splits its weights, if it does that in a fine-tune.
    """
    dtype, outside = compute_dtype(load, team.device)[0], memory_outside_tensors({})

    def predict(target: phases.Target) -> dict:
        own = one_of_team(config, load, target, team) if fine_tunes else replace(target, processes=team.size)
        return phases.predict_load(config, Settings(load=load), own)

    yield from _predict("load", load, team.device, dtype, outside, predict, team.size)


def predict_tune_memory(
    settings: Settings,
    loaded: LoadedModel,
    examples: Sequence[Example],
    outside: dict[str, int],
    batcher: Batcher | None,
    team: Team,
) -> Iterator[dict]:
    """What the heaviest step of a fine-tune on these rows takes; of several processes, the one with the most to do.

    outside: memory_outside_tensors before it. batcher: one that has tried how these rows can be batched; None: they
    will be tried once the weights are split.
    """
    config, settings = loaded.model.config, _as_loaded(settings, loaded)

    def predict(target: phases.Target) -> dict:
        elsewhere = target.device != loaded.device  # a simulated card, where rows may be packed in another way
        batching = None if batcher is None or (elsewhere and batcher.packed) else batcher.mode
        own = one_of_team(config, settings.load, target, team)
        prediction = predict_heaviest_step(config, settings, own, examples, batching)
        if team.size > 1 or team.sharded:  # their seconds were never measured
            prediction.pop("calls", None)
        return prediction

    yield from _predict("tune", settings.load, loaded.device, loaded.dtype, outside, predict, team.size)


def predict_chat_memory(
    settings: Settings, loaded: LoadedModel, sequences: int, context: int, outside: dict[str, int], adapters: int = 0
) -> Iterator[dict]:
    """What an answer takes: `sequences` (rows × beams) of `context` tokens each.

    outside: memory_outside_tensors before it. adapters: bytes of those on the model, where there are several.
    predict_chat assumes CHAT_ROWS sequences, so its context is chosen such that the KV cache has as many tokens in all.
    """
    context_of_rows = max(2, -(-sequences * context // CHAT_ROWS))
    config, settings = loaded.model.config, _as_loaded(settings, loaded)
    yield from _predict(
        "chat",
        settings.load,
        loaded.device,
        loaded.dtype,
        outside,
        lambda target: with_more(phases.predict_chat(config, settings, target, context_of_rows), "adapters", adapters),
    )


def predict_lab_memory(
    load: Load, loaded: LoadedModel, tokens: int, copies: int, outside: dict[str, int]
) -> Iterator[dict]:
    """What measuring number formats takes: the model reading a window of `tokens`, and copies of replaced weights.

    copies: their bytes; they are in main memory, so on a GPU they don't count. outside: memory_outside_tensors before.
    """
    config, settings = loaded.model.config, Settings(load=load)
    # lab/text_loss.py: all logits of a window, as the model gives them, in float32, and their logarithms
    logits = tokens * embedding_rows(loaded.model) * (loaded.dtype.itemsize + 4 + 4)

    def predict(target: phases.Target) -> dict:
        prediction = with_more(
            phases.predict_chat(config, settings, target, max(2, -(-tokens // CHAT_ROWS))), "loss", logits
        )
        return with_more(prediction, "weights", copies) if target.device == "cpu" else prediction

    yield from _predict("lab", load, loaded.device, loaded.dtype, outside, predict)


def _as_loaded(settings: Settings, loaded: LoadedModel) -> Settings:
    """The settings with the number of layers that are streamed now."""
    return replace(settings, load=replace(settings.load, streamed_layers=str(loaded.streamed_count)))


def with_more(prediction: dict, part: str, size: int) -> dict:
    """A prediction with `size` bytes more in a part, and in all totals; the same one where that is 0."""
    if not size:
        return prediction
    parts = prediction["parts"] | {part: prediction["parts"].get(part, 0) + size}
    totals = ("allocated", "reserved", "device_used", "rss", "need")
    return prediction | {"parts": parts} | {kind: prediction[kind] + size for kind in totals if kind in prediction}


def _time_predicted(phase: str, calls: Sequence[Calls], share: float, device: str) -> Iterator[dict]:
    """What a mean step of a fine-tune takes on this machine; nothing where that is unknown.

    share: of the predicted step's tokens, those of a mean one.
    """
    rates = kept_rates(device, meter.hardware(device)["name"]) if phase == "tune" and calls else None
    predicted = predict_step_seconds(calls, rates, share) if rates else None
    if predicted:
        seconds, source = round(predicted["seconds"], 5), predicted["source"]
        yield {"kind": "time_predicted", "phase": phase, "unit": "step", "seconds": seconds, "source": source}


def predict_load_time(load: Load, folder: Path, device: str) -> Iterator[dict]:
    """The `time_predicted` event of a load whose files are on this machine; nothing where its seconds aren't known."""
    try:
        rates = kept_rates(device, meter.hardware(device)["name"])
        config = meta_model.config_of(str(folder))
        found = rates and predict_load_seconds(config, load, compute_dtype(load, device)[0], rates)
    except Exception:  # as of memory: it must not fail the job
        logger.exception("the seconds of a load can't be predicted")
        return
    if found:
        seconds, source = round(found["seconds"], 3), found["source"]
        yield {"kind": "time_predicted", "phase": "load", "unit": "load", "seconds": seconds, "source": source}


def measured_load_event(seconds: float) -> dict:
    """The `time_measured` event of a load."""
    return {"kind": "time_measured", "phase": "load", "unit": "load", "seconds": round(seconds, 3)}


def measured_step_event(seconds: float) -> dict:
    """The `time_measured` event of a fine-tune's steps; seconds: of one, on average."""
    return {"kind": "time_measured", "phase": "tune", "unit": "step", "seconds": round(seconds, 5)}


def measured_memory_event(
    phase: str, peaks: PeakTracker, parts: dict[str, int], earlier_peak: dict[str, int] | None = None
) -> dict:
    """The `memory_measured` event of a phase that is over; parts: the ledger as the phase left it.

    earlier_peak: of something before it that its prediction includes.
    """
    peak = maximum(peaks.phase_peak(), earlier_peak or {})
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


def _with_held(
    prediction: dict, phase: str, load: Load, device: str, outside: dict[str, int], processes: int = 1
) -> dict:
    """A fresh process's prediction with what this process holds beyond one: measured before the phase, never after it.

    A simulated card has nothing of other processes on it.
    """
    if device == "cpu":
        # The tokenizer and the file's pages come with the model: before a load only the program is there.
        fresh = constants.PROGRAM_RSS if phase == "load" else prediction["rss"] - prediction["allocated"]
        measured = outside["rss"]
    else:
        fresh = constants.cuda_runtime_bytes(phase, load, processes)
        measured = outside.get("device_used", 0)
        if load.simulate_gpu_gib:
            measured = min(measured, MAX_RUNTIME_BYTES)
    held = max(0, measured - fresh)
    raised = {
        total: prediction[total] + held for total in ("rss", "after", "device_used", "need") if total in prediction
    }
    if device == "cuda":
        raised["parts"] = prediction["parts"] | {"runtime": prediction["parts"]["runtime"] + held}
    return prediction | raised | {"held": held}


def _predict(
    phase: str,
    load: Load,
    device: str,
    dtype: torch.dtype,
    outside: dict[str, int],
    predict: Callable[[phases.Target], dict],
    processes: int = 1,
) -> Iterator[dict]:
    """The `memory_predicted` event of a phase, and on a CPU a note on whether it would fit the simulated card.

    A prediction that fails must not fail the job, since not every model can be built without its weights: it becomes a
    note, and its traceback goes to the log.
    """
    try:
        fresh = predict(phases.Target(device, dtype, available_memory(load, device)))
        calls, share = fresh.pop("calls", []), fresh.pop("mean_share", 1.0)
        prediction = _with_held(fresh, phase, load, device, outside, processes)
        limit = capacity(load, device)
        fits = verdict(prediction["need"], limit)
        yield {"kind": "memory_predicted", "phase": phase, **prediction, "capacity": limit, "verdict": fits}
        yield from _time_predicted(phase, calls, share, device)
        if load.simulate_gpu_gib and device == "cpu":
            card = int(load.simulate_gpu_gib * 2**30)
            need = predict(phases.Target("cuda", dtype, card))["need"]
            values = {"job": phase, "need_bytes": need, "card_bytes": card}
            yield {"kind": "note", "key": f"note.card_{verdict(need, card)}", "values": values}
    except Exception as error:
        logger.exception("the memory of phase %s can't be predicted", phase)
        detail = str(as_playground_error(error)).split("\n")[0][:200]
        yield {"kind": "note", "key": "note.not_predicted", "values": {"job": phase, "detail": detail}}
