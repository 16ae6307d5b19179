"""Find what was measured on this machine for a model at each bit width, in the runs. Imports no torch."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from playground.errors import PlaygroundError
from playground.runs import store
from playground.settings import Settings

# Settings that a phase's memory depends on, besides model and bits.
LOAD_FIELDS = ("quant_type", "double_quant", "dtype")
TUNE_FIELDS = (
    "method",
    "batch_size",
    "micro_batch_size",
    "max_seq_length",
    "gradient_checkpointing",
    "max_tokens_per_micro_batch",
    "optimizer",
)


@dataclass(frozen=True)
class Measurement:
    """A phase ("load", "chat", "tune") as it was measured: its peak and its parts in bytes, and the run's settings."""

    run: str
    phase: str
    settings: Settings
    hardware: dict
    total: int
    parts: dict[str, int]

    def is_of_same_settings(self, settings: Settings) -> bool:
        """Whether these settings differ in nothing that the phase's memory depends on, model and bits aside."""
        pairs = [(getattr(self.settings.load, name), getattr(settings.load, name)) for name in LOAD_FIELDS]
        if self.phase == "tune":
            pairs += [(getattr(self.settings.train, name), getattr(settings.train, name)) for name in TUNE_FIELDS]
            pairs.append((self.settings.lora, settings.lora))
        return all(one == other for one, other in pairs)


def latest_measurements(root: Path, model: str, phase: str, machine: dict) -> dict[int, Measurement]:
    """The newest measurement of a phase for each bit width of a model on a machine {"device", "name"}."""
    found: dict[int, Measurement] = {}
    for summary in store.history(root):
        if summary.model != model or summary.bits in found:
            continue
        stat = (root / summary.id / "events.jsonl").stat()
        for measurement in _read_measurements(root / summary.id, stat.st_mtime_ns, stat.st_size):
            where = {name: measurement.hardware.get(name) for name in ("device", "name")}
            if measurement.phase == phase and where == {name: machine[name] for name in where}:
                found[summary.bits] = measurement
    return found


@lru_cache(maxsize=1024)
def _read_measurements(folder: Path, modified: int, size: int) -> tuple[Measurement, ...]:
    """A run's measurements, of each phase the last. `modified` and `size` tell one state of its file from another."""
    run, hardware, latest = store.Run(folder), {}, dict[str, Measurement]()
    try:
        settings = run.settings()
    except PlaygroundError:  # of a newer version, or unreadable
        return ()
    for event in run.events():
        if event["kind"] == "run_started":
            hardware = event.get("hardware", {})
        elif event["kind"] == "memory_measured":
            peak = event.get("peak", {})
            total = peak.get("device_used") or peak.get("rss")
            if total:
                parts = {part: size for part, size in event.get("parts", {}).items() if size > 0}
                latest[event["phase"]] = Measurement(folder.name, event["phase"], settings, hardware, total, parts)
    return tuple(latest.values())
