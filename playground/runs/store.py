"""The run folder: create, append to, follow, list and replay runs. trash.py deletes them.

    runs/<id>/settings.json   the settings, with their schema version
    runs/<id>/events.jsonl    one JSON object a line: {"t": seconds since the run began, "kind": ...}
    runs/<id>/adapter/        the adapter in PEFT's format; after a full fine-tune model/ instead, a whole model
    runs/<id>/answers.jsonl   base and tuned answers to the held-out rows, one row a line
    runs/<id>/checkpoint.pt   what an unfinished fine-tune resumes from; best.pt beside it: its best weights so far

Kinds of events, schema 2: `run_started` (first line: schema, began, job, settings, hardware, versions), `phase`
(name; lasts until the next one, "idle" ends the last), `progress` (done, total, unit), `memory` (bytes: rss,
allocated, reserved, device_used, and `parts` where they are exact), `memory_predicted` and `memory_measured`
(engine/predictions.py), `step`, `eval`, `sample`, `note`, `error`, `done`. An `eval` has "when": before, during, after
(held-out loss), recall, measures (every metric of both sides, and some rows); a `sample` is one answer during
training.

Readers skip a torn line and ignore kinds and fields that they don't know. Live chart, reload, history, comparison and
replay all read through this module, which also reads runs of earlier schema versions (upgrade.py).
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from playground.errors import problem
from playground.runs.upgrade import SCHEMA, upgraded
from playground.settings import SCHEMA as SETTINGS_SCHEMA
from playground.settings import Settings, read_file

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
WATCHED_SECONDS = 1.0  # in which a process that works on a run writes to it
TRASH = ".deleted"  # folder of the deleted runs, under that of the runs


class Run:
    """One run's folder. Appending is safe from several threads; a second process may append once the first is dead."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.id = folder.name
        self.adapter = folder / "adapter"
        self.model = folder / "model"  # after a full fine-tune
        self._events = folder / "events.jsonl"
        self._lock = threading.Lock()
        self._began: float | None = None

    def append(self, kind: str, **fields: Any) -> dict:
        """Write one event, stamped with the seconds since the run began; returns it.

        Raises OSError if the disk is full. A line that a dead writer left torn is ended first.
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

    def since(self, cursor: int = 0, max_bytes: int = 4_000_000) -> tuple[list[dict], int]:
        """The whole events after byte `cursor`, at most `max_bytes` of them, and the cursor to go on from."""
        try:
            with open(self._events, "rb") as file:
                file.seek(cursor)
                block = file.read(max_bytes)
        except FileNotFoundError:
            return [], cursor
        block = block[: block.rfind(b"\n") + 1]
        return [event for line in block.splitlines() if (event := _parse_event(line))], cursor + len(block)

    def events(self) -> Iterator[dict]:
        """Every event so far, oldest first."""
        cursor, after = -1, 0
        while after != cursor:
            cursor = after
            events, after = self.since(cursor)
            yield from events

    def settings(self) -> Settings:
        """The run's settings. Raises PlaygroundError where they can't be read, or are of a newer version."""
        return read_file(self.folder / "settings.json", f"{self.id}/settings.json")

    def replay(self, speed: float = 1.0, longest_pause: float = 1.0) -> Iterator[dict]:
        """The events again, in their own timing times `speed`; no pause is longer than `longest_pause` seconds."""
        last = 0.0
        for event in self.events():
            time.sleep(min(max(event["t"] - last, 0) / speed, longest_pause))
            last = event["t"]
            yield event


class NullRun(Run):
    """The run of a process that isn't rank 0: accepts events and writes nothing."""

    def append(self, kind: str, **fields: Any) -> dict:
        return {"t": 0.0, "kind": kind, **fields}


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance. `state`: done, stopped, failed, or open (still going, or its process died unnoticed)."""

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


def create(root: Path, job: str, settings: Settings, **facts: Any) -> Run:
    """A new run folder under `root` with its settings and its first event; `facts` join the `run_started` event."""
    began = time.time()
    stem = f"{datetime.fromtimestamp(began):%Y%m%d-%H%M%S}-{job}"
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        if (root / TRASH / folder.name).exists():  # a deleted run can come back under its id
            continue
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
    values = settings.to_dict()
    text = json.dumps({"schema": SETTINGS_SCHEMA, **values}, ensure_ascii=False, indent=1) + "\n"
    (folder / "settings.json").write_text(text, encoding="utf-8")
    run = Run(folder)
    run._began = began
    run.append("run_started", schema=SCHEMA, began=began, job=job, settings=values, **facts)
    return run


def find(root: Path, run_id: str | None) -> Run:
    """The run of that id. Raises PlaygroundError for a malformed id, or one without a folder."""
    if not RUN_ID.fullmatch(run_id or "") or not (root / str(run_id) / "events.jsonl").is_file():
        raise problem("error.no_run", run=str(run_id)[:120])
    return Run(root / str(run_id))


def last_result(run: Run) -> dict:
    """The result of the run's own job when it last ended, not of a chat that continued in it; empty before that."""
    events = list(run.events())
    ends = (e for e in reversed(events) if e["kind"] == "done" and e.get("job") == events[0].get("job"))
    return next((end.get("result", {}) for end in ends), {})


