"""Compare predicted with measured memory and seconds, run by run. Imports no torch.

A job writes a `memory_predicted` event before a phase and a `memory_measured` event after it (engine/predictions.py),
and `time_predicted` and `time_measured` where seconds were predicted too.
Which figures are comparable depends on the device. On CUDA: what tensors take, what torch's allocator reserves, and
the whole GPU; with an offloaded optimizer also the process's resident memory. On a CPU: the process's resident memory,
and the parts that are known exactly; other tensors can't be measured there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from playground.runs.listing import measured_here

UNITS = ("step", "load")
TOTALS = ("allocated", "reserved", "device_used", "rss")


@dataclass(frozen=True)
class Pair:
    """A predicted and a measured figure of one phase (load, chat, tune).

    kind: one of TOTALS, or a part, in bytes; or one of UNITS, in seconds for each.
    """

    run: str
    phase: str
    kind: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """The error as a share of what was measured; above 0 where too much was predicted."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Score:
    """Errors of one kind: the `median` of their sizes, and the `worst` with its sign."""

    kind: str
    count: int
    median: float
    worst: float


def pairs(run_id: str, events: Iterable[dict]) -> list[Pair]:
    """Every figure of a run that was both predicted and measured; of each phase, the last time it ran."""
    predictions: dict[str, dict] = {}
    seconds: dict[str, dict] = {}  # predicted, by phase
    pairs_by_phase: dict[str, list[Pair]] = {}
    for event in events:
        phase = event.get("phase", "")
        if event["kind"] == "memory_predicted":
            predictions[phase] = event
        elif event["kind"] == "memory_measured" and phase in predictions:
            pairs_by_phase[phase] = _pair_figures(run_id, phase, predictions[phase], event)
        elif event["kind"] == "time_predicted":
            seconds[phase] = event
        elif event["kind"] == "time_measured" and seconds.get(phase, {}).get("unit") == event["unit"]:
            pair = Pair(run_id, phase, event["unit"], seconds[phase]["seconds"], event["seconds"])
            if pair.measured:  # a time that was rounded to 0 has no error as a share of it
                pairs_by_phase[phase] = [*pairs_by_phase.get(phase, []), pair]
    return [pair for phase_pairs in pairs_by_phase.values() for pair in phase_pairs]


def all_totals(root: Path) -> list[Pair]:
    """The pairs of TOTALS of every run under `root`, newest run first."""
    found = []
    for summary in measured_here(root):
        for phase, sizes in summary.memory.items():
            if sizes["predicted"] and sizes["measured"]:
                found += _pair_figures(summary.id, phase, sizes["predicted"], sizes["measured"])
    return [pair for pair in found if pair.kind in TOTALS]


def scores(pairs: Iterable[Pair]) -> list[Score]:
    """One score for each kind that has pairs, in the order of TOTALS."""
    pairs = list(pairs)
    errors = {kind: [pair.error for pair in pairs if pair.kind == kind] for kind in TOTALS}
    return [
        Score(kind, len(kind_errors), median(map(abs, kind_errors)), max(kind_errors, key=abs))
        for kind, kind_errors in errors.items()
        if kind_errors
    ]


def _pair_figures(run_id: str, phase: str, prediction: dict, measurement: dict) -> list[Pair]:
    predicted_parts, measured_parts = dict(prediction.get("parts", {})), measurement.get("parts", {})
    if "working" in measured_parts and "allocated" in prediction:
        # Measured as one sum: all that is allocated beyond the parts that are known one by one.
        predicted_parts["working"] = prediction["allocated"] - sum(
            size for part, size in predicted_parts.items() if part in measured_parts and part != "runtime"
        )
    if "main_memory" in prediction:  # on a GPU; on a CPU "rss" is there, and counts
        prediction = {"rss": prediction["main_memory"]} | prediction
    totals = [(kind, prediction.get(kind), measurement["peak"].get(kind)) for kind in TOTALS]
    parts = [(part, size, measured_parts.get(part)) for part, size in predicted_parts.items()]
    return [
        Pair(run_id, phase, kind, predicted, measured)
        for kind, predicted, measured in totals + parts
        if predicted is not None and measured
    ]
