"""The talk's questions asked now, of the newest fine-tune that answers within seconds: one person's, at a time."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from playground import catalog, runs
from playground.engine.client import Engine
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.i18n import translate
from playground.job import was_stopped
from playground.runs import RunSummary
from playground.settings import Generation, Settings
from playground.ui.run_names import adapter_name
from playground.ui.talk_answers import Answered, answers_table
from playground.ui.talk_bars import badge

ANSWER = Generation(max_new_tokens=64)  # greedy, and as long as a recorded one
MOST_PARAMETERS = 10**9  # of a model that isn't in memory: smaller ones are loaded within seconds


class LiveAnswers:
    """The questions that a person asks now or asked last. root, engine: that person's runs and engine."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self._root, self._engine = root, engine
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._answered: list[Answered] = []
        self._error: PlaygroundError | None = None
        self._run: RunSummary | None = None

    @property
    def running(self) -> bool:
        """Whether answers are being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether asking failed."""
        return self._error is not None

    def start(self, questions: Sequence[str], check: Callable[[Settings], None]) -> None:
        """Ask the questions one after another. check: raises PlaygroundError for settings that may not be used.

        Raises PlaygroundError also for nothing to ask, and for a busy engine.
        """
        with self._starting:
            if self.running or self._engine.state == "busy":
                raise problem("error.busy")
            run = next((run for run in runs.history(self._root) if self._is_quick(run)), None)
            if run is None:
                raise problem("error.talk_nothing_tuned", parameters=MOST_PARAMETERS)
            settings = runs.find(self._root, run.id).settings()
            check(settings)
            self._answered, self._error, self._run = [Answered(question) for question in questions], None, run
            self._thread = threading.Thread(target=self._ask, args=(settings, run.id), daemon=True)
            self._thread.start()

    def figure(self, lang: str) -> str:
        """The answers so far, or why there are none; "" before the first start."""
        word = partial(translate, lang)
        if self._error:
            return f"<p>{escape(self._error.text(lang))}</p>"
        if self._run is None:
            return ""
        source = word("talk.answered_now", run=adapter_name(lang, self._run))
        return answers_table(word, self._answered) + badge(source)

    def _is_quick(self, run: RunSummary) -> bool:
        """Whether a fine-tune's model is in memory, or small enough to be soon."""
        loaded = self._engine.loaded
        if not run.has_adapter:
            return False
        if loaded and (loaded["model"], loaded["bits"]) == (run.model, run.bits):
            return True
        known: dict[str, Any] = {**catalog.shapes(), **catalog.models()}.get(run.model, {})
        return 0 < known.get("parameters", 0) <= MOST_PARAMETERS

    def _ask(self, settings: Settings, run_id: str) -> None:
        try:
            for number, one in enumerate(self._answered):
                turn = [{"instruction": one.question, "answer": None}]
                job = self._engine.chat(settings, run_id, {"base": turn, "tuned": turn}, ANSWER)
                for event in job.latest():
                    if event["kind"] == "answer":
                        self._answered[number] = Answered(one.question, event["base"], event["tuned"])
                if job.result.get("stopped"):
                    return
        except Exception as error:
            self._error = None if was_stopped(error) else as_playground_error(error)
