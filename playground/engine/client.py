"""The engine: the one process that owns the model, seen from the page's process.

It is started in the background, runs one job at a time, and may die of anything (out of memory, a broken GPU context,
a signal) without taking the page along: its death becomes a failure event of the run and a sentence for the person, and
the next job starts a fresh process. Stopping it gives back all memory.
"""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.settings import Generation, Settings

PROJECT = Path(__file__).resolve().parents[2]


class Job:
    """One request under way. Its events can be read by any number of threads, from the first one on."""

    def __init__(self, number: int, do: str):
        self.number, self.do = number, do
        self.run: str | None = None
        self.ended = False
        self.error: PlaygroundError | None = None
        self.result: dict = {}  # what its `done` says
        self._events: list[dict] = []
        self._news = threading.Condition()

    def events(self) -> Iterator[dict]:
        """Every event, waiting for the next until the job has ended. Raises PlaygroundError if it failed."""
        for fresh in self._batches():
            yield from fresh

    def latest(self) -> Iterator[dict]:
        """Like `events`, but of answers that came while nobody looked only the last: each holds the whole text so far."""
        for fresh in self._batches():
            for event, after in zip(fresh, [*fresh[1:], {"kind": ""}]):
                if event["kind"] != "answer" or after["kind"] != "answer":
                    yield event

    def _batches(self) -> Iterator[list[dict]]:
        at = 0
        while not (self.ended and at == len(self._events)):
            with self._news:
                self._news.wait_for(lambda: at < len(self._events) or self.ended)
                fresh, at = self._events[at:], len(self._events)
            yield fresh
        if self.error:
            raise self.error

    def _add(self, event: dict) -> None:
        with self._news:
            if event["kind"] == "opened":
                self.run = event["run"]
            elif event["kind"] == "done":
                self.result = event.get("result", {})
            self._events.append(event)
            self._news.notify_all()

    def _end(self, error: PlaygroundError | None) -> None:
        with self._news:
            self.ended, self.error = True, error
            self._news.notify_all()


class Engine:
    """Starts the worker, hands it jobs, notices its death. Safe to use from several threads."""

    def __init__(self, root: Path):
        self.root = root
        self.run: str | None = None  # the run worked on now, or last
        self.cuda: bool | None = None  # known once the worker is ready
        self._process: subprocess.Popen | None = None
        self._ready = False
        self.last: Job | None = None  # the job under way, or the last one that was
        self._job: Job | None = None
        self._count = 0
        self._stopping = False
        self._lock = threading.RLock()
        self._log: deque[str] = deque(maxlen=40)

    @property
    def state(self) -> str:
        """ "off", "starting", "ready" or "busy"."""
        with self._lock:
            if self._job:
                return "busy"
            if self._process is None or self._process.poll() is not None:
                return "off"
            return "ready" if self._ready else "starting"

    @property
    def job(self) -> Job | None:
        """The job under way, if any."""
        return self._job

    def start(self) -> None:
        """Start the worker unless it lives. Returns at once; the libraries load in the background."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self.root.mkdir(parents=True, exist_ok=True)
            self._ready, self._stopping = False, False
            self._process = subprocess.Popen(
                [sys.executable, "-m", "playground.engine.process", str(self.root.resolve())],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"},
            )
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
            threading.Thread(target=self._keep_log, args=(self._process,), daemon=True).start()

    def load(self, settings: Settings) -> Job:
        """Load a model. Raises PlaygroundError if a job is under way; so do the others."""
        return self._submit("load", settings=settings.to_dict())

    def tune(self, settings: Settings) -> Job:
        """Fine-tune it."""
        return self._submit("tune", settings=settings.to_dict())

    def resume(self, run_id: str) -> Job:
        """Go on with a fine-tune that left a checkpoint, in its own run."""
        return self._submit("tune", run=run_id)

    def chat(self, settings: Settings, adapter: str | None, sides: dict, generation: Generation) -> Job:
        """Answer, base beside tuned. See jobs.Workbench.chat."""
        return self._submit(
            "chat", settings=settings.to_dict(), adapter=adapter, sides=sides, generation=asdict(generation)
        )

    def stop(self) -> None:
        """Ask the job under way to stop; it keeps what it has."""
        with self._lock:
            if self._job:
                self._send({"stop": self._job.number})

    def close(self) -> None:
        """End the worker and with it give back all memory. A job under way ends with that said."""
        with self._lock:
            process, self._stopping = self._process, True
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _submit(self, do: str, **request) -> Job:
        with self._lock:
            if self._job:
                raise problem("error.busy")
            self.start()
            self._count += 1
            self._job = self.last = Job(self._count, do)
            self._send({"id": self._count, "do": do, **request})
            return self._job

    def _send(self, message: dict) -> None:
        try:
            self._process.stdin.write(json.dumps(message, ensure_ascii=False) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass  # it died just now; the reading thread notices and tells

    def _read(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            message = json.loads(line)
            if "ready" in message:
                self._ready, self.cuda = True, message["ready"]["cuda"]
                continue
            job = self._job
            if "event" in message:
                if message["event"]["kind"] == "opened":
                    self.run = message["event"]["run"]
                job._add(message["event"])
            elif message.get("end"):
                with self._lock:
                    self._job = None
                job._end(PlaygroundError.from_dict(message["error"]) if "error" in message else None)
        self._died(process.wait())

    def _died(self, code: int) -> None:
        """The worker is gone. Tell the job that it had, and write it into its run, which nobody else does any more."""
        with self._lock:
            job, self._job = self._job, None
        if job is None:
            return
        error = self._why(code)
        if job.run:
            try:
                run = runs.find(self.root, job.run)
                run.append("phase", name="idle")
                run.append("error", job=job.do, **error.to_dict())
            except (OSError, PlaygroundError):
                pass  # the disk is full or the folder is gone: the page still says it
        job._end(error)

    def _why(self, code: int) -> PlaygroundError:
        if self._stopping:
            return problem("error.engine_closed")
        if code in (-9, 137):  # what the kernel's out-of-memory killer sends
            return problem("error.engine_killed", signal=9)
        if code < 0:
            return problem("error.engine_signal", signal=-code)
        return problem("error.engine_died", code=code, detail=(self._log[-1] if self._log else "–")[:200])

    def _keep_log(self, process: subprocess.Popen) -> None:
        log = self.root / "engine.log"
        try:
            with open(log, "a", encoding="utf-8") as file:
                for line in process.stderr:
                    self._log.append(line.strip())
                    file.write(line)
                    file.flush()
        except OSError:
            for line in process.stderr:  # the pipe must be emptied even where nothing can be written
                self._log.append(line.strip())
