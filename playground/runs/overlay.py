"""Two to four runs laid over each other: what differs between them, and whether their losses can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.errors import problem
from playground.runs.listing import summary
from playground.runs.query import values_that_differ
from playground.runs.series import RunSeries, read_series
from playground.runs.summary import TOTALS, RunSummary, number

FEWEST, MOST = 2, 4
TRAINING = ("lora", "train")  # groups of settings that only fine-tunes use
# Settings besides those of the group "data" that change which text the losses are of.
OF_ROWS = ("train.max_seq_length", "train.eval_rows")
# What is measured part by part, and what a prediction distinguishes; parts of another name count as the rest.
PARTS = (
    "weights",
    "quant_constants",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "loss",
    "kv_cache",
    "buffers",
    "working",
    "program",
    "rest_cpu",
    "rest_cuda",
    "runtime",
)


@dataclass(frozen=True)
class Overlay:
    """The chosen runs, in that order, and the curves of each. differing: as of `values_that_differ`.

    other_models: their losses are of different models; other_rows: the settings by which they are of different rows,
    or "rows" where the numbers of rows differ although no setting does.
    """

    runs: tuple[RunSummary, ...]
    series: tuple[RunSeries, ...]
    differing: dict[str, list]
    other_models: bool
    other_rows: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """A run's peak as parts in bytes, as they were predicted and as they were measured; empty where they weren't."""

    predicted: dict[str, int]
    measured: dict[str, int]


def check_count(run_ids: Sequence[str]) -> None:
    """Raise PlaygroundError where they are too few or too many for one picture."""
    if not FEWEST <= len(run_ids) <= MOST:
        raise problem("error.overlay_count", count=len(run_ids))


def overlay(root: Path, run_ids: Sequence[str]) -> Overlay:
    """Lay runs over each other, any number of them. Raises PlaygroundError where one is missing."""
    chosen = tuple(summary(root, run_id) for run_id in dict.fromkeys(run_ids))
    trains = any(run.job == "tune" for run in chosen)
    found = values_that_differ(chosen)
    differing = {name: values for name, values in found.items() if trains or name.split(".")[0] not in TRAINING}
    tunes = [run for run in chosen if run.job == "tune"]
    return Overlay(
        runs=chosen,
        series=tuple(read_series(root, run.id) for run in chosen),
        differing=differing,
        other_models=len({run.model for run in tunes}) > 1,
        other_rows=_settings_of_rows(tunes),
    )


def _settings_of_rows(tunes: Sequence[RunSummary]) -> tuple[str, ...]:
    differing = values_that_differ(tunes) if len(tunes) > 1 else {}
    names = tuple(name for name in differing if name.startswith("data.") or name in OF_ROWS)
    counts = {rows for run in tunes if (rows := number(run.result.get("rows"))) is not None}
    return names or (("rows",) if len(counts) > 1 else ())


def ledger(run: RunSummary, series: RunSeries) -> Ledger:
    """The parts of the peak of a run's own job. What no part is known of is `program` or one of the rests."""
    phase = run.memory.get(run.job) or {}
    predicted, measured = phase.get("predicted") or {}, phase.get("measured") or {}
    peak = measured.get("peak") or run.failed_peak
    parts = measured.get("parts") if measured.get("peak") else series.failed_parts
    return Ledger(
        _with_rest(predicted.get("parts") or {}, predicted, "program"),
        _with_rest(parts or {}, peak, "rest_cpu"),
    )


def _with_rest(parts: dict[str, int], totals: dict[str, int], rest_of_cpu: str) -> dict[str, int]:
    """The known parts, in the order of PARTS, and what they leave of the total."""
    kind = next((kind for kind in TOTALS if totals.get(kind)), None)
    if kind is None:
        return {}
    known = {part: int(parts[part]) for part in PARTS if parts.get(part, 0) > 0}
    rest = int(totals[kind]) - sum(known.values())
    if rest > 0:
        name = rest_of_cpu if kind == "rss" else "rest_cuda"
        known[name] = known.get(name, 0) + rest
    return known
