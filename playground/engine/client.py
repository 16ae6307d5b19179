"""The engine seen from the page's process: start the worker, send it jobs, follow them, notice its death.

The worker is the one process that owns the model. It runs one job at a time and may die of anything (out of memory, a
broken GPU context, a signal) without taking the page along: its death becomes an error event of the run and a sentence
for the person, and the next job starts a fresh process. Closing the engine frees all memory of the model.
"""

import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.jsonl_process import Connection, Message
from playground.settings import Generation, Settings

COMMAND = (sys.executable, "-m", "playground.engine.process")
KILLED = (-9, 137)  # exit codes after the kernel's out-of-memory killer


class Job:
    """A job under way or ended. Any number of threads can read its events, each from the first one on.

    do: "load", "tune" or "chat". resumes: the id of the run that it continues, if any. run: the id of its run, once
    that is open. result: of its `done` event. error: why it failed, if it did.
    """

    def __init__(self, do: str, resumes: str | None = None):
        self.do = do
        self.resumes = resumes
        self.run: str | None = None
        self.ended = False
        self.error: PlaygroundError | None = None
        self.result: dict = {}
        self._events: list[dict] = []
        self._changed = threading.Condition()

    def events(self) -> Iterator[dict]:
        """Every event, waiting for the next one until the job has ended. Raises PlaygroundError if it failed."""
        for batch in self._batches():
            yield from batch

    def latest(self) -> Iterator[dict]:
        """Like `events`, but without outdated answers: each `answer` event has the whole text so far."""
        for batch in self._batches():
            for event, following in zip(batch, [*batch[1:], {"kind": ""}]):
                if event["kind"] != "answer" or following["kind"] != "answer":
                    yield event

    def _batches(self) -> Iterator[list[dict]]:
        """The events that arrived since the last batch, as soon as there are any."""
        position = 0
        while batch := self._wait_for_events(position):
            position += len(batch)
            yield batch
        if self.error:
            raise self.error

    def _wait_for_events(self, position: int) -> list[dict]:
        """The events from `position` on, as soon as there are any; [] once the job has ended without more."""
        with self._changed:
            self._changed.wait_for(lambda: position < len(self._events) or self.ended)
            return self._events[position:]

    def add(self, event: dict) -> None:
        """Append an event."""
        with self._changed:
            if event["kind"] == "opened":
                self.run = event["run"]
            elif event["kind"] == "done":
                self.result = event.get("result", {})
            self._events.append(event)
            self._changed.notify_all()

    def end(self, error: PlaygroundError | None) -> None:
        """Mark the job as ended, with `error` if it failed."""
        with self._changed:
            self.ended, self.error = True, error
            self._changed.notify_all()


class Engine:
    """The worker process and the job that it runs. Safe to use from several threads.

    root: the folder of the runs. run: the id of the run that is worked on now, or was last. last: the job under way, or
    the last one. command: what starts the worker; `root` is appended.
    """

    def __init__(self, root: Path, command: tuple[str, ...] = COMMAND):
        self.root = root
        self.run: str | None = None
        self.last: Job | None = None
        self._command = command
        self._connection: Connection | None = None
        self._job: Job | None = None
        self._request_id = 0  # of the job under way
        self._lock = threading.RLock()

    @property
    def state(self) -> str:
        """ "off", "starting", "ready" or "busy"."""
        with self._lock:
            if self._job:
                return "busy"
            connection = self._live_connection()
            if connection is None:
                return "off"
            return "starting" if connection.ready is None else "ready"

    @property
    def job(self) -> Job | None:
        """The job under way, if any."""
        return self._job

    def writes_to(self, run_id: str) -> bool:
        """Whether the job under way writes to that run, or may be about to."""
        with self._lock:
            job = self._job
            return job is not None and run_id in (job.run, job.resumes, self.run)

    @property
    def pid(self) -> int | None:
        """Process id of the worker that was started last."""
        return self._connection.pid if self._connection else None

    @property
    def cuda(self) -> bool | None:
        """Whether the worker can use CUDA; None before it is ready."""
        ready = self._connection and self._connection.ready
        return ready["cuda"] if ready else None

    def start(self) -> None:
        """Start the worker unless it is running. Returns at once; the libraries load in the background."""
        with self._lock:
            if self._live_connection() is None:
                self.root.mkdir(parents=True, exist_ok=True)
                self._connection = Connection(
                    (*self._command, str(self.root.resolve())),
                    self.root / "engine.log",
                    {"TOKENIZERS_PARALLELISM": "false"},
                )

    def load(self, settings: Settings) -> Job:
        """Load a model. Raises PlaygroundError if a job is under way; so do the other jobs."""
        return self._submit(Job("load"), "load", settings=settings.to_dict())

    def tune(self, settings: Settings) -> Job:
        """Fine-tune a model."""
        return self._submit(Job("tune"), "tune", settings=settings.to_dict())

    def resume(self, run_id: str) -> Job:
        """Continue a fine-tune from its checkpoint, in its own run."""
        return self._submit(Job("tune", resumes=run_id), "resume", run_id=run_id)

    def chat(self, settings: Settings, adapter: str | None, sides: dict, generation: Generation) -> Job:
        """Answer with the base and the tuned model. Arguments as of Workbench.chat."""
        arguments = {"adapter": adapter, "sides": sides, "generation": asdict(generation)}
        return self._submit(Job("chat"), "chat", settings=settings.to_dict(), **arguments)

    def stop(self) -> None:
        """Ask the job under way to stop; it keeps what it has learned or written so far."""
        with self._lock:
            if self._job and self._connection:
                self._connection.cancel(self._request_id)

    def close(self) -> None:
        """End the worker, which frees all of its memory. A job under way fails with `error.engine_closed`."""
        connection = self._connection
        if connection is not None:
            connection.close()

    def _live_connection(self) -> Connection | None:
        connection = self._connection
        return connection if connection and connection.alive and not connection.closing else None

    def _submit(self, job: Job, do: str, **arguments: Any) -> Job:
        with self._lock:
            if self._job:
                raise problem("error.busy")
            self.start()
            connection = self._connection
            assert connection
            self._job = self.last = job
            self._request_id = connection.send(do, arguments, lambda message: self._receive(job, connection, message))
            return job

    def _receive(self, job: Job, connection: Connection, message: Message) -> None:
        """Take in a message of the worker about this job."""
        if "event" in message:
            if message["event"]["kind"] == "opened":
                self.run = message["event"]["run"]
            job.add(message["event"])
            return
        error = None
        if "error" in message:
            error = PlaygroundError.from_dict(message["error"])
        elif "exit" in message:
            error = _exit_error(connection, message["exit"])
            self._record_in_run(job, error)
        with self._lock:
            if self._job is job:
                self._job = None
        job.end(error)

    def _record_in_run(self, job: Job, error: PlaygroundError) -> None:
        """Write the worker's death into the job's run, which the worker can't do any more."""
        if not job.run:
            return
        try:
            run = runs.find(self.root, job.run)
            run.append("phase", name="idle")
            run.append("error", job=job.do, **error.to_dict())
        except (OSError, PlaygroundError):
            pass  # the disk is full or the folder is gone: the page still shows the error


def _exit_error(connection: Connection, code: int) -> PlaygroundError:
    """Why the worker ended, as far as its exit code says."""
    if connection.closing:
        return problem("error.engine_closed")
    if code in KILLED:
        return problem("error.engine_killed", signal=9)
    if code < 0:
        return problem("error.engine_signal", signal=-code)
    return problem("error.engine_died", code=code, detail=(connection.last_log_line or "–")[:200])
