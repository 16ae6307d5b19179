"""How right the predictions were: what a run said beforehand, beside what was measured in it. No torch here.

A job says before a phase what it will take (`prediction` events) and after it what it took (`measured`): see beside.py.
What is compared depends on where it ran. On CUDA: what tensors take, what torch's allocator reserves, the whole card. On
a CPU the process's resident memory, and the parts that are known one by one: what else tensors take can't be measured there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

from playground.runs import store

TOTALS = ("allocated", "reserved", "device_used", "rss")


@dataclass(frozen=True)
class Pair:
    """One figure of one phase (load, chat, tune): bytes predicted and bytes measured. `kind`: one of TOTALS, or a part."""

    run: str
    phase: str
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
    """Every figure of a run that was both predicted and measured, of each phase the last time that it was done."""
    said, found = {}, {}
    for event in events:
        phase = event.get("phase")
        if event["kind"] == "memory_predicted":
            said[phase] = event
        elif event["kind"] == "memory_measured" and phase in said:
            found[phase] = _paired(run_id, phase, said[phase], event)
    return [pair for phase in found.values() for pair in phase]


def record(root: Path) -> list[Pair]:
    """The totals of every run under `root`, newest run first."""
    folders = [(root / summary.id, (root / summary.id / "events.jsonl").stat()) for summary in store.history(root)]
    return [
        pair
        for folder, stat in folders
        for pair in _kept(folder, stat.st_mtime_ns, stat.st_size)
        if pair.kind in TOTALS
    ]


def scores(found: Iterable[Pair]) -> list[Score]:
    """One score a kind, in the order of TOTALS."""
    errors = {kind: [pair.error for pair in found if pair.kind == kind] for kind in TOTALS}
    return [
        Score(kind, len(all_of), median(map(abs, all_of)), max(all_of, key=abs))
        for kind, all_of in errors.items()
        if all_of
    ]


def _paired(run_id: str, phase: str, said: dict, found: dict) -> list[Pair]:
    parts, measured = dict(said.get("parts", {})), found.get("parts", {})
    if "working" in measured and "allocated" in said:  # everything but the parts that are known one by one
        parts["working"] = said["allocated"] - sum(
            size for part, size in parts.items() if part in measured and part != "runtime"
        )
    both = [(kind, said.get(kind), found["peak"].get(kind)) for kind in TOTALS] + [
        (part, size, measured.get(part)) for part, size in parts.items()
    ]
    return [Pair(run_id, phase, kind, before, after) for kind, before, after in both if before is not None and after]


@lru_cache(maxsize=1024)
def _kept(folder: Path, changed: int, size: int) -> list[Pair]:
    """Read once per state of the file: `changed` and `size` are there to notice a new one."""
    return pairs(folder.name, store.Run(folder).events())
