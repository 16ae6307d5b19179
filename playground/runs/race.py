"""The bit-width race: fine-tunes that differ in nothing but the kind of the frozen weights. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from playground.errors import PlaygroundError
from playground.runs import store
from playground.runs.listing import measured_here
from playground.runs.summary import pair_of
from playground.settings import Load, Settings, stored_quant_type

MOST_LOSSES = 200  # of a lane
TOTALS = ("device_used", "rss")  # what decides whether a fine-tune fits: of a GPU, or of a CPU
# The kinds of frozen weights that race, widest first, and the settings of each. "8" and "4" alone: whichever type the
# settings name, and for 8 bits whichever of both the hardware multiplies.
KINDS: dict[str, dict[str, int | str]] = {
    "32": {"bits": 32},
    "16": {"bits": 16},
    "8": {"bits": 8},
    "8-int8": {"bits": 8, "quant_type_8bit": "int8"},
    "8-int8-fast": {"bits": 8, "quant_type_8bit": "int8-fast"},
    "8-fp8": {"bits": 8, "quant_type_8bit": "fp8"},
    "4": {"bits": 4},
    "4-nf4": {"bits": 4, "quant_type": "nf4"},
    "4-nf4-fast": {"bits": 4, "quant_type": "nf4-fast"},
    "4-fp4": {"bits": 4, "quant_type": "fp4"},
}
TYPED = tuple(kind for kind in KINDS if kind not in ("8", "4"))  # kinds that name their type, where there are several
PLAIN = ("32", "16", "8", "4")


@dataclass(frozen=True)
class Lane:
    """One fine-tune of the race. Memory in bytes, of the whole GPU or the whole program; None where it isn't known.

    loss: held-out, before and after; recall: facts named by the base and the tuned model, 0 to 1; prompt: of the sample
    answers; answers: the first and the last one, before and after the training; losses: (step, training loss), thinned;
    kind: what the frozen weights were loaded as, of TYPED.
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
    kind: str = ""

    @property
    def type(self) -> str:
        """The type of the weights, where there are several at that width: int8, nf4-fast, …; else ""."""
        return self.kind.partition("-")[2]


def of_kind(settings: Settings, kind: str) -> Settings:
    """The same fine-tune with the frozen weights of another kind."""
    return replace(settings, load=replace(settings.load, **KINDS[kind]))  # type: ignore[arg-type]


def widest_first(kinds: Sequence[str]) -> list[str]:
    """The kinds in the order in which they are run and shown, each once."""
    return [kind for kind in KINDS if kind in kinds]


def is_exact(kind: str) -> bool:
    """Whether the kind names its type, so that hardware without it refuses instead of taking another."""
    return kind in TYPED


def lanes(root: Path, settings: Settings, kinds: Sequence[str], hardware: str = "") -> dict[str, Lane]:
    """The newest fine-tune with these settings of each kind. hardware: the name of it, "" for any."""
    found: dict[str, Lane] = {}
    for summary in measured_here(root):
        is_candidate = summary.job == "tune" and summary.model == settings.load.model
        wanted = [kind for kind in kinds if kind not in found and KINDS[kind]["bits"] == summary.bits]
        if not is_candidate or not wanted:
            continue
        if not summary.hardware.get("name", "").startswith(hardware) or not _began_with(summary.settings, settings):
            continue
        folder = root / summary.id
        try:
            stat = (folder / "events.jsonl").stat()
        except OSError:  # deleted in this moment
            continue
        lane, own, name = _read(folder, stat.st_mtime_ns, stat.st_size, summary.state)
        if own == without_kind(settings) and name.startswith(hardware):
            found |= {kind: lane for kind in wanted if lane.kind in _matching(kind, settings.load)}
    return {kind: found[kind] for kind in kinds if kind in found}


def _matching(kind: str, load: Load) -> tuple[str, ...]:
    """The kinds of lanes that count as this one."""
    if kind == "8":
        return "8-int8", "8-int8-fast", "8-fp8"
    return (f"4-{stored_quant_type(load)}", f"4-{load.quant_type}") if kind == "4" else (kind,)


def _kind_of(load: Load) -> str:
    type = {8: load.quant_type_8bit, 4: load.quant_type}.get(load.bits, "")
    return f"{load.bits}-{type}" if type else str(load.bits)


def _began_with(began: dict, settings: Settings) -> bool:
    """Whether a run that began with those settings is worth reading for a lane of these."""
    try:
        return without_kind(Settings().with_values(began)) == without_kind(settings)
    except PlaygroundError:  # of a newer version
        return False


def without_kind(settings: Settings) -> Settings:
    """The settings that all lanes share."""
    load = settings.load
    load = replace(load, bits=0, quant_type="nf4", quant_type_8bit="int8", force=False, accept_terms=False)
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
        kind=_kind_of(settings.load) if settings else "",
    )
    hardware = str(((first or {}).get("hardware") or {}).get("name", ""))
    return lane, without_kind(settings) if settings else None, hardware
