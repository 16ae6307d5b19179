"""The guided demo: load a model, ask it, fine-tune it, ask base and tuned model. It outlives a reload of the page."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any

from playground.engine.client import Engine
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.job import Job, was_stopped
from playground.settings import Settings
from playground.ui.comparison import Turn

STEPS = ("load", "base", "tune", "both")
POLL_SECONDS = 0.3

Ask = Callable[[str], Iterable[Turn]]  # asks the questions with an adapter ("": of the base alone), turn by turn


@dataclass(frozen=True)
class StepState:
    """One step: "waiting", "running", "done", "stopped" or "failed"; the seconds it took, and its job's result."""

    name: str
    state: str = "waiting"
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


class Story:
    """The demo that runs now, or ran last. There is one for all pages, as there is one engine.

    steps: in the order of STEPS; empty before the first start. turns: the questions with their answers, of the step
    that asked last. adapter: the run whose adapter answers, or "". error: why it failed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.steps: tuple[StepState, ...] = ()
        self.turns: list[Turn] = []
        self.adapter = ""
        self.error: PlaygroundError | None = None

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, settings: Settings, ask: Ask) -> None:
        """Start the demo in the background. Raises PlaygroundError where the engine is busy."""
        with self._starting:
            if self.running or self._engine.state == "busy":
                raise problem("error.busy")
            self.steps = tuple(StepState(name) for name in STEPS)
            self.turns, self.adapter, self.error = [], "", None
            context = copy_context()  # `ask` finds the visitor in it who has started the demo
            self._thread = threading.Thread(target=context.run, args=(self._run, settings, ask), daemon=True)
            self._thread.start()

    def changes(self) -> Iterator[tuple[StepState, ...]]:
        """The steps now, and after each change until the demo has ended."""
        shown: tuple[StepState, ...] | None = None
        while self.running:
            if self.steps != shown:
                shown = self.steps
                yield shown
            time.sleep(POLL_SECONDS)
        if self.steps != shown:
            yield self.steps

    def _run(self, settings: Settings, ask: Ask) -> None:
        work: dict[str, Callable[[], dict]] = {
            "load": lambda: _finish(self._engine.load(settings)),
            "base": lambda: self._ask(ask),
            "tune": lambda: self._tune(settings),
            "both": lambda: self._ask(ask),
        }
        for index, name in enumerate(STEPS):
            began = time.monotonic()
            self._set(index, state="running")
            try:
                result = work[name]()
            except Exception as error:
                stopped = was_stopped(error)
                self.error = None if stopped else as_playground_error(error)
                self._set(index, state="stopped" if stopped else "failed", seconds=time.monotonic() - began)
                return
            state = "stopped" if result.get("stopped") else "done"
            self._set(index, state=state, seconds=time.monotonic() - began, result=result)
            if state == "stopped":
                return

    def _tune(self, settings: Settings) -> dict:
        result = _finish(self._engine.tune(settings))
        self.adapter = result["run"]
        return result

    def _ask(self, ask: Ask) -> dict:
        self.turns = []
        for turn in ask(self.adapter):
            self.turns = [*self.turns, turn]  # as a whole: pages read it meanwhile
        return {"stopped": any(turn.stopped for turn in self.turns)}

    def _set(self, index: int, **changes: Any) -> None:
        steps = list(self.steps)
        steps[index] = replace(steps[index], **changes)
        self.steps = tuple(steps)


def _finish(job: Job) -> dict:
    """The result of a job, with its run, once it has ended. Raises PlaygroundError if it failed."""
    for _ in job.events():
        pass
    return {"run": job.run, **job.result}
