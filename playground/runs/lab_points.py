"""Points that the bit-width lab has measured, read from its runs. Imports no torch."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from playground.runs import store
from playground.runs.event_fields import is_usable_number
from playground.runs.listing import measured_here

MOST_LOSS = 1e4  # nats a token: no model has more


def find_points(root: Path, model: str, subject: str, device: str, dtype: str, without: str = "") -> dict[str, dict]:
    """The newest point of each format of a model with this text and prompt (LabQuestion.subject), by format.

    device, dtype: what it was computed on and in, which changes the losses a little; without: a run that is left out.
    """
    found: dict[str, dict] = {}
    for measured_model, point in _points(root, subject, without):
        if measured_model == model and _computed(point) == (device, dtype):
            found.setdefault(point["format"], point)
    return found


def all_points(root: Path, subject: str) -> dict[tuple[str, str], dict]:
    """The newest point of each model and format with this text and prompt: its fields, and the "run" it is from.

    Of a model those alone that were computed on the device and in the type of its newest one, so that they compare.
    """
    found: dict[tuple[str, str], dict] = {}
    computed: dict[str, tuple[str, str]] = {}
    for model, point in _points(root, subject):
        if computed.setdefault(model, _computed(point)) == _computed(point):
            found.setdefault((model, point["format"]), point)
    return found


def _computed(point: dict) -> tuple[str, str]:
    return point["device"], point["dtype"]


def _points(root: Path, subject: str, without: str = "") -> Iterator[tuple[str, dict]]:
    """Every model and point with this text and prompt, the newest run first."""
    for summary in measured_here(root):
        if summary.job != "lab" or summary.id == without:
            continue
        try:
            stat = (root / summary.id / "events.jsonl").stat()
        except OSError:  # deleted in this moment
            continue
        of_run = _read(root / summary.id, stat.st_mtime_ns, stat.st_size)
        for point in of_run if _subject_of(of_run) == subject else ():
            yield summary.model, point


def _can_be_shown(event: dict) -> bool:
    """Whether an event, of which the store has left out fields of a wrong type, has all that a point needs."""
    is_named = isinstance(event.get("format"), str) and isinstance(event.get("kernel"), bool) and "loss" in event
    has_interval = event.get("more_loss") is None or is_usable_number(event.get("more_loss_interval"))
    in_range = 0 < event.get("bytes", 0) and 0 <= (event.get("loss") or 0) < MOST_LOSS
    return is_named and has_interval and in_range


def _subject_of(points: tuple[dict, ...]) -> str | None:
    return points[0]["subject"] if points else None


@lru_cache(maxsize=4096)
def _read(folder: Path, modified: int, size: int) -> tuple[dict, ...]:
    """A run's points, the last of each format. `modified` and `size` tell one state of its file from another."""
    subject, points, computed = "", dict[str, dict](), {"device": "", "dtype": ""}
    for event in store.Run(folder).events():
        if event["kind"] == "run_started":
            computed["device"] = str((event.get("hardware") or {}).get("device", ""))
        elif event["kind"] == "lab_started":
            computed["dtype"] = str(event.get("dtype", ""))
            subject = str(event.get("subject", ""))
        elif event["kind"] == "lab_point" and _can_be_shown(event):
            fields = {name: value for name, value in event.items() if name not in ("kind", "t")}
            points[event["format"]] = {"run": folder.name, **fields, **computed, "subject": subject}
    return tuple(points.values())