def history(root: Path) -> list[RunSummary]:
    """Every run under `root`, newest first."""
    if not root.is_dir():
        return []
    folders = [f for f in root.iterdir() if RUN_ID.fullmatch(f.name) and (f / "events.jsonl").is_file()]
    return [_summary_of(folder) for folder in sorted(folders, key=lambda f: f.name, reverse=True)]


def summary(root: Path, run_id: str | None) -> RunSummary:
    """The run of that id at a glance. Raises PlaygroundError as `find` does."""
    return _summary_of(find(root, run_id).folder)


def measured_speed(root: Path, model: str, bits: int, hardware: str) -> dict | None:
    """{"run", "tokens_per_s"} of the last completed fine-tune of this model at these bits on hardware of that name."""
    for run in history(root):
        if (run.job, run.state, run.model, run.bits) == ("tune", "done", model, bits) and run.result.get(
            "tokens_per_s"
        ):
            first = next(Run(root / run.id).events(), {})
            if first.get("hardware", {}).get("name") == hardware:
                return {"run": run.id, "tokens_per_s": run.result["tokens_per_s"]}
    return None


def seconds_besides_training(run: Run) -> float:
    """Seconds that a fine-tune took besides its steps: loading, evaluating, sample answers; not fetching the model."""
    events = list(run.events())
    step: dict = next((event for event in reversed(events) if event["kind"] == "step"), {})
    training = step["tokens"] / step["tokens_per_s"] if step.get("tokens_per_s") else 0.0
    phases = [event for event in events if event["kind"] == "phase"]
    fetching = sum(
        following["t"] - phase["t"] for phase, following in pairwise(phases) if phase["name"] in ("fetch", "convert")
    )
    return max(0.0, last_result(run).get("seconds", 0.0) - training - fetching)


def is_resumable(run: RunSummary, has_checkpoint: bool) -> bool:
    """Whether a run can be resumed: a fine-tune that didn't come to its end; without a checkpoint it starts again."""
    return has_checkpoint or (run.job == "tune" and run.state != "done")


def is_written_to(run: Run) -> bool:
    """Whether a process is writing to a run now: memory is recorded ten times a second. Waits a second to find out."""
    events = run.folder / "events.jsonl"
    size, until = events.stat().st_size, time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < until:
        time.sleep(0.05)
        if events.stat().st_size > size:
            return True
    return False


def _summary_of(folder: Path) -> RunSummary:
    stat = (folder / "events.jsonl").stat()
    has_adapter = (folder / "adapter").is_dir() or (folder / "model").is_dir()
    return _summary(folder, stat.st_mtime_ns, stat.st_size, has_adapter)


@lru_cache(maxsize=1024)
def _summary(folder: Path, changed: int, size: int, has_adapter: bool) -> RunSummary:
    """Read once per state of the file: `changed`, `size` and `has_adapter` are there to notice a new one."""
    first: dict = {}
    result: dict = {}
    state, seconds = "open", 0.0
    for event in Run(folder).events():
        kind = event["kind"]
        if kind == "run_started":
            first = first or event
        elif event.get("job") != first.get("job"):
            continue  # a chat that continued in this run
        elif kind == "error":
            state, seconds = "failed", event["t"]
        elif kind == "done":
            result = event.get("result", {})
            state, seconds = "stopped" if result.get("stopped") else "done", event["t"]
    settings = first.get("settings", {})
    load = settings.get("load", {})
    return RunSummary(
        id=folder.name,
        began=first.get("began", 0.0),
        job=first.get("job", ""),
        model=load.get("model", ""),
        bits=load.get("bits", 0),
        data=settings.get("data", {}).get("source", ""),
        state=state,
        has_adapter=has_adapter,
        seconds=seconds,
        result=result,
    )


def _parse_event(line: bytes) -> dict | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    usable = isinstance(event, dict) and isinstance(event.get("kind"), str) and isinstance(event.get("t"), (int, float))
    return upgraded(event) if usable else None
