"""Recordings: a run's events in one file that can be shown anywhere, without its model, GPU or network.

The Start tab plays those of `assets/recordings/`; `python -m playground record` makes one, `replay` puts one among the
runs. Paths, run ids and times of day are left out; hardware and versions stay, and the first event gets "recorded", the
date, which the live view shows for good.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from playground import ASSETS
from playground.errors import problem
from playground.runs import store
from playground.runs.thinning import thin_memory
from playground.runs.upgrade import SCHEMA, upgraded
from playground.settings import Settings, parse

FOLDER = ASSETS / "recordings"
NAME = re.compile(r"[\w-]+")
MEMORY_EVENTS = 390  # at most about; with the last one that has parts less than 400
MAX_BYTES = 500_000
ANSWERS = ("sample", "eval")  # kinds of events that say what a model knows
OWN_FIELDS = ("run", "adapter", "model", "checkpoint")  # of a result
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(?:[\w.-]+/)+|(?<!\w)[A-Za-z]:\\|(?<!\w)~/")
MODEL_PATH = re.compile(r"[/\\]")


def read_recording(name: str) -> list[dict]:
    """The events of a recording that ships with the program; [] where there is none of that name."""
    path = FOLDER / f"{name}.jsonl"
    if not NAME.fullmatch(name) or not path.is_file():
        return []
    return [upgraded(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]


def names() -> list[str]:
    """The names of all recordings that ship with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def record(events: Sequence[dict], shape: str = "") -> str:
    """The recording of a run that came to its end, as JSON lines.

    shape: the id of the model whose shape random weights had; the recording names it, and shows no answers.
    Raises PlaygroundError for a run that is still open, for one that names a path of this machine, and for a run too
    large.
    """
    ends = [event for event in events if event["kind"] in ("done", "error")]
    if not events or events[0]["kind"] != "run_started" or not ends:
        raise problem("error.record_open")
    lines, latest = [], 0.0
    for event in _recorded(events, shape):
        latest = max(latest, event["t"])  # a clock may have been set back during the run
        lines.append(json.dumps(event | {"t": latest}, ensure_ascii=False, separators=(",", ":")))
    for line in lines:
        if path := ABSOLUTE_PATH.search(line):
            raise problem("error.record_path", detail=line[max(0, path.start() - 60) : path.end() + 20])
    text = "\n".join(lines) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise problem("error.record_large", kilobytes=len(text.encode()) // 1000, most=MAX_BYTES // 1000)
    return text


def replay(path: Path, root: Path) -> store.Run:
    """Copy a recording into a new run under `root`. Raises PlaygroundError for a file that isn't a recording.

    Events of kinds that this version doesn't know are kept; whatever draws them escapes their texts.
    """
    events = _read_events(path)
    first = events[0]
    settings = parse(first["settings"]) if isinstance(first.get("settings"), dict) else Settings()
    run = store.create(root, str(first.get("job", "tune")), settings)
    began = {"began": time.time() - events[-1]["t"]}
    lines = [json.dumps(event, ensure_ascii=False) for event in ({**first, **began}, *events[1:])]
    (run.folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def _read_events(path: Path) -> list[dict]:
    """The events of a recording's file. Raises PlaygroundError with what is wrong with it, and in which line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise problem("error.recording_file", path=path.name, detail=str(error)[:200]) from error
    events: list[dict] = []
    for number, line in enumerate(lines, 1):
        event = _parse(line)
        if event is None or (events and event["t"] < events[-1]["t"]):
            raise problem("error.recording_line", path=path.name, line=number)
        events.append(upgraded(event))
    first = events[0] if events else {}
    if first.get("kind") != "run_started" or not isinstance(first.get("recorded"), str):
        raise problem("error.recording_none", path=path.name)
    if first.get("schema", 1) not in range(1, SCHEMA + 1):
        raise problem("error.recording_schema", path=path.name, schema=str(first["schema"])[:20], newest=SCHEMA)
    if not any(event["kind"] in ("done", "error") for event in events):
        raise problem("error.recording_short", path=path.name, lines=len(lines))
    return events


def _parse(line: str) -> dict | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    is_event = isinstance(event, dict) and isinstance(event.get("kind"), str)
    return event if is_event and isinstance(event.get("t"), (int, float)) else None


def _recorded(events: Sequence[dict], shape: str) -> Iterator[dict[str, Any]]:
    """The events that a recording keeps."""
    for event in thin_memory(events, MEMORY_EVENTS):
        if shape and event["kind"] in ANSWERS:
            continue
        if event["kind"] == "run_started":
            day = datetime.fromtimestamp(event["began"], timezone.utc).date().isoformat()
            kept = {key: value for key, value in event.items() if key != "began"}
            kept |= {"settings": without_paths(event["settings"]), "recorded": event.get("recorded", day)}
            if shape:
                kept["shape"] = shape
                kept["settings"]["load"]["model"] = shape
            yield kept
        elif event["kind"] == "done":
            result = {key: value for key, value in event["result"].items() if key not in OWN_FIELDS}
            yield event | {"result": result}
        elif event["kind"] == "loaded":
            yield event | {"model": shape or _last_part(event["model"])}
        else:
            yield event


def without_paths(settings: dict) -> dict:
    """Settings whose model and data set, where they are folders or files of this machine, are their last parts."""
    load, data = settings.get("load", {}), settings.get("data", {})
    return settings | {
        "load": load | {"model": _last_part(load.get("model", ""))},
        "data": data | {"source": _last_part(data.get("source", ""))},
    }


def _last_part(name: str) -> str:
    """The last part of an absolute path; anything else, such as a hub id, unchanged."""
    return MODEL_PATH.split(name)[-1] if ABSOLUTE_PATH.match(name) else name
