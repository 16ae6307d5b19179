"""The part of the Runs tab that asks chosen runs: one question to the base model and to each run's adapter at once."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import gradio as gr

from playground import catalog, runs
from playground.errors import PlaygroundError, Problem
from playground.runs import RunSummary
from playground.runs.query import setting_text, values_that_differ
from playground.settings import Generation, raise_all
from playground.ui import chat_settings
from playground.ui.comparison import Answer, answer_section
from playground.ui.page import QUIET, UNQUEUED, Page, message, message_box
from playground.ui.run_names import display_name, short_display_name

LEAST, MOST = 2, 4  # runs, as in engine/adapters_chat.py
SHOWN_SETTINGS = 4  # of those that differ, over a run's answer


@dataclass(frozen=True)
class AdaptersChatView:
    """Its components."""

    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    message: gr.HTML
    answers: gr.HTML


@dataclass
class _Asked:
    """A question to chosen runs, and the answers so far: the base's first, then one for each run.

    names: of the runs, each with the settings that tell it from the others.
    """

    question: str
    run_ids: list[str]
    names: list[tuple[str, str]]
    generation: Generation
    answers: list[Answer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    status: str = ""


def build(page: Page) -> AdaptersChatView:
    """The components."""
    word = page.translate
    with gr.Accordion(word("adapters.title"), open=False):
        gr.Markdown(word("adapters.lead", tab=word("tab.chat")), elem_classes="quiet")
        question, ask, stop = _question_line(page)
        box = message_box()
        answers = gr.HTML(elem_id="adapters-answers", apply_default_css=False)
    return AdaptersChatView(question, ask, stop, box, answers)


def _question_line(page: Page) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    word = page.translate
    with gr.Row(elem_classes="compare-line"):
        question = gr.Textbox(
            label=word("adapters.question"),
            placeholder=word("chat.placeholder"),
            elem_id="adapters-question",
            container=False,
            lines=1,
            max_lines=4,
            scale=5,
            min_width=160,
        )
        ask = gr.Button(word("adapters.ask"), variant="primary", scale=0, min_width=130)
        stop = gr.Button(word("adapters.stop"), elem_id="adapters-stop", scale=0, min_width=100)
    return question, ask, stop


def connect(page: Page, view: AdaptersChatView, chosen_runs: Any, generation: Sequence) -> None:
    """Attach the listeners. chosen_runs: what has the ids of the chosen runs; generation: as in chat_settings."""

    def ask(question: str, chosen: Any, *values: Any) -> Iterator[tuple]:
        yield from _ask(page, question, chosen, values)

    inputs, outputs = [view.question, chosen_runs, *generation], [view.answers, view.message]
    for trigger in (view.ask.click, view.question.submit):
        trigger(ask, inputs, outputs, **QUIET)
    view.stop.click(page.stop("chat"), None, None, **UNQUEUED)


def _ids(chosen: Any) -> list[str]:
    return [str(run_id) for run_id in chosen or []]


def _ask(page: Page, question: str, chosen: Any, values: Sequence) -> Iterator[tuple]:
    """Updates of answers and message while a question is answered. Closing the iterator stops the answers."""
    try:
        asked = _parse(page, question, chosen, values)
        job = page.engine.chat_with_adapters(asked.run_ids, asked.question, asked.generation)
    except Exception as error:
        yield gr.skip(), page.error_message(error)
        return
    asked.answers = [Answer() for _ in range(1 + len(asked.run_ids))]
    asked.status = page.translate("chat.working")
    try:
        yield _answers_html(page, asked, busy=True), message()
        for event in job.latest():
            _take_in(page, asked, event)
            yield _answers_html(page, asked, busy=True), gr.skip()
        yield _answers_html(page, asked), gr.skip()
    except Exception as error:
        begun = any(answer.text for answer in asked.answers)
        asked.status = ""
        yield _answers_html(page, asked) if begun else "", page.error_message(_with_names(page, error))
    finally:
        page.engine.stop_job(job)  # where the page was closed, nobody reads the rest


def _parse(page: Page, question: str, chosen: Any, values: Sequence) -> _Asked:
    """The question as it is asked. Raises PlaygroundError with all problems; the engine checks the runs' bases."""
    generation, problems = chat_settings.parse_generation(values)
    question, run_ids = (question or "").strip(), _ids(chosen)
    if not question:
        problems.insert(0, Problem("chat.empty_question"))
    if not LEAST <= len(run_ids) <= MOST:
        problems.insert(0, Problem("adapters.error.count", {"count": len(run_ids), "least": LEAST, "most": MOST}))
    under_way = page.engine.job
    if under_way:
        problems.append(Problem(f"chat.busy_{under_way.do}"))
    raise_all(problems)
    for run_id in run_ids:
        page.run_settings(run_id)
    return _Asked(question, run_ids, _names(page, [runs.summary(page.root, run_id) for run_id in run_ids]), generation)


