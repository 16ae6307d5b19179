"""The engine as one visitor of a shared page sees it: their own jobs, run and model alone, and their place in the line.

It has the engine client's methods, so whatever works with an engine works with this one. Others' jobs keep nobody from
starting one: it waits in the line (engine_line.py).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground.ending import PARENT
from playground.engine.client import END_SECONDS, STOP_SECONDS, Engine
from playground.errors import problem
from playground.job import Job
from playground.ui.engine_line import EngineLine, Place

UNLOAD_SECONDS = 20.0  # that the button waits for its turn


class VisitorEngine(Engine):
    """One visitor's jobs on the engine that all share.

    root: the folder of the visitor's runs. raise_if_over: raises PlaygroundError where they have used up their share;
    raise_if_full: the same of disk space alone, while a job writes.
    """

    def __init__(
        self,
        root: Path,
        line: EngineLine,
        raise_if_over: Callable[[], None] = lambda: None,
        raise_if_full: Callable[[], None] = lambda: None,
    ) -> None:
        self._line, self._raise_if_over, self._raise_if_full = line, raise_if_over, raise_if_full
        self._last_run: str | None = None
        super().__init__(root)

    @property
    def run(self) -> str | None:
        """The visitor's run that is worked on now, or was last."""
        return (self.last.run if self.last else None) or self._last_run

    @run.setter
    def run(self, run_id: str | None) -> None:
        self._last_run = run_id

    @property
    def place(self) -> Place | None:
        """Where the visitor's job stands in the line; None where none waits."""
        job = self.job
        return self._line.place(job) if job else None

    @property
    def state(self) -> str:
        """ "busy" while the visitor's own job waits or runs; others' work doesn't show."""
        if self.job:
            return "busy"
        shared = self._line.engine.state
        return "ready" if shared == "busy" else shared

    @property
    def job(self) -> Job | None:
        last = self.last
        return last if last and not last.ended else None

    def writes_to(self, run_id: str) -> bool:
        """Whether the visitor's job writes to that run, or may be about to."""
        job = self.job
        return job is not None and run_id in (job.run, job.resumes, self.run)

    @property
    def stopping(self) -> bool:
        job = self.job
        return job is not None and job.stopping

    @property
    def loaded(self) -> dict | None:
        """The model in memory if this visitor had it loaded; others' choices are nobody's business."""
        loaded = self._line.engine.loaded
        return loaded if loaded and loaded.get("root") == self.root else None

    @property
    def memory(self) -> dict[str, int] | None:
        return self._line.engine.memory

    @property
    def pid(self) -> int | None:
        return self._line.engine.pid

    @property
    def cuda(self) -> bool | None:
        return self._line.engine.cuda

    def start(self) -> None:
        self._line.engine.start()

    def unload(self) -> bool:
        """Free the visitor's own model, after stopping their job; another's stays, also one that is loaded meanwhile.

        Returns True: the worker stays. Raises PlaygroundError where its turn doesn't come within UNLOAD_SECONDS; it
        keeps its place then.
        """
        job = self.job
        if job:
            self.stop_job(job)
            job.wait(STOP_SECONDS)
        if self.loaded:
            unloading = self._submit(Job("unload"), "unload")
            if not unloading.wait(UNLOAD_SECONDS):
                if place := self._line.place(unloading):
                    raise problem("shared.unload_waits", place=place.number, of=place.of)
                unloading.wait(STOP_SECONDS)  # its turn has come
            if unloading.error:
                raise unloading.error
        return True

    def close(self, cause: str = PARENT, seconds: float = END_SECONDS) -> None:
        """Leave the engine: this visitor's job is stopped. The worker is closed with the program."""
        job = self.job
        if job:
            self.stop_job(job)

    def _stop_if(self, is_meant: Callable[[Job], bool]) -> bool:
        job = self.job
        return job is not None and is_meant(job) and self._line.stop(job)

    def submit(self, job: Job, do: str, root: Path, arguments: dict[str, Any]) -> Job:
        """Put a job into the line. Raises PlaygroundError where the visitor has one there, or is over their share."""
        with self._lock:
            if self.job:
                raise problem("error.busy")
            if do not in ("unload", "chat", "chat_with_adapters"):
                self._raise_if_over()
            before = self.run
            self._line.join(job, do, root, arguments, self._raise_if_full)
            self._last_run, self.last = before, job
            self.last_tune = job if job.do == "tune" else self.last_tune
            return job
