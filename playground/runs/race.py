"""The bit-width race: fine-tunes that differ in nothing but the bits of the frozen weights. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from playground.errors import PlaygroundError
from playground.runs import store
from playground.runs.listing import history
from playground.runs.summary import pair_of
from playground.settings import Settings, is_float8

MOST_LOSSES = 200  # of a lane
TOTALS = ("device_used", "rss")  # what decides whether a fine-tune fits: of a GPU, or of a CPU


@dataclass(frozen=True)
class Lane:
    """One fine-tune of the race. Memory in bytes, of the whole GPU or the whole program; None where it isn't known.

    loss: held-out, before and after; recall: facts named by the base and the tuned model, 0 to 1; prompt: of the sample
    answers; answers: the first and the last one, before and after the training; losses: (step, training loss), thinned;
    is_float8: whether its 8 bits are fp8 instead of int8.
    """

    run: str
    bits: int
    state: str
    predicted: int | None
    measured: int | None
    seconds_per_step: float | None
    tokens_per_s: float | None
    loss: tuple[float, float] | None
    recall: tuple[float, float] | None
    prompt: str
    answers: tuple[str, str]
    losses: tuple[tuple[int, float], ...] = ()
    is_float8: bool = False


def lanes(root: Path, settings: Settings, widths: Sequence[int], hardware: str = "") -> dict[int, Lane]:
    """The newest fine-tune with these settings at each width. hardware: the name of it, "" for any."""
    found: dict[int, Lane] = {}
    for summary in history(root):
        is_candidate = summary.job == "tune" and summary.model == settings.load.model
        if not is_candidate or summary.bits not in widths or summary.bits in found:
            continue
        if not summary.hardware.get("name", "").startswith(hardware) or not _began_with(summary.settings, settings):
            continue
        folder = root / summary.id
        try:
            stat = (folder / "events.jsonl").stat()
        except OSError:  # deleted in this moment
            continue
        lane, own, name = _read(folder, stat.st_mtime_ns, stat.st_size, summary.state)
        if own == _without_bits(settings) and name.startswith(hardware):
            found[summary.bits] = lane
    return {bits: found[bits] for bits in widths if bits in found}


def _began_with(began: dict, settings: Settings) -> bool:
    """Whether a run that began with those settings is worth reading for a lane of these."""
    try:
        return _without_bits(Settings().with_values(began)) == _without_bits(settings)
    except PlaygroundError:  # of a newer version
        return False


def _without_bits(settings: Settings) -> Settings:
    """The settings that all lanes share. Both 8-bit types count as 8 bits: hardware without fp8 runs int8 for it."""
    load = replace(settings.load, bits=0, quant_type_8bit="int8", force=False, accept_terms=False)
    return replace(settings, load=load)


@lru_cache(maxsize=256)
def _read(folder: Path, modified: int, size: int, state: str) -> tuple[Lane, Settings | None, str]:
    """A run's lane, its shared settings, and its hardware. `modified` and `size` tell one state of its file apart."""
    run = store.Run(folder)
    predicted = measured = step = first = None
    samples: list[dict] = []
    losses: dict[int, float] = {}
    result: dict = {}
    for event in run.events():
        kind, phase = event["kind"], event.get("phase")
        if kind == "run_started":
            first = event
        elif kind == "memory_predicted" and phase == "tune":
            predicted = next((event[name] for name in TOTALS if name in event), None)
        elif kind == "memory_measured" and phase == "tune":
            measured = next((event["peak"][name] for name in TOTALS if name in event.get("peak", {})), None)
        elif kind == "step":
            step = event
            if isinstance(event.get("loss"), (int, float)):
                losses[event["step"]] = event["loss"]  # a step repeated after a resume counts once
        elif kind == "sample":
            samples.append(event)
        elif kind == "done" and event.get("job") == "tune":
            result = event.get("result", {})
    try:
        settings = run.settings()
    except PlaygroundError:
        settings = None
    seconds = step.get("tokens", 0) / step["tokens_per_s"] if step and step.get("tokens_per_s") else None
    own = [sample for sample in samples if samples and sample.get("prompt") == samples[0].get("prompt")]
    lane = Lane(
        run=folder.name,
        bits=settings.load.bits if settings else 0,
        state=state,
        predicted=predicted,
        measured=measured,
        seconds_per_step=seconds / step["step"] if step and seconds and step["step"] else None,
        tokens_per_s=step.get("tokens_per_s") if step else None,
        loss=pair_of(result.get("loss"), "before", "after"),
        recall=pair_of(result.get("recall"), "base", "tuned"),
        prompt=str(own[0].get("prompt", "")) if own else "",
        answers=(str(own[0].get("text", "")), str(own[-1].get("text", ""))) if own else ("", ""),
        losses=tuple(sorted(losses.items()))[:: -(-len(losses) // MOST_LOSSES) or 1],
        is_float8=settings is not None and is_float8(settings.load),
    )
    hardware = str(((first or {}).get("hardware") or {}).get("name", ""))
    return lane, _without_bits(settings) if settings else None, hardware
