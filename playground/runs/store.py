"""The run folder: create, append to and follow runs. listing.py lists them, trash.py deletes them.

    runs/<id>/settings.json   the settings, with their schema version
    runs/<id>/events.jsonl    one JSON object a line: {"t": seconds since the run began, "kind": ...}
    runs/<id>/adapter/        the adapter in PEFT's format; after a full fine-tune model/ instead, a whole model
    runs/<id>/answers.jsonl   base and tuned answers to the held-out rows, one row a line
    runs/<id>/checkpoint.pt   what an unfinished fine-tune resumes from; best.pt beside it: its best weights so far
    runs/<id>/snapshot.pickle the CUDA allocations for PyTorch's memory viewer, where they were recorded
    runs/<id>/label.json      the name and the note that a person gave it (label.py)

Kinds of events, schema 2: `run_started` (first line: schema, began, job, settings, hardware, versions), `phase`
(name; lasts until the next one, "idle" ends the last), `progress` (done, total, unit), `memory` (bytes: rss,
allocated, reserved, device_used, and `parts` where they are exact), `memory_predicted` and `memory_measured`
(engine/predictions.py), `step`, `eval`, `sample`, `note`, `error`, `done`. An `eval` has "when": before, during, after
(held-out loss), recall, measures (every metric of both sides, and some rows); a `sample` is one answer during
training.

Readers skip a torn line and ignore kinds and fields that they don't know. Live chart, reload, history, comparison and
replay all read through this module, which also reads runs of earlier schema versions (upgrade.py).
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from playground.errors import problem
from playground.json_values import valid_text
from playground.runs.event_fields import is_usable_number, valid_event
from playground.runs.event_log import EventLog
from playground.runs.spare import holds_anything, make_spare
from playground.runs.upgrade import SCHEMA, upgraded
from playground.settings import SCHEMA as SETTINGS_SCHEMA
from playground.settings import Settings, read_file

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
MAX_EVENT_BYTES = 16_000_000  # of a line that is read; a longer one is passed over
OWN_FILES = ("events.jsonl", "settings.json")  # by one of which a folder is known as a run's
TRASH = ".deleted"  # folder of the deleted runs, under that of the runs
VISITORS = ".visitors"  # folder of the visitors of a shared page, under that of the runs: a folder of runs for each
# Begin most lines of a run, as `append` writes them: memory is recorded ten times a second.
PASSING_LINE = re.compile(rb'\{"t":[-+.\de]+,"kind":"(?:memory|progress|sample|(step))",')


class Run:
    """One run's folder. Appending is safe from several threads; a second process may append once the first is dead.

    Where its folder is full, read-only or gone, what is appended waits in memory until it can be written; `settle`
    writes it to a spare folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.id = folder.name
        self.adapter = folder / "adapter"
        self.model = folder / "model"  # after a full fine-tune
        self.snapshot = folder / "snapshot.pickle"  # of CUDA's memory, where the settings ask for one
        self._events = folder / "events.jsonl"
        self._log = EventLog(self._events)
        self._lock = threading.RLock()
        self._began: float | None = None
        self._clock: float | None = None  # the monotonic clock's time at which the run would have begun
        self._first = b""  # the run's first line, and its settings, for a spare folder
        self._settings_text = ""
        self._spare: Path | None = None
        self._fault_seen = False

    def append(self, kind: str, **fields: Any) -> dict:
        """Write one event, stamped with the seconds since the run began; returns it.

        Where it can't be written, see `fault`. A line that a dead writer left torn is ended first.
        """
        with self._lock:
            event = {"t": self._now(), "kind": kind, **fields}
            line = valid_text(json.dumps(event, ensure_ascii=False, separators=(",", ":"))) + "\n"
            self._log.append(line.encode("utf-8"), passing=kind in ("memory", "progress"))
        return event

    @property
    def fault(self) -> tuple[str, str] | None:
        """The file that can't be written now, and why; None while all is well."""
        error = self._log.error
        return (str(error.filename), str(error.strerror)) if error else None

    def has_new_fault(self) -> bool:
        """Whether the folder can't be written, and this wasn't asked since."""
        with self._lock:
            is_new, self._fault_seen = bool(self.fault) and not self._fault_seen, bool(self.fault)
            return is_new

    def spare(self) -> Path | None:
        """A folder for temporary files that takes what this run's folder doesn't; None where there is none either."""
        with self._lock:
            if self._spare is None or not self._spare.is_dir():
                self._spare = make_spare(self.folder, self._settings_text)
            return self._spare

    def spare_file(self, name: str) -> Path | None:
        """A file of the spare folder, where there is one."""
        return self._spare / name if self._spare and (self._spare / name).is_file() else None

    def settle(self) -> None:
        """At the end of a job: write what couldn't be written so far, to the spare folder if need be."""
        with self._lock:
            self._log.write_waiting()
            spare = self.spare() if self._spare or self._log.waiting else None
            if spare is None:
                return
            if not self._log.waiting and not holds_anything(spare):
                shutil.rmtree(spare, ignore_errors=True)
                self._spare = None
                return
            with contextlib.suppress(OSError):
                with open(spare / "events.jsonl", "ab") as file:
                    file.write(b"" if file.tell() else self._first)
                    file.writelines(self._log.waiting)
                self._log.waiting.clear()

    def has_file(self, name: str) -> bool:
        """Whether a file is in the run's folder, or in its spare one."""
        return (self.folder / name).is_file() or self.spare_file(name) is not None

    def _now(self) -> float:
        """Seconds since the run began, by a clock that isn't set: the time of day places the first event alone."""
        if self._clock is None:
            last = max((event["t"] for event in self.events(at_a_glance=True)), default=0.0)
            self._clock = time.monotonic() - max(time.time() - self.began(), last)
            self._first, self._settings_text = self._beginning()
        return round(time.monotonic() - self._clock, 3)

    def _beginning(self) -> tuple[bytes, str]:
        """The first line and the settings as they stand in the folder; empty where they can't be read."""
        try:
            text = (self.folder / "settings.json").read_text(encoding="utf-8")
        except (OSError, ValueError):
            text = ""
        return next(iter(self.lines()), b""), text

    def began(self) -> float:
        """Unix time at which the run began."""
        if self._began is None:
            first = next(iter(self.events()), {})
            began = first.get("began")
            self._began = float(began) if began is not None and is_usable_number(began) else time.time()
        return self._began

    def since(self, cursor: int = 0, max_bytes: int = 4_000_000, at_a_glance: bool = False) -> tuple[list[dict], int]:
        """The whole events after byte `cursor`, at most `max_bytes` of them, and the cursor to go on from.

        at_a_glance: without those of passing moments, which are nearly all, unparsed; of the steps, the last is kept.
        """
        try:
            with open(self._events, "rb") as file:
                file.seek(cursor)
                block = file.read(max_bytes)
                if len(block) == max_bytes and b"\n" not in block:  # one event is larger than that
                    block += file.readline(MAX_EVENT_BYTES)
        except FileNotFoundError:
            return [], cursor
        if len(block) >= MAX_EVENT_BYTES and b"\n" not in block:  # passed over, in parts that nobody can read
            return [], cursor + len(block)
        block = block[: block.rfind(b"\n") + 1]
        lines = block.split(b"\n")
        if at_a_glance:
            lines = _lasting_lines(lines)
        return [event for line in lines if (event := parse_event(line))], cursor + len(block)

    def size(self) -> int:
        """Bytes of the events so far. Raises OSError where there are none."""
        return self._events.stat().st_size

    def events(self, at_a_glance: bool = False) -> Iterator[dict]:
        """Every event so far, oldest first. at_a_glance: as for `since`."""
        cursor, after = -1, 0
        while after != cursor:
            cursor = after
            events, after = self.since(cursor, at_a_glance=at_a_glance)
            yield from events

    def lines(self) -> Iterator[bytes]:
        """Every whole line of the events so far, unparsed, for readers that need few of them."""
        try:
            with open(self._events, "rb") as file:
                while line := file.readline(MAX_EVENT_BYTES):
                    if line.endswith(b"\n"):
                        yield line
        except FileNotFoundError:
            return

    def settings(self) -> Settings:
        """The run's settings. Raises PlaygroundError where they can't be read, or are of a newer version."""
        return read_file(self.folder / "settings.json", f"{self.id}/settings.json", of_run=True)


