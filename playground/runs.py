"""A run is a folder, and the screen is drawn from its events.

    runs/<id>/settings.json   what was chosen
    runs/<id>/events.jsonl    what happened, one JSON object a line: {"t": seconds since the run began, "kind": ...}
    runs/<id>/adapter/        what was learned, in PEFT's format; after a full fine-tune instead model/, a whole model
    runs/<id>/answers.jsonl   what base and tuned model answered to the held-out rows, a row a line
    runs/<id>/checkpoint.pt   what an unfinished fine-tune goes on from

Kinds of events: `run` (first line: schema, began, job, settings, hardware, versions), `phase` (name, lasts until the
next one; "idle" ends the last), `progress` (done, total), `memory` (bytes: rss, allocated, reserved, device, and
`parts` where they are exact), `prediction` and `measured` (beside.py), `step`, `score`, `sample`, `note`, `failure`,
`done`. A `score` says "when": before, after (the held-out loss), recall, measures (every figure of both sides, and some rows);
a `sample` is one answer during training. Readers skip a torn line and ignore kinds and fields that they don't know. Live chart, reload, history and replay all read through this module.
"""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from playground.errors import problem

SCHEMA = 1
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class Run:
    """One run's folder. Appending is safe from several threads; a second process may append once the first is dead."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.id = folder.name
        self.adapter = folder / "adapter"
        self.model = folder / "model"  # after a full fine-tune
        self._events = folder / "events.jsonl"
        self._lock = threading.Lock()
        self._began = None

    def append(self, kind: str, **fields) -> dict:
        """Write one event, stamped with the seconds since the run began; returns it.

        Raises OSError if the disk is full. A line that a dead writer left torn is closed first.
        """
        with self._lock:
            event = {"t": round(time.time() - self.began(), 3), "kind": kind, **fields}
            line = json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"
            with open(self._events, "ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        line = "\n" + line
                file.write(line.encode("utf-8"))
        return event

    def began(self) -> float:
        """Unix time at which the run began."""
        if self._began is None:
            first = next(iter(self.events()), {})
            self._began = first.get("began", time.time())
        return self._began

    def since(self, cursor: int = 0, most: int = 4_000_000) -> tuple[list[dict], int]:
        """The whole events after byte `cursor`, at most `most` bytes of them, and the cursor to go on from."""
        try:
            with open(self._events, "rb") as file:
                file.seek(cursor)
                block = file.read(most)
        except FileNotFoundError:
            return [], cursor
        block = block[: block.rfind(b"\n") + 1]
        return [event for line in block.splitlines() if (event := _parsed(line))], cursor + len(block)

    def events(self) -> Iterator[dict]:
        """Every event so far, oldest first."""
        cursor = -1
        after = 0
        while after != cursor:
            cursor = after
            found, after = self.since(cursor)
            yield from found

    def settings(self) -> dict:
        """What was chosen, as {group: {field: value}}."""
        return json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))

    def replay(self, speed: float = 1.0, longest_pause: float = 1.0) -> Iterator[dict]:
        """The events again, in their own timing times `speed`; no pause is longer than `longest_pause` seconds."""
        last = 0.0
        for event in self.events():
            time.sleep(min(max(event["t"] - last, 0) / speed, longest_pause))
            last = event["t"]
            yield event


class Unwritten(Run):
    """The run of a process that only helps to train: it goes through the same motions and writes nothing."""

    def append(self, kind: str, **fields) -> dict:
        return {"t": 0.0, "kind": kind, **fields}


@dataclass(frozen=True)
class Summary:
    """A run at a glance. `state`: done, stopped, failed, or open (still going, or its process died unseen)."""

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


def create(root: Path, job: str, settings: dict, **facts) -> Run:
    """A new run folder under `root` with its settings and its first event; `facts` join the `run` event."""
    began = time.time()
    stem = f"{datetime.fromtimestamp(began):%Y%m%d-%H%M%S}-{job}"
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
    (folder / "settings.json").write_text(json.dumps(settings, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    run = Run(folder)
    run._began = began
    run.append("run", schema=SCHEMA, began=began, job=job, settings=settings, **facts)
    return run


def find(root: Path, run_id: str) -> Run:
    """The run of that id. Raises PlaygroundError for an id that isn't one, or of which there is no folder."""
    if not ID.fullmatch(run_id or "") or not (root / run_id / "events.jsonl").is_file():
        raise problem("error.no_run", run=str(run_id)[:120])
    return Run(root / run_id)


def result(run: Run) -> dict:
    """What the last end of the run's own job says, not of a chat that went on in it; empty before that."""
    events = list(run.events())
    return next((e.get("result", {}) for e in reversed(events) if e["kind"] == "done" and e.get("job") == events[0].get("job")), {})


def history(root: Path) -> list[Summary]:
    """Every run under `root`, newest first."""
    if not root.is_dir():
        return []
    folders = [f for f in root.iterdir() if ID.fullmatch(f.name) and (f / "events.jsonl").is_file()]
    stamps = ((f, (f / "events.jsonl").stat()) for f in sorted(folders, key=lambda f: f.name, reverse=True))
    return [_summary(f, stat.st_mtime_ns, stat.st_size, (f / "adapter").is_dir() or (f / "model").is_dir()) for f, stat in stamps]


def speed(root: Path, model: str, bits: int, hardware: str) -> dict | None:
    """What the last whole fine-tune of this model at these bits on hardware of that name did: {"run", "tokens_per_s"}; None if none was."""
    for run in history(root):
        if (run.job, run.state, run.model, run.bits) == ("tune", "done", model, bits) and run.result.get("tokens_per_s"):
            first = next(Run(root / run.id).events(), {})
            if first.get("hardware", {}).get("name") == hardware:
                return {"run": run.id, "tokens_per_s": run.result["tokens_per_s"]}
    return None


def delete(root: Path, run_id: str) -> None:
    """Remove a run's whole folder."""
    shutil.rmtree(find(root, run_id).folder)


@lru_cache(maxsize=1024)
def _summary(folder: Path, changed: int, size: int, has_adapter: bool) -> Summary:
    """Read once per state of the file: `changed`, `size` and `has_adapter` are there to notice a new one."""
    first, state, result, seconds = {}, "open", {}, 0.0
    for event in Run(folder).events():
        kind = event["kind"]
        if kind == "run":
            first = first or event
        elif event.get("job") != first.get("job"):
            continue  # a chat that went on in this run
        elif kind == "failure":
            state, seconds = "failed", event["t"]
        elif kind == "done":
            result = event.get("result", {})
            state, seconds = "stopped" if result.get("stopped") else "done", event["t"]
    settings = first.get("settings", {})
    load = settings.get("load", {})
    return Summary(
        id=folder.name, began=first.get("began", 0.0), job=first.get("job", ""), model=load.get("model", ""),
        bits=load.get("bits", 0), data=settings.get("data", {}).get("source", ""), state=state,
        has_adapter=has_adapter, seconds=seconds, result=result,
    )  # fmt: skip


def _parsed(line: bytes) -> dict | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event and isinstance(event.get("t"), (int, float)) else None
