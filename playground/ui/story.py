"""The guided demo: load a model, ask it, fine-tune it, ask base and tuned model. It outlives a reload of the page."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from playground.engine.client import Engine, Job
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.settings import Generation, Settings

STEPS = ("load", "base", "tune", "both")
POLL_SECONDS = 0.3


@dataclass(frozen=True)
class StepState:
    """One step: "waiting", "running", "done", "stopped" or "failed"; the seconds it took, and its job's result."""

    name: str
    state: str = "waiting"
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


class Story:
    """The demo that runs now, or ran last. There is one for all pages, as there is one engine.

    steps: in the order of STEPS; empty before the first start. answers: by side, a list of (question, answer).
    settings: of the demo. adapter: the run whose adapter the tuned side used. error: why it failed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.steps: tuple[StepState, ...] = ()
        self.answers: dict[str, list[tuple[str, str]]] = {}
        self.settings = Settings()
        self.adapter: str | None = None
        self.error: PlaygroundError | None = None

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, settings: Settings, questions: Sequence[str]) -> None:
        """Start the demo in the background. Raises PlaygroundError where the engine is busy."""
        with self._starting:
            if self.running or self._engine.state == "busy":
                raise problem("error.busy")
            self.steps = tuple(StepState(name) for name in STEPS)
            self.answers, self.settings, self.adapter, self.error = {}, settings, None, None
            self._thread = threading.Thread(target=self._run, args=(tuple(questions),), daemon=True)
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

    def _run(self, questions: Sequence[str]) -> None:
        work = {
            "load": lambda: self._wait(self._engine.load(self.settings)),
            "base": lambda: self._ask(questions, ("base",)),
            "tune": self._tune,
            "both": lambda: self._ask(questions, ("base", "tuned")),
        }
        for index, name in enumerate(STEPS):
            began = time.monotonic()
            self._set(index, state="running")
            try:
                result = work[name]()
            except Exception as error:
                self.error = as_playground_error(error)
                self._set(index, state="failed", seconds=time.monotonic() - began)
                return
            state = "stopped" if result.get("stopped") else "done"
            self._set(index, state=state, seconds=time.monotonic() - began, result=result)
            if state == "stopped":
                return

    def _tune(self) -> dict:
        result = self._wait(self._engine.tune(self.settings))
        self.adapter = result["run"]
        return result

    def _ask(self, questions: Sequence[str], sides: tuple[str, ...]) -> dict:
        """Answer every question anew on these sides. Returns the last chat's result."""
        result: dict[str, Any] = {}
        self.answers = {}
        for question in questions:
            turns = {side: [{"instruction": question, "answer": None}] for side in sides}
            job = self._engine.chat(self.settings, self.adapter, turns, Generation())
            texts = dict.fromkeys(sides, "")
            for event in job.latest():
                if event["kind"] == "answer":
                    texts |= {side: event.get(side, "") for side in sides}
            result = job.result
            answered = {side: [*self.answers.get(side, ()), (question, texts[side])] for side in sides}
            self.answers = answered  # as a whole: pages read it meanwhile
            if result.get("stopped"):
                break
        return result

    def _wait(self, job: Job) -> dict:
        for _ in job.events():
            pass
        return {"run": job.run, **job.result}

    def _set(self, index: int, **changes: Any) -> None:
        steps = list(self.steps)
        steps[index] = replace(steps[index], **changes)
        self.steps = tuple(steps)