class NullRun(Run):
    """The run of a process that isn't rank 0: accepts events and writes nothing."""

    def append(self, kind: str, **fields: Any) -> dict:
        return {"t": 0.0, "kind": kind, **fields}


def create(root: Path, job: str, settings: Settings, **facts: Any) -> Run:
    """A new run folder under `root` with its settings and its first event; `facts` join the `run_started` event."""
    began = time.time()
    stem = f"{datetime.fromtimestamp(began):%Y%m%d-%H%M%S}-{job}"
    if root.parent.name == VISITORS:  # two visitors' runs never have the same id
        stem += f"-{secrets.token_hex(4)}"
    if not RUN_ID.fullmatch(stem):
        raise ValueError(f"not the name of a job: {job[:40]!r}")
    for number in range(1, 1000):
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        if (root / TRASH / folder.name).exists():  # a deleted run can come back under its id
            continue
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    values = settings.to_dict()
    text = valid_text(json.dumps({"schema": SETTINGS_SCHEMA, **values}, ensure_ascii=False, indent=1)) + "\n"
    (folder / "settings.json").write_text(text, encoding="utf-8")
    run = Run(folder)
    run._began = began
    run.append("run_started", schema=SCHEMA, began=began, job=job, settings=values, **facts)
    if run._log.error:
        raise run._log.error
    run._first = next(iter(run.lines()), b"")
    return run


