"""The job `load`, and how every job gets its model: predict, fetch, load, measure."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedConfig

from playground import catalog
from playground.background import run_in_background
from playground.engine import predictions
from playground.engine.job import JobContext, JobResult
from playground.engine.model_slot import ModelSlot
from playground.engine.offloading import check_offloading
from playground.engine.streaming import check_main_memory, decided_load, placement_events, placement_notes
from playground.errors import PlaygroundError, problem
from playground.model import cpu_speed, float8, int8_fast
from playground.model.adapter_folder import CONFIG as ADAPTER_CONFIG
from playground.model.adapter_folder import base_model, is_adapter_folder
from playground.model.dtype import MIN_BF16_SPEEDUP, compute_dtype, default_bits
from playground.model.load import LoadedModel, load_model, resolve_device
from playground.model.shares import Shares
from playground.model.source import config_available, fetch_model, local_folder
from playground.model.unquantized import unquantized_share
from playground.predict import meta_model
from playground.settings import Load, Settings, is_fast_int8, is_fast_nf4, is_float8, stored_quant_type, streamed_count
from playground.settings.limits import current_limits, raise_if_too_large

# What is said where hardware lacks the products of a kind of weights: loaded as another kind, or not run at all.
NOTES = {"fp8": "note.no_float8", "int8-fast": "note.no_fast_int8", "nf4-fast": "note.no_fast_nf4"}
PROBLEMS = {"fp8": "error.race_no_float8", "int8-fast": "error.race_no_fast_int8", "nf4-fast": "error.race_no_fast_nf4"}
SLOW_NOTE, SLOW_PROBLEM = "note.slow_int8_cpu", "error.race_slow_int8_cpu"  # int8-fast on a CPU
MIN_UNQUANTIZED_SHARE = 0.01  # of the weights: more than that is worth a note


@dataclass
class LoadResult(JobResult):
    """dtype: the type that is computed in, "float32", …; parts: the ledger in bytes."""

    dtype: str
    parts: dict[str, int]


def load(context: JobContext, slot: ModelSlot, load: Load) -> Generator[dict, None, LoadResult]:
    """Load a model anew, whatever was loaded."""
    yield from _free(slot)
    loaded = yield from ensure_loaded(context, slot, load)
    return LoadResult(_dtype_name(loaded), context.bytes_by_part())


def ensure_loaded(
    context: JobContext, slot: ModelSlot, load: Load, fine_tune: Settings | None = None
) -> Generator[dict, None, LoadedModel]:
    """Load the model unless it is loaded with these settings; one with other settings is freed first.

    fine_tune: the settings of the fine-tune that it is for, by which "auto" chooses how many layers are streamed.
    Raises PlaygroundError for a model that is predicted not to fit, unless `load.force`, and what load_model raises.
    """
    if _is_loaded_for(context, slot, load, fine_tune):
        assert slot.loaded
        yield from placement_events(slot.loaded, context.team.size)
        return slot.loaded
    yield from _free(slot)  # no variable of this function may name the model, or it would stay while the next one comes
    decided = _decided(context, load, fine_tune)
    shares = context.team.shares() if fine_tune is not None else None
    # before anything large is fetched, if the config is at hand
    checked = yield from _check_fit(context, decided, fine_tune is not None)
    with context.team.local_main_first():
        folder = yield from fetch_model(load.model, load.accept_terms, context.stop)
    if not checked:
        decided = _decided(context, replace(load, model=str(folder)), fine_tune)
        yield from _check_fit(context, decided, fine_tune is not None)
    if not shares and not context.team.splits_numbers:
        yield from predictions.predict_load_time(decided, folder, context.team.device)
    waits = context.team.splits_numbers and fine_tune is not None
    loaded = yield from _load_folder(context, slot, load, folder, decided, waits, shares)
    yield from _folder_notes(folder, load)
    yield from placement_events(loaded, context.team.size)
    yield from placement_notes(loaded, context.team.size)
    yield from loaded.notes
    yield from _load_notes(loaded, load)
    return loaded


def _load_folder(
    context: JobContext, slot: ModelSlot, load: Load, folder: Path, decided: Load, waits: bool, shares: Shares | None
) -> Generator[dict, None, LoadedModel]:
    """Load a model as was decided, and report what that took; waits and shares as `split` and `shares` of load_model.

    load: as the settings have it.
    """
    yield {"kind": "phase", "name": "load"}
    context.peaks.start_phase()
    began = time.perf_counter()
    loaded = yield from run_in_background(
        lambda on_progress: load_model(folder, decided, on_progress, context.team.load_device, waits, shares),
        context.stop,
    )
    seconds = time.perf_counter() - began
    slot.fill(loaded, load)
    yield {"kind": "loaded", "model": load.model, "bits": load.bits}
    if not loaded.pages:  # else its matrices wait in their files, until they are split over the processes
        yield predictions.measured_memory_event("load", context.peaks, context.bytes_by_part())
        yield predictions.measured_load_event(seconds)
    return loaded


def resolve_bits(settings: Settings) -> Settings:
    """The same settings with the bit width decided, where it was left to the hardware, and a type that it can multiply.

    Without its products, float8 and int8-fast are LLM.int8(), and nf4-fast is nf4.
    """
    device = resolve_device(settings.load)
    bits = settings.load.bits or default_bits(device)
    decided = replace(settings.load, bits=bits)
    if _missing_products(decided, device):
        decided = replace(decided, quant_type_8bit="int8", quant_type=stored_quant_type(decided))
    return replace(settings, load=decided)


def missing_products_note(settings: Settings) -> Iterator[dict]:
    """What the weights are loaded as instead, on hardware without the 8-bit products that were chosen."""
    device = resolve_device(settings.load)
    missing = _missing_products(settings.load, device)
    if missing and _is_slow_cpu(missing, device):
        yield {"kind": "note", "key": SLOW_NOTE, "values": {"speedup": cpu_speed.int8_speedup()}}
    elif missing:
        yield {"kind": "note", "key": NOTES[missing], "values": {}}


def missing_products_problem(settings: Settings) -> PlaygroundError | None:
    """The same as an error, where the chosen kind of weights and no other is wanted."""
    device = resolve_device(settings.load)
    missing = _missing_products(settings.load, device)
    if missing and _is_slow_cpu(missing, device):
        return problem(SLOW_PROBLEM, speedup=cpu_speed.int8_speedup())
    return problem(PROBLEMS[missing]) if missing else None


def _is_slow_cpu(missing: str, device: str) -> bool:
    """Whether it is integers that a CPU multiplies, yet no faster than 16 bits."""
    return missing == "int8-fast" and device == "cpu"


def _missing_products(load: Load, device: str) -> str:
    """The chosen kind of weights, a key of NOTES, if this device lacks its products; else ""."""
    if is_fast_int8(load):
        return "" if int8_fast.has_products(device) else "int8-fast"
    if is_float8(load) or is_fast_nf4(load):
        return "" if float8.has_products(device) else "fp8" if is_float8(load) else "nf4-fast"
    return ""


def auto_bits_note(bits: int) -> dict:
    """Why "auto" means that bit width on this CPU."""
    values = {"bits": bits, "speedup": cpu_speed.bf16_speedup(), "least": MIN_BF16_SPEEDUP}
    return {"kind": "note", "key": "note.auto_bits", "values": values}


def _free(slot: ModelSlot) -> Iterator[dict]:
    if slot.loaded:
        yield {"kind": "phase", "name": "free"}
        yield {"kind": "unloaded"}
        slot.free()


def _decided(context: JobContext, load: Load, fine_tune: Settings | None) -> Load:
    """The load settings with a number of streamed layers. Raises PlaygroundError as `decided_load` and
    `check_offloading`.
    """
    if not config_available(load.model):
        return load
    config = meta_model.config_of(str(local_folder(load.model) or load.model))
    settings = replace(fine_tune or Settings(), load=load)
    check_offloading(config, settings, context.team.device)
    return decided_load(context, config, settings, fine_tune is not None)


def _is_loaded_for(context: JobContext, slot: ModelSlot, load: Load, fine_tune: Settings | None) -> bool:
    """Whether the loaded model is what a job needs: loaded with these settings, whole, with as many streamed layers."""
    loaded = slot.loaded
    is_whole = loaded and not loaded.pages and not loaded.split
    return bool(is_whole and slot.is_loaded_as(load) and _streams_as_chosen(context, slot, load, fine_tune))


def _streams_as_chosen(context: JobContext, slot: ModelSlot, load: Load, fine_tune: Settings | None) -> bool:
    """Whether the loaded model streams as many layers as the fine-tune needs; any number will do for other jobs."""
    if fine_tune is None or load.streamed_layers != "auto" or context.team.device != "cuda" or not slot.loaded:
        return True
    return streamed_count(_decided(context, load, fine_tune)) == slot.loaded.streamed_count


def _check_fit(context: JobContext, load: Load, fine_tunes: bool) -> Generator[dict, None, bool]:
    """Predict what loading takes; return whether it was tried, which needs the config at hand.

    fine_tunes: whether it is for a fine-tune, for which processes split the weights if they do. Raises PlaygroundError
    where the model won't fit, unless `load.force`.
    """
    waits = context.team.splits_numbers and not fine_tunes  # in main memory
    if waits or not config_available(load.model):
        return False
    source = local_folder(load.model) or load.model  # local_folder raises for a path that isn't a model
    config = meta_model.config_of(str(source))
    _check_size(config, load, context.team.device)
    for event in predictions.predict_load_memory(load, config, context.team, fine_tunes):
        yield event
        check_main_memory(event, context.team.size)
        if event.get("verdict") == "no" and not load.force:
            raise problem(
                "error.too_large",
                model=catalog.display_name(load.model),
                bits=load.bits,
                need_bytes=event["need"],
                capacity_bytes=event["capacity"],
            )
    return True


def _check_size(config: PreTrainedConfig, load: Load, device: str) -> None:
    """Raise PlaygroundError for a model that is larger than a visitor of this page may load."""
    if current_limits():
        raise_if_too_large(meta_model.model_facts(config, load, compute_dtype(load, device)[0], device).parameters)


def _folder_notes(folder: Path, load: Load) -> Iterator[dict]:
    """What became of an adapter in the model's folder."""
    given = Path(load.model).expanduser()
    if given.is_dir() and is_adapter_folder(given):
        yield {"kind": "note", "key": "note.adapter_merged", "values": {"base": base_model(given)}}
    elif (folder / ADAPTER_CONFIG).is_file():
        yield {"kind": "note", "key": "note.adapter_ignored", "values": {"path": folder.name}}


def _load_notes(loaded: LoadedModel, load: Load) -> Iterator[dict]:
    """Why the model computes in its type, and what is worth knowing about a quantized one."""
    yield {"kind": "note", "key": loaded.reason, "values": {"dtype": _dtype_name(loaded)}}
    if load.bits >= 16:
        return
    if loaded.device == "cpu":
        yield {"kind": "note", "key": "note.cpu_quantized", "values": {"bits": load.bits}}
    unquantized = unquantized_share(loaded.model)
    if unquantized > MIN_UNQUANTIZED_SHARE:
        values = {"percent": round(100 * unquantized), "bits": load.bits}
        yield {"kind": "note", "key": "note.left_whole", "values": values}


def _dtype_name(loaded: LoadedModel) -> str:
    return str(loaded.dtype).removeprefix("torch.")
