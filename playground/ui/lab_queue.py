"""The bit-width lab's jobs, one model after another. They go on when the page is reloaded."""

import threading
from collections.abc import Sequence

from playground.engine.client import Engine
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.lab.question import LabQuestion
from playground.settings import Settings


class LabQueue:
    """Models that the lab measures now, or measured last. There is one for all pages, as there is one engine.

    question: the one under way, or the last one. error: why it failed, if it did.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.question: LabQuestion | None = None
        self.error: PlaygroundError | None = None

    @property
    def running(self) -> bool:
        """Whether models are measured or wait."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, models: Sequence[Settings], question: LabQuestion) -> None:
        """Measure these models in the background. Raises PlaygroundError where the engine is busy."""
        with self._starting:
            if self.running or self._engine.state == "busy":
                raise problem("error.busy")
            self.question, self.error = question, None
            self._thread = threading.Thread(target=self._run, args=(list(models), question), daemon=True)
            self._thread.start()

    def _run(self, models: list[Settings], question: LabQuestion) -> None:
        """Stop on one model ends the others too."""
        try:
            for settings in models:
                job = self._engine.lab(settings, question)
                for _ in job.events():
                    pass
                if job.result.get("stopped"):
                    return
        except Exception as error:
            self.error = as_playground_error(error)