def find(root: Path, run_id: str | None) -> Run:
    """The run of that id. Raises PlaygroundError for a malformed id, or one without a folder."""
    if not RUN_ID.fullmatch(run_id or "") or not (root / str(run_id) / "events.jsonl").is_file():
        raise problem("error.no_run", run=str(run_id)[:120])
    return Run(root / str(run_id))


def find_folder(root: Path, run_id: str | None) -> Path:
    """The folder of a run of that id, also of one whose events can't be read. Raises PlaygroundError without one."""
    folder = root / str(run_id)
    if not RUN_ID.fullmatch(run_id or "") or not any(os.path.lexists(folder / name) for name in OWN_FILES):
        raise problem("error.no_run", run=str(run_id)[:120])
    return folder


def last_result(run: Run) -> dict:
    """The result of the run's own job when it last ended, not of a chat that continued in it; empty before that."""
    events = list(run.events())
    ends = (e for e in reversed(events) if e["kind"] == "done" and e.get("job") == events[0].get("job"))
    return next((end.get("result", {}) for end in ends), {})


def seconds_besides_training(run: Run) -> float:
    """Seconds that a fine-tune took besides its steps: loading, evaluating, sample answers; not fetching the model."""
    events = list(run.events())
    step: dict = next((event for event in reversed(events) if event["kind"] == "step"), {})
    training = step.get("tokens", 0) / step["tokens_per_s"] if step.get("tokens_per_s") else 0.0
    phases = [event for event in events if event["kind"] == "phase"]
    fetching = sum(
        following["t"] - phase["t"] for phase, following in pairwise(phases) if phase["name"] in ("fetch", "convert")
    )
    return max(0.0, last_result(run).get("seconds", 0.0) - training - fetching)


def _lasting_lines(lines: list[bytes]) -> list[bytes]:
    """The lines without those of passing moments; of the steps, the last."""
    kept, last_step = [], None
    for line in lines:
        passing = PASSING_LINE.match(line)
        if not passing:
            kept.append(line)
        elif passing[1]:
            last_step = len(kept), line
    return kept if last_step is None else [*kept[: last_step[0]], last_step[1], *kept[last_step[0] :]]


def parse_event(line: bytes) -> dict | None:
    """The event of a line, under today's names and with usable fields alone; None for a torn line."""
    try:  # of bytes, json first finds out the encoding, which takes as long as a short line's values
        event = json.loads(line.decode("utf-8", "surrogatepass") if line.startswith(b"{") else line)
    except (ValueError, RecursionError):
        return None
    event = valid_event(event, line) if isinstance(event, dict) else None
    return upgraded(event) if event else None
