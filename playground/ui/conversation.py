"""A conversation of the Compare tab: its turns before they are answered, and those that the browser kept.

The browser keeps what comparison.kept_text made (assets/compare.js), over a reload and a switch of language; texts of
the program, as the names of adapters, are made anew in the page's language.
"""

import json
from typing import Any

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError
from playground.runs.event_fields import is_usable_number
from playground.ui.comparison import COLUMNS, MEASURED, Answer, Turn, comparison_html
from playground.ui.foreign_adapter import foreign_name, is_foreign
from playground.ui.known_answers import known_answers
from playground.ui.learned_words import learned_units
from playground.ui.page import UNQUEUED, Page
from playground.ui.run_names import adapter_name

MAX_TURNS = 200  # that are taken up
FINISHES = ("end", "limit", "stopped")


def new_turn(page: Page, question: str, adapter: str) -> Turn:
    """A turn without answers. adapter: a run's id, a foreign adapter's name, or "".

    Raises PlaygroundError for a run that isn't there.
    """
    if not adapter:
        return Turn(question, {})
    if is_foreign(adapter):
        return Turn(question, {}, adapter, foreign_name(adapter))
    run = runs.find(page.root, adapter)
    known = known_answers(page.root, run.id, page.private)
    expected = known.reference(question)
    learned = learned_units(expected, question, known.common)
    return Turn(question, {}, run.id, adapter_name(page.lang, runs.summary(page.root, run.id)), expected, learned)


def connect(page: Page, app: gr.Blocks, turns: gr.State, comparison: gr.HTML, drawn_with: list) -> None:
    """Take up what the browser kept as the page opens. drawn_with: adapter, and whether a service is asked."""

    def take_up(text: str) -> tuple:
        if page.story.running:  # the demo draws its own
            return gr.skip(), gr.skip()
        kept = read_conversation(page, text)
        return (kept, comparison_html(page.lang, kept)) if kept else (gr.skip(), gr.skip())

    def redraw(kept: list[Turn], adapter: str | None, service: bool) -> Any:
        shows = kept and not page.story.running
        return comparison_html(page.lang, kept, adapter or "", service) if shows else gr.skip()

    taken_up = app.load(
        take_up, gr.Textbox(visible=False), [turns, comparison], js="() => keptState.conversation()", **UNQUEUED
    )
    # Once more, for the adapter that was chosen meanwhile, and in case an empty one was drawn for it.
    taken_up.then(redraw, [turns, *drawn_with], comparison, **UNQUEUED)


def read_conversation(page: Page, text: str) -> list[Turn]:
    """The turns of comparison.kept_text. What isn't one is left out, since a browser may send anything.

    A turn whose adapter is gone keeps the name that it had; an answer that was being written counts as stopped.
    """
    try:
        values = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    listed = values[-MAX_TURNS:] if isinstance(values, list) else []
    return [turn for value in listed if (turn := _turn(page, value)) is not None]


def _turn(page: Page, value: Any) -> Turn | None:
    if not isinstance(value, dict) or not isinstance(value.get("answers"), dict):
        return None
    question, adapter, name = (value.get(field) for field in ("question", "adapter", "adapter_name"))
    if not (isinstance(question, str) and isinstance(adapter, str) and isinstance(name, str)):
        return None
    read = {column: _answer(value["answers"].get(column)) for column in COLUMNS}
    answers = {column: answer for column, answer in read.items() if answer is not None}
    if not question or not answers:
        return None
    try:
        turn = new_turn(page, question, adapter)
    except PlaygroundError:
        turn = Turn(question, {}, adapter, name)
    turn.answers = answers
    turn.measured = next((key for key in MEASURED if key == value.get("measured")), "")
    return turn


def _answer(value: Any) -> Answer | None:
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return None
    finish = next((name for name in FINISHES if name == value.get("finish")), "stopped")
    tokens, speed = _amount(value.get("tokens")), _amount(value.get("tokens_per_s"))
    return Answer(value["text"], finish, None if tokens is None else int(tokens), speed)


def _amount(value: Any) -> float | None:
    return float(value) if is_usable_number(value) and value >= 0 else None
