"""The queue's files: add, list, change, order and remove jobs. It outlives the program; runner.py works it off.

    runs/.queue/<id>.json     one job, replaced as a whole
    runs/.queue/edit.lock     held by whoever changes a file, for milliseconds
    runs/.queue/owner.lock    held by the program that works off the queue (owner.py)

Each job has a number that gives its order, and times are only shown: a clock that goes backwards changes nothing.
Files that can't be read are skipped and named.
"""

import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from playground.errors import problem
from playground.json_values import read_small_json

FOLDER = ".queue"  # under that of the runs; no id of a run begins with a dot
SCHEMA = 1
JOB_ID = re.compile(r"[0-9a-f]{12}")
STATES = ("waiting", "running", "done", "failed", "stopped", "interrupted")
ENDED = ("done", "failed", "stopped", "interrupted")
LOCK_SECONDS = 10.0  # that a change waits for another program's
MAX_FILE_CHARACTERS = 1_000_000
UNREADABLE = (OSError, ValueError)


def new_id() -> str:
    """An id that no other job has."""
    return secrets.token_hex(6)


@dataclass(frozen=True)
class QueuedJob:
    """One job of the queue.

    kind: of kinds.KINDS. settings: {group: {field: value}} of a fine-tune. options: what else its kind needs (compare:
    "question"; export: "to"). after: the job whose run it uses; uses: that run, where it is known from the start.
    group: its sweep or chain; combination: {"train.lr": value} of a sweep. run: what it made, or continues if `resume`;
    of an export that waits, what it made before and replaces.
    result: what is kept of its outcome. error: PlaygroundError.to_dict() of a failed one. stop: "" or what a person
    asked while it ran: "job" (this one alone) or "all". added, began, ended: Unix times, 0 for not yet.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    after: str = ""
    uses: str = ""
    group: str = ""
    combination: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    state: str = "waiting"
    order: float = 0.0
    run: str = ""
    resume: bool = False
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    stop: str = ""
    added: float = 0.0
    began: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class Listing:
    """The queue's jobs in their order, and the names of the files that can't be read."""

    jobs: tuple[QueuedJob, ...]
    damaged: tuple[str, ...]

    def find(self, job_id: str) -> QueuedJob:
        """The job of that id. Raises PlaygroundError if there is none."""
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise problem("error.queue_gone", id=str(job_id)[:40])

    def in_state(self, *states: str) -> list[QueuedJob]:
        """The jobs in one of these states."""
        return [job for job in self.jobs if job.state in states]

    def group(self, group: str) -> list[QueuedJob]:
        """The jobs of a sweep or chain."""
        return [job for job in self.jobs if job.group == group]


def listing(root: Path) -> Listing:
    """The queue under the folder of the runs."""
    jobs, damaged = [], []
    folder = root / FOLDER
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            jobs.append(_read(path))
        except FileNotFoundError:  # removed in this moment
            continue
        except UNREADABLE:
            damaged.append(path.name)
    return Listing(tuple(sorted(jobs, key=lambda job: (job.order, job.id))), tuple(damaged))


def read(root: Path, job_id: str) -> QueuedJob:
    """The job of that id. Raises PlaygroundError if there is none, or its file is damaged."""
    if not JOB_ID.fullmatch(job_id or ""):
        raise problem("error.queue_gone", id=str(job_id)[:40])
    try:
        return _read(_path(root, job_id))
    except UNREADABLE as error:
        raise problem("error.queue_gone", id=job_id) from error


def add(root: Path, jobs: Sequence[QueuedJob]) -> list[QueuedJob]:
    """Append jobs, all or none. Raises OSError where the folder can't be written."""
    with _editing(root):
        last = max((job.order for job in listing(root).jobs), default=0.0)
        added = [replace(job, order=last + number, added=time.time()) for number, job in enumerate(jobs, 1)]
        written: list[QueuedJob] = []
        try:
            for job in added:
                _write(root, job)
                written.append(job)
        except OSError:
            for job in written:
                _path(root, job.id).unlink(missing_ok=True)
            raise
        return added


def change(root: Path, job_id: str, **values: Any) -> QueuedJob:
    """Replace fields of a job. Raises PlaygroundError if it is gone, OSError where it can't be written."""
    with _editing(root):
        changed = replace(read(root, job_id), **values)
        _write(root, changed)
        return changed


def move(root: Path, job_id: str, by: int) -> None:
    """Exchange a waiting job with the waiting one before (by=-1) or after it (by=1); at the end it stays."""
    with _editing(root):
        waiting = listing(root).in_state("waiting")
        place = next((place for place, job in enumerate(waiting) if job.id == job_id), None)
        if place is None:
            raise problem("error.queue_not_waiting", id=str(job_id)[:40])
        if 0 <= place + by < len(waiting):
            one, other = waiting[place], waiting[place + by]
            _write(root, replace(one, order=other.order))
            _write(root, replace(other, order=one.order))


