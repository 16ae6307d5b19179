"""Find what was measured on this machine for a model at each bit width, in the runs. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from playground.errors import PlaygroundError
from playground.runs import store
from playground.runs.listing import measured_here
from playground.runs.summary import RunSummary
from playground.settings import Settings

# Settings that a phase's memory depends on, besides model and bits: at any bit width, and at some.
LOAD_FIELDS = ("dtype",)
LOAD_FIELDS_AT = {8: ("quant_type_8bit",), 4: ("quant_type", "double_quant")}
TUNE_FIELDS = (
    "method",
    "batch_size",
    "micro_batch_size",
    "max_seq_length",
    "gradient_checkpointing",
    "max_tokens_per_micro_batch",
    "optimizer",
    "offload_optimizer",
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
        names = (*LOAD_FIELDS, *LOAD_FIELDS_AT.get(self.settings.load.bits, ()))
        pairs = [(getattr(self.settings.load, name), getattr(settings.load, name)) for name in names]
        pairs.append((_processes(self.settings), _processes(settings)))  # also load the model in other ways
        if self.phase == "tune":
            pairs += [(getattr(self.settings.train, name), getattr(settings.train, name)) for name in TUNE_FIELDS]
            pairs.append((self.settings.lora, settings.lora))
        return all(one == other for one, other in pairs)


def _processes(settings: Settings) -> tuple[int, str]:
    """How many processes a fine-tune has, and how they share the weights if there are several."""
    train = settings.train
    return (train.num_processes, train.parallel if train.num_processes > 1 else "")


def latest_measurements(root: Path, model: str, phase: str, machine: dict) -> dict[int, Measurement]:
    """The newest measurement of a phase for each bit width of a model on a machine {"device", "name"}."""
    found: dict[int, Measurement] = {}
    here = {name: machine[name] for name in ("device", "name")}
    for summary in measured_here(root):
        if summary.model != model or summary.bits in found or summary.hardware != here:
            continue
        measurement = _measurement(root, summary, phase)
        if measurement:
            found[summary.bits] = measurement
    return found


def _measurement(root: Path, summary: RunSummary, phase: str) -> Measurement | None:
    """A run's last measurement of a phase; None without one, or where its settings are of a newer version."""
    measured = (summary.memory.get(phase) or {}).get("measured") or {}
    peak = measured.get("peak", {})
    total = peak.get("device_used") or peak.get("rss")
    if not total:
        return None
    try:
        settings = store.find(root, summary.id).settings()
    except PlaygroundError:
        return None
    parts = {part: size for part, size in measured["parts"].items() if size > 0}
    return Measurement(summary.id, phase, settings, summary.hardware, total, parts)
