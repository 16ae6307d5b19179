"""The engine seen from the page's process: start the worker, send it jobs, follow them, notice its death.

The worker is the one process that owns the model. It runs one job at a time and may die of anything (out of memory, a
broken GPU context, a signal) without taking the page along: its death becomes an error event of the run and a sentence
for the person, and the next job starts a fresh process. `unload` frees the model and keeps the worker's imports;
closing the engine frees all of its memory.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from playground import runs
from playground.ending import PARENT
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.job import Job
from playground.jsonl_process import Connection, Message
from playground.settings import Generation, Settings
from playground.worker import Worker

COMMAND = (sys.executable, "-m", "playground.engine.process")
END_SECONDS = 30.0  # that the worker gets to keep what a job has learned; it takes three, and the time of a save
MIN_FREED_SHARE = 0.9  # of a model's bytes that unloading must return; else the worker is replaced
RSS_NOISE = 16 * 2**20  # bytes by which a process's resident memory moves on its own
STOP_SECONDS = 60.0  # that a job gets to keep its results once unloading has stopped it


class Engine:
    """The worker process and the job that it runs. Safe to use from several threads.

    root: the folder of the runs. run: the id of the run that is worked on now, or was last. last: the job under way, or
    the last one; last_tune: the same of fine-tunes. command: what starts the worker; `root` is appended. environment:
    variables of the worker besides those of this process; folder: its working directory, by default this process's.
    """

    def __init__(
        self,
        root: Path,
        command: tuple[str, ...] = COMMAND,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.root = root
        self.run: str | None = None
        self.last: Job | None = None
        self.last_tune: Job | None = None
        self._command, self._environment, self._folder = command, environment or {}, folder
        self._worker: Worker | None = None
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
    def stopping(self) -> bool:
        """Whether the job under way was asked to stop."""
        job = self._job
        return job is not None and job.stopping

    @property
    def loaded(self) -> dict | None:
        """The model in the worker's memory: {"model", "bits", "run": the id of the run that loaded it, "root": its
        folder}, or None.

        None before the first load, while another model is loaded, and once the worker has ended.
        """
        worker = self._live_worker()
        return worker.loaded if worker else None

    @property
    def memory(self) -> dict[str, int] | None:
        """Bytes that the worker takes: "rss" now, and of CUDA as of the end of its last job; None if it's off.

        What a job under way takes is in the `memory` events of its run.
        """
        worker = self._live_worker()
        if worker is None:
            return None
        try:
            return {**(worker.memory or {}), "rss": psutil.Process(worker.connection.pid).memory_info().rss}
        except psutil.Error:  # it has just ended
            return None

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
                self._worker = self._start_worker()

    def _start_worker(self) -> Worker:
        """A new worker, whose libraries load in the background."""
        command = (*self._command, str(self.root.resolve()))
        environment = {"TOKENIZERS_PARALLELISM": "false", **self._environment}
        return Worker(Connection(command, self.root / "engine.log", environment, self._folder))

    def load(self, settings: Settings) -> Job:
        """Load a model. Raises PlaygroundError if a job is under way; so do the other jobs."""
        return self._submit(Job("load"), "load", settings=settings.to_dict())

    def tune(self, settings: Settings, exact: bool = False) -> Job:
        """Fine-tune a model. exact: as of Workbench.tune."""
        return self._submit(Job("tune"), "tune", settings=settings.to_dict(), exact=exact)

    def resume(self, run_id: str) -> Job:
        """Continue a fine-tune from its checkpoint, in its own run."""
        return self._submit(Job("tune", resumes=run_id), "resume", run_id=run_id)

    def chat(self, settings: Settings, adapter: str | None, sides: dict, generation: Generation) -> Job:
        """Answer with the base and the tuned model. Arguments as of Workbench.chat."""
        arguments = {"adapter": adapter, "sides": sides, "generation": asdict(generation)}
        return self._submit(Job("chat"), "chat", settings=settings.to_dict(), **arguments)

    def chat_with_adapters(self, run_ids: list[str], question: str, generation: Generation) -> Job:
        """Answer a question with the base model and with each run's adapter."""
        arguments = {"run_ids": run_ids, "question": question, "generation": asdict(generation)}
        return self._submit(Job("chat"), "chat_with_adapters", **arguments)

    def lab(self, settings: Settings, question: dict[str, Any]) -> Job:
        """Measure a model in one number format after another. question: the fields of a LabQuestion."""
        return self._submit(Job("lab"), "lab", settings=settings.to_dict(), question=question)

    def export(self, order: dict[str, Any], token: str = "") -> Job:
        """Export from a run. order: the fields of an ExportOrder; token: the hub's, which nothing keeps."""
        return self._submit(Job("export"), "export", order=order, token=token)

    def stop(self, do: str | None = None) -> bool:
        """Ask the job under way to stop, if it is of the kind `do` (None: of any); return whether it was asked.

        It keeps what it has so far: a stopped fine-tune's result says "steps" of "total_steps", "adapter" or "model",
        "checkpoint".
        """
        return self._stop_if(lambda job: do in (None, job.do))

    def stop_job(self, job: Job) -> bool:
        """Ask this very job to stop, if it is under way; return whether it was asked."""
        return self._stop_if(lambda under_way: under_way is job)

    def unload(self) -> bool:
        """Free the model, after stopping the job under way, and wait until its memory is returned.

        Returns whether the worker stayed, with its libraries; it is replaced where the job doesn't stop within
        STOP_SECONDS, or less than MIN_FREED_SHARE of the model's bytes came back. Raises PlaygroundError if another job
        was faster.
        """
        with self._lock:
            stopped = self._job
            if self._live_connection() is None:
                return False
            self.stop()
        stays = stopped is None or stopped.wait(STOP_SECONDS)
        if stays:
            job = self._submit(Job("unload"), "unload")
            job.wait()
            stays = not job.error and job.result["freed"] >= MIN_FREED_SHARE * job.result["held"] - RSS_NOISE
        if not stays:
            self.close()
            self.start()
        return stays

    def ask_to_end(self, cause: str) -> None:
        """Ask the worker to end, once it has kept what the job under way has learned. cause: a signal's name."""
        if self._connection is not None:
            self._connection.ask_to_end(cause)

    def kill(self) -> None:
        """End the worker at once, whatever it does."""
        if self._connection is not None:
            self._connection.close(0)

    def close(self, cause: str = PARENT, seconds: float = END_SECONDS) -> None:
        """End the worker, which frees all of its memory; a job under way is stopped and keeps what it has learned.

        cause: what for, a signal's name or PARENT. seconds: after which it is killed.
        """
        connection = self._connection
        if connection is not None:
            connection.close(seconds, cause)

    @property
    def _connection(self) -> Connection | None:
        return self._worker.connection if self._worker else None

    def _live_worker(self) -> Worker | None:
        return self._worker if self._worker and self._worker.lives else None

    def _live_connection(self) -> Connection | None:
        worker = self._live_worker()
        return worker.connection if worker else None

    def _stop_if(self, is_meant: Callable[[Job], bool]) -> bool:
        """Cancel the job under way if it is meant; under the lock, so that it can't be another one by then."""
        with self._lock:
            if not (self._job and self._connection and is_meant(self._job)):
                return False
            self._job.stopping = True
            self._connection.cancel(self._request_id)
            return True

    def submit(self, job: Job, do: str, root: Path, arguments: dict[str, Any]) -> Job:
        """Send a job whose runs lie under `root`, which is another folder than the engine's for a visitor's jobs.

        Raises PlaygroundError if a job is under way.
        """
        elsewhere = {} if root == self.root else {"root": str(root.resolve())}
        with self._lock:
            if self._job:
                raise problem("error.busy")
            self.start()
            worker = self._worker
            assert worker
            job.root = root
            self._job = self.last = job
            self.last_tune = job if job.do == "tune" else self.last_tune
            try:
                self._request_id = worker.connection.send(
                    do, arguments | elsewhere, lambda message: self._receive(job, worker, message)
                )
            except BaseException as error:  # it was not sent, so nothing will ever end it
                self._job = None
                job.end(as_playground_error(error))
                raise
            return job

    def _submit(self, job: Job, do: str, **arguments: Any) -> Job:
        return self.submit(job, do, self.root, arguments)

    def _receive(self, job: Job, worker: Worker, message: Message) -> None:
        """Take in a message of the worker about this job."""
        if "event" in message:
            self._take_in(job, worker, message["event"])
            job.add(message["event"])
            return
        error = None
        if "error" in message:
            error = PlaygroundError.from_dict(message["error"])
        elif "exit" in message:
            error = worker.exit_error(message["exit"])
            if job.run:
                runs.record_death(job.root or self.root, job.run, job.do, error)
        else:
            worker.memory = message["result"]
        with self._lock:
            if self._job is job:
                self._job = None
        job.end(error)

    def _take_in(self, job: Job, worker: Worker, event: dict) -> None:
        """Note what an event changes: the run that is worked on, the model that is loaded."""
        with self._lock:
            if event["kind"] == "opened":
                self.run = event["run"]
            elif event["kind"] == "loaded":
                loaded = {"model": event["model"], "bits": event["bits"], "run": job.run}
                worker.loaded = loaded | {"root": job.root}
            elif event["kind"] == "unloaded":
                worker.loaded = None
