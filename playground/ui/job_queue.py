"""Jobs of the engine one after another, for the bit-width lab and the race. They go on when a page is reloaded."""

import threading
from collections.abc import Callable, Sequence

from playground.engine.client import Engine
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.job import Job


class JobQueue:
    """Jobs that run now and wait, or ran last. There is one for all pages, as there is one engine.

    kind: what they are for, "lab" or "race"; "" before the first. error: why one failed, which ends the queue.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.kind = ""
        self.error: PlaygroundError | None = None

    @property
    def running(self) -> bool:
        """Whether a job runs or waits."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, kind: str, jobs: Sequence[Callable[[], Job]]) -> None:
        """Start the jobs, each once the one before has ended; one that is stopped ends the queue.

        Raises PlaygroundError where the engine is busy.
        """
        with self._starting:
            if self.running or self._engine.state == "busy":
                raise problem("error.busy")
            self.kind, self.error = kind, None
            self._thread = threading.Thread(target=self._run, args=(list(jobs),), daemon=True)
            self._thread.start()

    def _run(self, jobs: list[Callable[[], Job]]) -> None:
        try:
            for start in jobs:
                job = start()
                for _ in job.events():
                    pass
                if job.result.get("stopped"):
                    return
        except Exception as error:
            self.error = as_playground_error(error)
