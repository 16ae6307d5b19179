"""Recordings: a run's events in one file that can be shown anywhere, without its model, GPU or network.

The Start tab plays those of `assets/recordings/`; `python -m playground record` makes one, `replay` puts one among the
runs. Paths, keys, run ids and times of day are left out; hardware and versions stay, and the first event gets
"recorded", the date, which the live view shows for good.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from playground import ASSETS
from playground.errors import problem
from playground.runs import store
from playground.runs.private_text import source_name, without_paths, without_private_text
from playground.runs.thinning import thin_events, thin_memory
from playground.runs.upgrade import SCHEMA, upgraded
from playground.settings import Settings, parse

FOLDER = ASSETS / "recordings"
NAME = re.compile(r"[\w-]+")
MEMORY_EVENTS = 390  # at most about; with the last one that has parts less than 400
MAX_BYTES = 500_000
ANSWERS = ("sample", "eval")  # kinds of events that say what a model knows
OWN_FIELDS = ("run", "adapter", "checkpoint")  # ids and folders of this machine; of a result, "model" too
JOBS = ("load", "chat", "tune", "lab", "export")  # that have a run
MAX_FILE_BYTES = 20 * MAX_BYTES  # of a recording that is read
MAX_SECONDS = 1e9  # of an event's time
DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


def read_recording(name: str | Path) -> list[dict]:
    """The events of a recording that ships with the program, [] where there is none of that name; or of a file.

    Raises PlaygroundError for a file that isn't a recording.
    """
    if isinstance(name, Path):
        return [upgraded(event) for event in _read_events(name)]
    return [upgraded(json.loads(line)) for line in _shipped_lines(name)]


def first_and_last(name: str) -> tuple[dict, dict]:
    """The first and the last event of a recording that ships with the program: what it is, and how it ended."""
    first, *_, last = _shipped_lines(name)
    return upgraded(json.loads(first)), upgraded(json.loads(last))


def _shipped_lines(name: str) -> list[str]:
    path = FOLDER / f"{name}.jsonl"
    if not NAME.fullmatch(name) or not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def names() -> list[str]:
    """The names of all recordings that ship with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def record(events: Sequence[dict], shape: str = "") -> str:
    """The recording of a run that came to its end, as JSON lines.

    shape: the id of the model whose shape random weights had; the recording names it, and shows no answers.
    A long run is thinned until it is small enough. Raises PlaygroundError for a run that is still open, and for one
    that is too large even so.
    """
    ends = [event for event in events if event["kind"] in ("done", "error")]
    if not events or events[0]["kind"] != "run_started" or not ends:
        raise problem("error.record_open")
    kept = list(_recorded(thin_memory(events, MEMORY_EVENTS), shape))
    for share in (1, 2, 4, 8, 16, 32):
        text = _lines(thin_events(thin_memory(kept, MEMORY_EVENTS // share), share))
        if len(text.encode()) <= MAX_BYTES:
            return text
    raise problem("error.record_large", kilobytes=len(text.encode()) // 1000, most=MAX_BYTES // 1000)


def _lines(events: Sequence[dict]) -> str:
    """The events as JSON lines, none before the one ahead of it: a clock may have been set back during the run."""
    lines, latest = [], 0.0
    for event in events:
        latest = max(latest, event["t"])
        lines.append(json.dumps(event | {"t": latest}, ensure_ascii=False, separators=(",", ":")) + "\n")
    return "".join(lines)


def replay(path: Path, root: Path) -> store.Run:
    """Copy a recording into a new run under `root`. Raises PlaygroundError for a file that isn't a recording.

    Events of kinds that this version doesn't know are kept; whatever draws them escapes their texts.
    """
    events = _read_events(path)
    first = events[0]
    settings = parse(first["settings"]) if isinstance(first.get("settings"), dict) else Settings()
    run = store.create(root, first.get("job", "tune"), settings)
    began = {"began": time.time() - events[-1]["t"]}
    lines = [json.dumps(event, ensure_ascii=False) for event in ({**first, **began}, *events[1:])]
    (run.folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def _read_events(path: Path) -> list[dict]:
    """The events of a recording's file. Raises PlaygroundError with what is wrong with it, and in which line."""
    lines = _read_lines(path)
    events: list[dict] = []
    for number, line in enumerate(lines, 1):
        event = store.parse_event(line.encode("utf-8"))
        if event is None or not _follows(event, events[-1] if events else None):
            raise problem("error.recording_line", path=path.name, line=number)
        events.append(event)
    first = events[0] if events else {}
    if first.get("kind") != "run_started" or first.get("job", "tune") not in JOBS or not _has_date(first):
        raise problem("error.recording_none", path=path.name)
    if first.get("schema", 1) not in range(1, SCHEMA + 1):
        raise problem("error.recording_schema", path=path.name, schema=str(first["schema"])[:20], newest=SCHEMA)
    if not any(event["kind"] in ("done", "error") for event in events):
        raise problem("error.recording_short", path=path.name, lines=len(lines))
    return events


def _read_lines(path: Path) -> list[str]:
    """The lines of a file; U+2028 and its like, which a text may hold, end none. Raises PlaygroundError."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a file")
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise OSError(f"more than {MAX_FILE_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise problem("error.recording_file", path=path.name, detail=str(error)[:200]) from error
    return text.removesuffix("\n").split("\n") if text else []


def _follows(event: dict, previous: dict | None) -> bool:
    """Whether an event may stand after the previous one: a run starts once, and time goes on."""
    if previous is None:
        return 0 <= event["t"] <= MAX_SECONDS
    return event["kind"] != "run_started" and previous["t"] <= event["t"] <= MAX_SECONDS


def _has_date(first: dict) -> bool:
    """Whether a recording says on which day it was made."""
    recorded = first.get("recorded")
    if not isinstance(recorded, str) or not DATE.fullmatch(recorded):
        return False
    try:
        date.fromisoformat(recorded)
    except ValueError:
        return False
    return True


def _recorded(events: Sequence[dict], shape: str) -> Iterator[dict[str, Any]]:
    """The events that a recording keeps, without what they say of this machine."""
    for event in events:
        if not (shape and event["kind"] in ANSWERS):
            kept = {key: value for key, value in event.items() if key not in OWN_FIELDS}
            yield without_private_text(_without_own(kept, shape))


def _without_own(event: dict[str, Any], shape: str) -> dict[str, Any]:
    """An event without the fields that name models, data, times and files of this machine."""
    if event["kind"] == "run_started":
        kept = {key: value for key, value in event.items() if key != "began"}
        kept["settings"] = without_paths(event["settings"])
        if "recorded" not in event:
            kept["recorded"] = datetime.fromtimestamp(event["began"], timezone.utc).date().isoformat()
        if shape:
            kept["shape"] = shape
            kept["settings"]["load"]["model"] = shape
        return kept
    if event["kind"] == "done":
        result = {key: value for key, value in event["result"].items() if key not in (*OWN_FIELDS, "model")}
        return event | {"result": result}
    if event["kind"] == "loaded":
        return event | {"model": shape or source_name(event["model"])}
    return event