def _names(page: Page, chosen: Sequence[RunSummary]) -> list[tuple[str, str]]:
    """Each run's name, and the settings in which it differs from the others."""
    differing = list(values_that_differ(chosen).items())[:SHOWN_SETTINGS]
    texts = [[setting_text(name.split(".")[-1], values[n]) for name, values in differing] for n in range(len(chosen))]
    return [(short_display_name(run, page.lang), " · ".join(text)) for run, text in zip(chosen, texts)]


def _with_names(page: Page, error: Exception) -> Exception:
    """The error with runs, settings and models named as the page has them, where the engine has ids and paths."""
    if not isinstance(error, PlaygroundError):
        return error
    return PlaygroundError(
        *(replace(problem, values=_named_values(page, problem.values)) for problem in error.problems)
    )


def _named_values(page: Page, values: dict) -> dict:
    named = dict(values)
    for key in {"run", "other"} & set(values):
        with suppress(PlaygroundError):  # of a run that is gone, its id stays
            named[key] = display_name(runs.summary(page.root, values[key]), page.lang)
    if "field" in values:
        named["field"] = page.translate(values["field"])
    if values.get("field") == "load.model":
        models = {key: catalog.display_name(values[key]) for key in ("value", "given")}
        named |= models if len(set(models.values())) == 2 else {}  # else they differ in their folders
    return named


def _take_in(page: Page, asked: _Asked, event: dict) -> None:
    """Take in an event of the job: new texts, a note on why there is no single batch, how the answers ended."""
    kind = event["kind"]
    if kind == "answer":
        asked.status = ""
        texts = [event["base"], *(event["adapters"].get(run_id, "") for run_id in asked.run_ids)]
        for answer, text in zip(asked.answers, texts):
            answer.text = text
    elif kind == "note" and event["key"].startswith("note.adapters_"):
        asked.notes.append(page.translate(event["key"], **event["values"]))
    elif kind == "progress" and event.get("unit") == "tokens":
        beams = asked.generation.num_beams
        asked.status = page.translate("chat.waiting", beams=beams, tokens=event["done"])
    elif kind == "done" and "sides" in event["result"]:
        sides = event["result"]["sides"]
        ends = [sides["base"], *(sides["adapters"][run_id] for run_id in asked.run_ids)]
        asked.answers = [replace(answer, **end) for answer, end in zip(asked.answers, ends)]
        key = "adapters.measured_together" if event["result"]["together"] else "adapters.measured_apart"
        asked.status = page.translate(key, count=len(ends))


def _answers_html(page: Page, asked: _Asked, busy: bool = False) -> str:
    """The question, the answers side by side, and notes on how they came about."""
    names = [(page.translate("adapters.base"), ""), *asked.names]
    cells = "".join(
        answer_section(page.lang, "tuned" if n else "base", escape(name), answer, detail=escape(detail))
        for n, ((name, detail), answer) in enumerate(zip(names, asked.answers))
    )
    lines = "".join(f'<p class="status">{escape(text)}</p>' for text in [*asked.notes, asked.status] if text)
    return (
        f'<div class="compare-log" role="log" aria-busy="{str(busy).lower()}"><article class="turn">'
        f'<p class="asked">{escape(asked.question)}</p><div class="answers">{cells}</div>{lines}</article></div>'
    )
