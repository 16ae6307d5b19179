"""The index of a runs folder: every run's summary in one file, so that thousands of runs are listed within a second.

`<root>/.index.jsonl`, one {"version", "size", "modified", "summary"} a line, is valid for the size and the time of
change of the run's events; later lines win. Programs only append to it, or replace it by a shorter one: what two of
them lose to each other, or what is damaged, is read from the runs again. A folder that can't be written has no index.
"""

import contextlib
import gc
import json
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

from playground.errors import problem
from playground.runs.glance import telling_events
from playground.runs.label import Label
from playground.runs.summary import RunSummary, summarize

FILE = ".index.jsonl"  # no id of a run begins with a dot
MAX_BYTES = 256 * 2**20  # of the file: of a hundred thousand runs
VERSION = 4  # of a line; others are ignored
SETTLED_SECONDS = 5.0  # a run that was written to since isn't kept yet: its next event would outdate it
OF_FOLDER = ("has_adapter", "has_checkpoint", "label")  # what a summary's file of events doesn't tell
TYPES = {f.name: type(getattr(summarize("", []), f.name)) for f in fields(RunSummary) if f.name != "tokens_per_s"}
MANY = 500  # summaries, which are written while the list is already shown
ROOTS = 8  # whose summaries stay in memory

State = tuple[int, int]  # size and time of change, in ns, of a run's events


class Index:
    """The summaries of one folder's runs, in memory and in its file. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = root / FILE
        self._lock = threading.RLock()
        self._summaries: dict[str, tuple[State, RunSummary]] = {}
        self._unwritten: set[str] = set()
        self._read_until = 0  # bytes of the file
        self._inode = 0
        self._lines = 0

    def summaries(self, states: dict[str, State], kept: bool = True) -> dict[str, RunSummary]:
        """The summary of each run in `states`, by id. kept: whether the folder has an index file."""
        with self._lock, _without_collection():
            if kept:
                self._read_file()
            found = {run_id: self._summary(run_id, state) for run_id, state in states.items()}
            for gone in self._summaries.keys() - states.keys():
                del self._summaries[gone]
                self._unwritten.discard(gone)
            if kept and len(self._unwritten) > MANY:  # the list is shown first
                threading.Thread(target=self._write_file, name="runs index").start()
            elif kept:
                self._write_file()
            return found

    def count_unread(self, states: dict[str, State]) -> int:
        """How many of these runs would have to be read from their events."""
        with self._lock, _without_collection():
            self._read_file()
            return sum(
                run_id not in self._summaries or self._summaries[run_id][0] != states[run_id] for run_id in states
            )

    def summary(self, run_id: str, state: State) -> RunSummary:
        """The summary of one run."""
        with self._lock:
            return self._summary(run_id, state)

    def _summary(self, run_id: str, state: State) -> RunSummary:
        known = self._summaries.get(run_id)
        if known and known[0] == state:
            return known[1]
        summary = _summarize(self._root, run_id)
        self._summaries[run_id] = (state, summary)
        self._unwritten.add(run_id)
        return summary

    def _read_file(self) -> None:
        """Take in what this and other programs have written to the file since the last time."""
        try:
            if self._is_odd():
                raise OSError
            with open(self._file, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._read_until:
                    self._inode, self._read_until, self._lines = status.st_ino, 0, 0
                file.seek(self._read_until)
                block = file.read()
        except OSError:
            self._inode, self._read_until, self._lines = 0, 0, 0
            return
        block = block[: block.rfind(b"\n") + 1]
        self._read_until += len(block)
        for line in block.splitlines():
            self._lines += 1
            entry = _parse(line)
            if entry and entry[1].id not in self._unwritten:  # what this process has read itself is as new
                self._summaries[entry[1].id] = entry

    def _is_odd(self) -> bool:
        """Whether the file is something else, such as a pipe, or larger than any index; then it is replaced."""
        try:
            status = os.stat(self._file)
        except OSError:
            return self._file.is_symlink()
        return not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES

    def _write_file(self) -> None:
        with self._lock:
            self._append_or_replace()

    def _append_or_replace(self) -> None:
        """Append the summaries that aren't in the file, or replace it where most of its lines are outdated."""
        now, settled = time.time_ns(), int(SETTLED_SECONDS * 1e9)
        # Changed after now: the clock was set back since.
        ready = [run_id for run_id in self._unwritten if abs(now - self._summaries[run_id][0][1]) >= settled]
        if self._lines + len(ready) > 2 * len(self._summaries) + 200 or self._is_odd():
            self._replace_file()
        elif ready:
            text = "".join(map(_line, (self._summaries[run_id] for run_id in ready)))
            with contextlib.suppress(OSError), open(self._file, "ab+") as file:
                size = file.tell()
                torn = size > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
                file.write(("\n" * torn + text).encode("utf-8"))
                file.flush()
                self._unwritten.difference_update(ready)
                inode = os.fstat(file.fileno()).st_ino
                if size == self._read_until and self._inode in (0, inode) and not torn:
                    self._inode, self._read_until = inode, file.tell()  # so it needn't be read again
                    self._lines += len(ready)

    def _replace_file(self) -> None:
        partial = self._file.with_name(f"{FILE}.{os.getpid()}.partial")
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.writelines(map(_line, self._summaries.values()))
            os.replace(partial, self._file)
            self._unwritten.clear()
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Without the search for cyclic garbage, a third of the time in which thousands of summaries are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@lru_cache(maxsize=ROOTS)
def index_of(root: Path) -> Index:
    """The index of a runs folder: one for all threads of this process."""
    return Index(root)


def with_folder(summary: RunSummary, names: Iterable[str], label: Label) -> RunSummary:
    """A summary with what lies in its folder, by the `names` there."""
    listed = set(names)
    return replace(
        summary,
        has_adapter=bool(listed & {"adapter", "model"}),
        has_checkpoint="checkpoint.pt" in listed,
        label=label,
    )


def damaged(run_id: str, error: Exception) -> RunSummary:
    """The summary of a run whose events can't be read: failed, and why."""
    detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    problems = problem("error.run_damaged", run=run_id, detail=detail).to_dict()["problems"]
    return replace(summarize(run_id, []), state="failed", problems=problems)


def _summarize(root: Path, run_id: str) -> RunSummary:
    """A run's summary, whatever is in its files: one that breaks its reader says so, and the others are listed."""
    try:
        return summarize(run_id, telling_events(os.path.join(root, run_id)))
    except Exception as error:
        return damaged(run_id, error)


def _line(entry: tuple[State, RunSummary]) -> str:
    (size, modified), summary = entry
    kept = {name: value for name, value in vars(summary).items() if name not in OF_FOLDER}
    line = {"version": VERSION, "size": size, "modified": modified, "summary": kept}
    return json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n"


def _parse(line: bytes) -> tuple[State, RunSummary] | None:
    """The entry of a line; None for one that is torn, of another version, or not of this program."""
    try:
        entry = json.loads(line)
        values = entry["summary"]
        if entry["version"] != VERSION or not all(type(entry[name]) is int for name in ("size", "modified")):
            return None
        summary = RunSummary(**values, has_adapter=False)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    speed = summary.tokens_per_s
    usable = all(_is(getattr(summary, name), kind) for name, kind in TYPES.items()) and _is(speed or 0.0, float)
    return ((entry["size"], entry["modified"]), summary) if usable else None


def _is(value: object, kind: type) -> bool:
    """Whether a value is of that type; JSON may write a float without its point."""
    return isinstance(value, (int, float) if kind is float else kind)
