"""The talk's questions, answered by the base and the tuned model: recorded earlier, or asked now.

Styles are in assets/talk.css. All text is escaped here.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from playground import catalog, runs
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.runs import RunSummary
from playground.settings import Generation
from playground.ui.page import Page
from playground.ui.run_names import adapter_name
from playground.ui.talk_bars import badge

ANSWER = Generation(max_new_tokens=64)  # greedy, and as long as a recorded one
MOST_PARAMETERS = 10**9  # of a model that isn't in memory: smaller ones are loaded within seconds


@dataclass(frozen=True)
class Answered:
    """A question with both answers, as far as they are written."""

    question: str
    base: str = "…"
    tuned: str = "…"


def recorded_answers(events: Iterable[dict]) -> list[Answered]:
    """Each sample question of a fine-tune with its first answer, before the training, and its last one."""
    texts: dict[str, list[str]] = {}
    for event in events:
        if event["kind"] == "sample":
            text = event["text"] + ("" if event.get("closed", True) else " …")
            texts.setdefault(event["prompt"], []).append(text)
    return [Answered(question, both[0], both[-1]) for question, both in texts.items()]


def recorded_figure(word: Callable, recordings: Sequence[Sequence[dict]]) -> str:
    """The answers of recorded fine-tunes, each with its model, rows, hardware and date."""
    return "".join(_recorded(word, events) for events in recordings if events)


def _recorded(word: Callable, events: Sequence[dict]) -> str:
    first = events[0]
    rows = next((e["values"]["rows"] for e in events if e["kind"] == "note" and e["key"] == "note.data"), 0)
    about = word("talk.answers.how", model=catalog.display_name(first["settings"]["load"]["model"]), rows=rows)
    hardware = first["hardware"]
    source = badge(word("talk.recorded", date=first["recorded"], hardware=f"{hardware['name']}, {hardware['cores']}"))
    return f"{answers_table(word, recorded_answers(events))}<p>{escape(about)}</p>{source}"


def answers_table(word: Callable, answered: Sequence[Answered]) -> str:
    """A line a question, the base model's answer beside the tuned model's."""
    head = "".join(f'<th scope="col">{escape(word(f"talk.answers.{side}"))}</th>' for side in ("base", "tuned"))
    rows = "".join(
        f'<tr><th scope="row">{escape(one.question)}</th><td>{escape(one.base)}</td><td>{escape(one.tuned)}</td></tr>'
        for one in answered
    )
    return f'<table class="answers"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>'


class LiveAnswers:
    """The same questions asked now, with the newest fine-tune of this machine that answers within seconds."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._answered: list[Answered] = []
        self._error: PlaygroundError | None = None
        self._name = ""

    @property
    def running(self) -> bool:
        """Whether answers are being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether asking failed."""
        return self._error is not None

    def start(self, questions: Sequence[str]) -> None:
        """Ask the questions one after another. Raises PlaygroundError: nothing to ask, or a busy engine."""
        with self._starting:
            if self.running or self._page.engine.state == "busy":
                raise problem("error.busy")
            run = next((run for run in runs.history(self._page.root) if self._is_quick(run)), None)
            if run is None:
                raise problem("error.talk_nothing_tuned", parameters=MOST_PARAMETERS)
            settings = runs.find(self._page.root, run.id).settings()
            self._page.raise_if_forbidden(settings)
            self._answered, self._error = [Answered(question) for question in questions], None
            self._name = adapter_name(self._page.lang, run)
            self._thread = threading.Thread(target=self._ask, args=(settings, run.id), daemon=True)
            self._thread.start()

    def figure(self) -> str:
        """The answers so far, or why there are none."""
        word = self._page.translate
        if self._error:
            return f"<p>{escape(self._error.text(self._page.lang))}</p>"
        return answers_table(word, self._answered) + badge(word("talk.answered_now", run=self._name))

    def _is_quick(self, run: RunSummary) -> bool:
        """Whether a fine-tune's model is in memory, or small enough to be soon."""
        loaded = self._page.engine.loaded
        if not run.has_adapter:
            return False
        if loaded and (loaded["model"], loaded["bits"]) == (run.model, run.bits):
            return True
        known: dict[str, Any] = {**catalog.shapes(), **catalog.models()}.get(run.model, {})
        return 0 < known.get("parameters", 0) <= MOST_PARAMETERS

    def _ask(self, settings: Any, run_id: str) -> None:
        try:
            for number, one in enumerate(self._answered):
                turn = [{"instruction": one.question, "answer": None}]
                job = self._page.engine.chat(settings, run_id, {"base": turn, "tuned": turn}, ANSWER)
                for event in job.latest():
                    if event["kind"] == "answer":
                        self._answered[number] = Answered(one.question, event["base"], event["tuned"])
                if job.result.get("stopped"):
                    return
        except Exception as error:
            self._error = as_playground_error(error)
