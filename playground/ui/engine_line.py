"""The line before the engine on a page that strangers open: one job a visitor, in the order in which they came.

So nobody waits for two jobs of the same visitor, however many that one has queued. A job ends after the limit of
seconds; the model is unloaded once nobody has used it for a while.
"""

import contextvars
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground import runs
from playground.engine.client import STOP_SECONDS, Engine
from playground.errors import PlaygroundError, Problem, as_playground_error, problem
from playground.job import LEFT_LINE, Job
from playground.settings.limits import Limits

TYPICAL_SECONDS = {"chat": 20.0, "load": 30.0, "tune": 240.0, "lab": 240.0, "export": 120.0, "unload": 2.0}
DISK_SECONDS = 1.0  # between two looks at what a job has written
DISK_SHARE = 0.05  # of the time may be spent on looking
REMEMBERED = 9  # durations of each kind of job, whose median is expected


@dataclass(frozen=True)
class Place:
    """A place in the line: 1 is next; `of` wait in all; `seconds` until its turn, as far as earlier jobs tell."""

    number: int
    of: int
    seconds: float


@dataclass(frozen=True)
class _Waiting:
    job: Job
    do: str
    root: Path
    arguments: dict[str, Any]
    raise_if_full: Callable[[], None]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)  # of the visitor's request
    joined: float = field(default_factory=time.monotonic)


class EngineLine:
    """Gives the engine one job after another. One for each program; safe to use from several threads."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits
        self._waiting: list[_Waiting] = []
        self._running: _Waiting | None = None
        self._began = self._rested = time.monotonic()
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def join(
        self,
        job: Job,
        do: str,
        root: Path,
        arguments: dict[str, Any],
        raise_if_full: Callable[[], None] = lambda: None,
    ) -> None:
        """Put a job at the end. Raises PlaygroundError where too many wait already.

        raise_if_full: raises PlaygroundError once the job has written more than its visitor may have; it is stopped.
        """
        with self._changed:
            if len(self._waiting) >= self.limits.waiting:
                raise problem("shared.line_full", count=len(self._waiting))
            job.root = root
            self._waiting.append(_Waiting(job, do, root, arguments, raise_if_full))
            self._changed.notify_all()

    def stop(self, job: Job) -> bool:
        """Take a job out of the line, or ask it to stop if it runs; returns whether it was there."""
        with self._changed:
            for entry in self._waiting:
                if entry.job is job:
                    self._waiting.remove(entry)
                    job.stopping = True
                    job.end(problem(LEFT_LINE))
                    return True
            job.stopping = True  # also where the engine is about to get it
        return self.engine.stop_job(job)

    def place(self, job: Job) -> Place | None:
        """Where a job stands; None for one that runs or has ended."""
        with self._changed:
            number = next((index for index, entry in enumerate(self._waiting) if entry.job is job), None)
            if number is None:
                return None
            seconds = sum(self._expected(entry.job.do) for entry in self._waiting[:number])
            if self._running:
                seconds += max(1.0, self._expected(self._running.job.do) - (time.monotonic() - self._began))
            return Place(number + 1, len(self._waiting), seconds)

    def _expected(self, do: str) -> float:
        known = self._seconds[do]
        return min(self.limits.seconds, statistics.median(known) if known else TYPICAL_SECONDS.get(do, 60.0))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting), timeout=min(30, self.limits.idle))
                entry = self._waiting.pop(0) if self._waiting else None
                self._running, self._began = entry, time.monotonic()
            if entry is None:
                self._unload_if_idle()
                continue
            try:
                self._run(entry)
            except Exception as error:  # whatever it is, the next one has its turn
                if not entry.job.ended:
                    entry.job.end(as_playground_error(error))
            with self._changed:
                self._running, self._rested = None, time.monotonic()
                self._seconds[entry.job.do].append(self._rested - self._began)

    def _run(self, entry: _Waiting) -> None:
        """Run a job to its end, or stop it at a limit of time or disk space; else the engine's process is ended.

        Of several visitors' models, one is in memory: where it is another's by now, there is nothing left to unload.
        """
        if entry.do == "unload" and (self.engine.loaded or {}).get("root") != entry.root:
            entry.job.end(None)
            return
        entry.context.run(self.engine.submit, entry.job, entry.do, entry.root, entry.arguments)
        if entry.job.stopping:
            self.engine.stop_job(entry.job)
        notes = self._watch(entry)
        if not notes:
            return
        self.engine.stop_job(entry.job)
        if not entry.job.wait(STOP_SECONDS):
            self.engine.close()
            entry.job.wait(STOP_SECONDS)
        with suppress(PlaygroundError, OSError):
            run = runs.find(entry.root, entry.job.run)
            for note in notes:
                run.append("note", key=note.key, values=note.values)

    def _watch(self, entry: _Waiting) -> list[Problem]:
        """Wait for a job's end; what to note in its run where it came to a limit instead."""
        ends, pause = time.monotonic() + self.limits.seconds, DISK_SECONDS
        while not entry.job.wait(max(0.0, min(pause, ends - time.monotonic()))):
            began = time.monotonic()
            if began >= ends:
                return [Problem("note.time_limit", {"seconds": self.limits.seconds})]
            try:
                entry.raise_if_full()
            except PlaygroundError as error:
                return [Problem("note.disk_limit", {}), *error.problems]
            except OSError:  # a folder that went meanwhile; the next look sees the rest
                pass
            pause = max(DISK_SECONDS, (time.monotonic() - began) / DISK_SHARE)
        return []

    def _unload_if_idle(self) -> None:
        if self.engine.loaded and time.monotonic() - self._rested >= self.limits.idle:
            with suppress(PlaygroundError):
                self.engine.unload()
