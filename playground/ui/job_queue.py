"""Jobs of the engine one after another, for the bit-width lab and the race. They go on when a page is reloaded."""

import threading
from collections.abc import Callable, Mapping

from playground.engine.client import Engine
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.job import Job, was_stopped


class JobQueue:
    """Jobs that run now and wait, or ran last. There is one for all pages, as there is one engine.

    kind: what they are for, "lab" or "race"; "" before the first. about: what `start` was given. errors: why jobs
    failed, by their names.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.kind = ""
        self.about: object = None
        self.errors: dict[str, PlaygroundError] = {}

    @property
    def running(self) -> bool:
        """Whether a job runs or waits."""
        return self._thread is not None and self._thread.is_alive()

    def start(
        self, kind: str, jobs: Mapping[str, Callable[[], Job]], about: object = None, keep_going: bool = False
    ) -> None:
        """Start the jobs, each once the one before has ended; one that is stopped ends the queue.

        jobs: by name. about: kept for whoever shows the results. keep_going: whether one that fails lets the others go
        on. Raises PlaygroundError where the engine is busy.
        """
        with self._starting:
            if self.running or self._engine.state == "busy":
                raise problem("error.busy")
            self.kind, self.about, self.errors = kind, about, {}
            self._thread = threading.Thread(target=self._run, args=(dict(jobs), keep_going), daemon=True)
            self._thread.start()

    def _run(self, jobs: dict[str, Callable[[], Job]], keep_going: bool) -> None:
        for name, start in jobs.items():
            job: Job | None = None
            try:
                job = start()
                for _ in job.events():
                    pass
                if job.result.get("stopped"):
                    return
            except Exception as error:
                if was_stopped(error):
                    return
                self.errors[name] = as_playground_error(error)
                if not keep_going or (job and job.stopping):
                    return
