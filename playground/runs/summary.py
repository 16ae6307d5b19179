"""A run at a glance: what the list of runs shows and finds runs by, read once from a run's events.

Events may be of a newer version, or edited by hand: a field of another type than expected counts as missing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from playground.runs.label import Label

LATEST = 253_402_300_799  # Unix time of the last second of the year 9999, the last one that can be written as a date
TOTALS = ("device_used", "rss")  # what decides whether a job fits: of a GPU, or of a CPU


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance. `state`: done, stopped, failed, or open (still going, or its process died unnoticed).

    seconds: until it ended last; result: of its own job. settings: {group: {field: value}} as it began; hardware: its
    device and name. memory: by phase, {"predicted", "measured"}: the phase's last `memory_measured` event and the
    prediction before it, or that alone. problems: of its last error, as in PlaygroundError.to_dict.
    recorded: the date of a recording that was replayed into it, "" for a run that was measured on this machine.
    has_adapter, has_checkpoint, label: what lies in its folder besides.
    """

    id: str
    began: float
    job: str
    model: str
    bits: int
    data: str
    state: str
    has_adapter: bool
    seconds: float
    result: dict
    settings: dict = field(default_factory=dict)
    hardware: dict = field(default_factory=dict)
    memory: dict = field(default_factory=dict)
    tokens_per_s: float | None = None
    problems: list = field(default_factory=list)
    failed_peak: dict = field(default_factory=dict)
    recorded: str = ""
    has_checkpoint: bool = False
    label: Label = field(default_factory=Label)

    @property
    def is_resumable(self) -> bool:
        """Whether it can be resumed: a fine-tune that didn't come to its end; without a checkpoint it starts again."""
        return self.has_checkpoint or (self.job == "tune" and self.state != "done" and not self.recorded)

    @property
    def peak(self) -> tuple[int | None, int | None]:
        """The predicted and the measured peak of the run's own job, in bytes; None where one isn't known."""
        phase = self.memory.get(self.job) or {}
        predicted, measured = phase.get("predicted") or {}, phase.get("measured") or {}
        peaks = measured.get("peak") or self.failed_peak
        return _total(predicted), _total(peaks)

    @property
    def loss(self) -> tuple[float, float] | None:
        """Held-out loss before and after, or None."""
        return pair_of(self.result.get("loss"), "before", "after")

    @property
    def recall(self) -> tuple[float, float] | None:
        """Facts named by the base and the tuned model, 0 to 1, or None."""
        return pair_of(self.result.get("recall"), "base", "tuned")

    @property
    def forgetting(self) -> dict[str, float]:
        """How much the loss on neutral text rose, in nats a token, by language; empty where it wasn't measured."""
        return forgetting_of(self.result)


def forgetting_of(result: Mapping) -> dict[str, float]:
    """The rise of the loss on neutral text by language, from a fine-tune's result; what can't be read is left out."""
    figures = dict_of(result, "forgetting")
    rises = {language: number(dict_of(figures, language).get("difference")) for language in figures}
    return {language: rise for language, rise in rises.items() if rise is not None}


def pair_of(values: Any, first: str, second: str) -> tuple[float, float] | None:
    """Two numbers of a result; None unless both are there, which a run of another version may lack."""
    pair = [number(values.get(name)) for name in (first, second)] if isinstance(values, dict) else []
    return (pair[0], pair[1]) if len(pair) == 2 and pair[0] is not None and pair[1] is not None else None


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return value if is_number and math.isfinite(value) else None


def summarize(run_id: str, events: Iterable[Mapping]) -> RunSummary:
    """The summary of a run from its events; what lies in its folder besides is left at its default."""
    first: Mapping = {}
    found: dict[str, Any] = {"state": "open", "seconds": 0.0, "result": {}, "problems": [], "failed_peak": {}}
    predicted: dict[str, dict] = {}
    memory: dict[str, dict] = {}
    speed = None
    for event in events:
        kind, phase = event["kind"], event.get("phase")
        if kind == "run_started":
            first = first or event
        elif kind == "memory_predicted" and isinstance(phase, str):
            predicted[phase] = _sizes(event)
        elif kind == "memory_measured" and isinstance(phase, str):
            memory[phase] = {"predicted": predicted.get(phase), "measured": _sizes(event)}
        elif kind == "step":
            speed = number(event.get("tokens_per_s")) or speed
        elif kind in ("error", "done") and event.get("job") == first.get("job"):  # else a chat that continued in it
            found |= _ending(event)
    memory |= {
        phase: {"predicted": sizes, "measured": None} for phase, sizes in predicted.items() if phase not in memory
    }
    if not first and found["state"] == "open":
        found["problems"] = [{"key": "error.run_beginning", "values": {"run": run_id}}]
    result_speed = number(found["result"].get("tokens_per_s"))
    return RunSummary(
        **{"id": run_id, "has_adapter": False, **_beginning(first), **found},
        memory=memory,
        tokens_per_s=speed if result_speed is None else result_speed,
    )


def _beginning(first: Mapping) -> dict[str, Any]:
    """The fields that a run's first event tells."""
    settings = {group: values for group, values in dict_of(first, "settings").items() if isinstance(values, dict)}
    load, began, bits = dict_of(settings, "load"), number(first.get("began")), dict_of(settings, "load").get("bits")
    hardware = {name: text for name, text in dict_of(first, "hardware").items() if name in ("device", "name")}
    return {
        "began": began if began is not None and 0 <= began <= LATEST else 0.0,
        "job": _text(first.get("job")),
        "model": _text(load.get("model")),
        "bits": bits if type(bits) is int else 0,
        "data": _text(dict_of(settings, "data").get("source")),
        "settings": settings,
        "recorded": _text(first.get("recorded")),
        "hardware": {name: _text(text) for name, text in hardware.items()},
    }


def _ending(event: Mapping) -> dict[str, Any]:
    """The fields that an `error` or a `done` event of the run's own job tells. A clock may have been set back."""
    seconds = max(0.0, number(event["t"]) or 0.0)
    if event["kind"] == "error":
        problems = event.get("problems")
        listed = [problem for problem in problems if isinstance(problem, dict)] if isinstance(problems, list) else []
        peak = {kind: size for kind, size in dict_of(event, "peak").items() if number(size) is not None}
        return {"state": "failed", "seconds": seconds, "problems": listed, "failed_peak": peak}
    result = dict_of(event, "result")
    ended = {"state": "stopped" if result.get("stopped") else "done", "seconds": seconds, "result": result}
    return {**ended, "problems": [], "failed_peak": {}}


def _sizes(event: Mapping) -> dict[str, Any]:
    """A memory event's bytes and number of streamed layers, without what only the live view needs."""
    kept = (*TOTALS, "allocated", "reserved", "streamed_layers")
    sizes: dict[str, Any] = {name: size for name, size in event.items() if name in kept}
    sizes = {name: size for name, size in sizes.items() if number(size) is not None}
    for name in ("parts", "peak"):
        sizes[name] = {part: size for part, size in dict_of(event, name).items() if number(size) is not None}
    return sizes


def _total(sizes: Mapping) -> int | None:
    return next((sizes[name] for name in TOTALS if sizes.get(name)), None)


def dict_of(values: Mapping, name: str) -> dict:
    """A value that should be a dict; an empty one where it isn't."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
