"""How right the predictions were: what a run said beforehand, beside what was measured in it. No torch here.

A job writes `prediction` events when it starts ({"phase", "parts", and bytes by kind}) and measured peaks into its `done`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

from playground import runs

TOTALS = ("allocated", "reserved", "device", "rss")


@dataclass(frozen=True)
class Pair:
    """One figure of one job: bytes predicted and bytes measured. `kind`: one of TOTALS, or a part of the ledger."""

    run: str
    job: str
    kind: str
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """Signed, as a share of what was measured: above 0, too much was predicted."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Score:
    """How far off predictions of one kind were: `median` of the errors' sizes, the `worst` error with its sign."""

    kind: str
    count: int
    median: float
    worst: float


def pairs(run_id: str, events: Iterable[dict]) -> list[Pair]:
    """Every figure of a run that was both predicted and measured, of each job the last time that it was done."""
    predicted, found = {}, {}
    for event in events:
        job = event.get("phase") if event["kind"] == "prediction" else event.get("job")
        if event["kind"] == "prediction":
            predicted[job] = event
        elif event["kind"] == "done" and job in predicted and _whole(event.get("result", {})):
            found[job] = _paired(run_id, job, predicted[job], event["result"])
    return [pair for job in found.values() for pair in job]


def record(root: Path) -> list[Pair]:
    """The totals of every run under `root`, newest run first."""
    folders = [(root / summary.id, (root / summary.id / "events.jsonl").stat()) for summary in runs.history(root)]
    return [pair for folder, stat in folders for pair in _kept(folder, stat.st_mtime_ns, stat.st_size) if pair.kind in TOTALS]


def scores(found: Iterable[Pair]) -> list[Score]:
    """One score a kind, in the order of TOTALS."""
    errors = {kind: [pair.error for pair in found if pair.kind == kind] for kind in TOTALS}
    return [Score(kind, len(all_of), median(map(abs, all_of)), max(all_of, key=abs)) for kind, all_of in errors.items() if all_of]


def _whole(result: dict) -> bool:
    """Whether a job got as far as its peak: a fine-tune's is over with its second step."""
    return bool(result.get("peak")) and (not result.get("stopped") or result.get("steps", 0) >= 2)


def _paired(run_id: str, job: str, said: dict, result: dict) -> list[Pair]:
    totals = [(kind, said.get(kind), result["peak"].get(kind)) for kind in TOTALS]
    parts = [(part, size, result.get("parts", {}).get(part)) for part, size in said.get("parts", {}).items()]
    return [Pair(run_id, job, kind, before, after) for kind, before, after in totals + parts if before is not None and after]


@lru_cache(maxsize=1024)
def _kept(folder: Path, changed: int, size: int) -> list[Pair]:
    """Read once per state of the file: `changed` and `size` are there to notice a new one."""
    return pairs(folder.name, runs.Run(folder).events())
