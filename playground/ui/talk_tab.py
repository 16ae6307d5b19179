"""Tab "Talk": the program's story as full-screen steps, turned by arrow keys or a presenter's remote.

All steps are in the page from the start, so that nothing is awaited on a stage. The script (assets/talk.js) shows one
at a time and keeps which one over a switch of language. A slider's figure is computed anew by `redraw`, and so is that
of a model which has no stored one, as its step is shown. Answers are asked for by `answer`. Anyone who can open the
page can call both, so they validate their argument.
"""

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from playground import ASSETS
from playground.errors import PlaygroundError
from playground.talk.steps import Step
from playground.ui.page import Page
from playground.ui.talk_figures import LIVE, questions, redrawn, slider, step_figure
from playground.ui.talk_models import is_asked


def build(page: Page, steps: Sequence[Step]) -> None:
    """The tab's one component."""
    word = page.translate
    drawn = "".join(_step(page, step, number, len(steps)) for number, step in enumerate(steps, 1))
    buttons = "".join(
        f'<button type="button" class="{name}">{escape(word(f"talk.{name}"))}</button>'
        for name in ("back", "next", "full")
    )

    def redraw(request: Any) -> str:
        """The figure of step number "step" (from 0) for the slider's "value", or without one where it waits for that.

        "" for anything else.
        """
        step, value = (request.get("step"), request.get("value")) if isinstance(request, dict) else (None, None)
        if type(step) is not int or not 0 <= step < len(steps):
            return ""
        if value is None and is_asked(steps[step]) and steps[step].kind not in LIVE:
            return step_figure(steps[step], page.lang, page.planner.ask, page.root)
        if type(value) is not int or steps[step].kind not in LIVE:
            return ""
        return redrawn(steps[step], page.lang, value, page.planner.ask)

    def answer(request: Any) -> dict[str, Any]:
        """Ask the questions of step number "step" if "start"; its figure so far, and whether more will come."""
        number = request.get("step") if isinstance(request, dict) else None
        if type(number) is not int or not 0 <= number < len(steps) or steps[number].kind != "prompts":
            return {"html": "", "running": False}
        recorded, live = step_figure(steps[number], page.lang), page.talk
        try:
            if request.get("start") is True:
                live.start(questions(steps[number], page.lang), partial(page.raise_if_forbidden, of_run=True))
        except PlaygroundError as error:
            return {"html": f"<p>{escape(error.text(page.lang))}</p>{recorded}", "running": False}
        running = live.running
        return {"html": live.figure(page.lang) + (recorded if live.failed else ""), "running": running}

    keys = f"<small>{escape(word('talk.keys'))}</small>"
    gr.HTML(
        f'<div class="talk" tabindex="0"><div class="steps">{drawn}</div>'
        f'<nav>{buttons}<span class="place" aria-live="polite"></span>{keys}</nav></div>',
        js_on_load=(ASSETS / "talk.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        server_functions=[redraw, answer],
    )


def _step(page: Page, step: Step, number: int, count: int) -> str:
    """One step, hidden until its turn."""
    word, lang = page.translate, page.lang
    text = step.text.get(lang, "")
    lead = f'<p class="text">{escape(text)}</p>' if text else ""
    figure = f'<div class="figure"{" data-waits" if is_asked(step) else ""}>{step_figure(step, lang)}</div>'
    tab = escape(word(f"tab.{step.tab}")) if step.tab else ""
    go = (
        f'<button type="button" class="go" data-tab="{tab}">{escape(word("talk.open", tab=tab))}</button>'
        if tab
        else ""
    )
    lost = f'<p class="lost" role="status" hidden>{escape(word("talk.lost"))}</p>'
    ask = f'<button type="button" class="ask">{escape(word("talk.ask"))}</button>' if step.kind == "prompts" else ""
    return (
        f'<section class="step of-{step.kind}" aria-label="{number} / {count}" hidden>'
        f"<h2>{escape(step.title[lang])}</h2>{lead}{slider(step, lang)}"
        f'{figure}{lost}<div class="buttons">{ask}{go}</div></section>'
    )