def remove(root: Path, job_id: str) -> None:
    """Take a job that doesn't run off the list, and those that wait for its run, unless it has made one.

    Its run stays. Raises PlaygroundError if it runs or is gone.
    """
    with _editing(root):
        now = listing(root)
        job = now.find(job_id)
        if job.state == "running":
            raise problem("error.queue_running", id=job_id)
        _remove(root, now, job)


def clear(root: Path) -> int:
    """Remove what has ended, and files that can't be read; returns how many. Nothing that waits is touched."""
    with _editing(root):
        now = listing(root)
        needed = {job.after for job in now.in_state("waiting", "running") if job.after}
        ended = [job for job in now.in_state(*ENDED) if job.id not in needed]
        names = [f"{job.id}.json" for job in ended] + list(now.damaged)
        for path in [*(root / FOLDER / name for name in names), *(root / FOLDER).glob(".*.partial")]:
            path.unlink(missing_ok=True)
        return len(names)


def again(root: Path, job_id: str, resume: bool = False) -> QueuedJob:
    """Let an ended job wait again, in its place; `resume`: to continue its run from its checkpoint.

    So do the jobs that have used its run: their answers and files are of what it was. Raises PlaygroundError if it
    hasn't ended.
    """
    with _editing(root):
        job = read(root, job_id)
        if job.state not in ENDED:
            raise problem("error.queue_not_ended", id=job_id)
        for follower in done_with(listing(root), job_id):
            _write(root, _waiting(follower, run=follower.run))
        waiting = _waiting(job, run=job.run if resume else "", resume=resume)
        _write(root, waiting)
        return waiting


def done_with(queue: Listing, job_id: str) -> list[QueuedJob]:
    """The jobs that are done with the run of a job."""
    return [job for job in queue.in_state("done") if job.after == job_id]


def again_if_outdated(root: Path, job_id: str) -> None:
    """Let a job that is done wait again where the one whose run it used has meanwhile been set back to waiting."""
    with _editing(root):
        states = {job.id: job.state for job in listing(root).jobs}
        job = read(root, job_id)
        if job.state == "done" and states.get(job.after) in ("waiting", "running"):
            _write(root, _waiting(job, run=job.run))


def _waiting(job: QueuedJob, **values: Any) -> QueuedJob:
    """A job as it waits, without what came of it."""
    return replace(job, state="waiting", result={}, error={}, stop="", began=0.0, ended=0.0, **values)


def _remove(root: Path, now: Listing, job: QueuedJob) -> None:
    for dependent in now.in_state("waiting"):
        if dependent.after == job.id and job.state in ("done", "stopped") and job.run:
            _write(root, replace(dependent, after="", uses=job.run))
        elif dependent.after == job.id:
            _remove(root, now, dependent)
    _path(root, job.id).unlink(missing_ok=True)


def _path(root: Path, job_id: str) -> Path:
    return root / FOLDER / f"{job_id}.json"


@contextmanager
def _editing(root: Path) -> Iterator[None]:
    """Within it, no other thread or program changes the queue. Raises PlaygroundError if one does all the time."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / FOLDER / "edit.lock", timeout=LOCK_SECONDS):
            yield
    except (Timeout, NotImplementedError) as error:
        raise problem("error.queue_locked", path=str(root / FOLDER)) from error


def _write(root: Path, job: QueuedJob) -> None:
    """Replace a job's file as a whole; what is interrupted leaves the earlier file. Raises OSError."""
    partial = root / FOLDER / f".{job.id}.partial"
    text = json.dumps({"schema": SCHEMA, **asdict(job)}, ensure_ascii=False, indent=1) + "\n"
    try:
        partial.write_bytes(text.encode("utf-8", "replace"))  # a lone surrogate is no reason to lose a job
        os.replace(partial, _path(root, job.id))
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _read(path: Path) -> QueuedJob:
    """The job of a file. Raises ValueError for one that isn't a job of this version, OSError if it can't be read."""
    values = read_small_json(path, MAX_FILE_CHARACTERS)
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise ValueError("not a job of this version")
    types: dict[str, Any] = {"float": (int, float), "str": str, "bool": bool, "dict": dict}
    known = {}
    for one in fields(QueuedJob):
        if one.name in values:
            value, kind = values[one.name], getattr(one.type, "__name__", "")
            if not isinstance(value, types[kind]) or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(one.name)
            known[one.name] = value
    job = QueuedJob(**known)
    if job.id != path.stem or not JOB_ID.fullmatch(job.id) or job.state not in STATES:
        raise ValueError("id or state")
    return job
