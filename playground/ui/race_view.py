"""The bit-width race on the Bit widths tab: the form's fine-tune with several kinds of weights, in one table."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from types import MappingProxyType
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError, problem
from playground.i18n import format_bytes
from playground.planning.client import this_machine
from playground.runs.race import TYPED, Lane, lanes, of_kind, widest_first, without_kind
from playground.settings import Settings
from playground.ui.page import QUIET, Page, Update, message, message_box
from playground.ui.race_figure import race_figure

POLL_SECONDS = 1.0
HEAD = ("bits", "memory", "step", "loss", "recall", "answer")
FIRST_CHOSEN = ("32", "16", "8-int8", "4-nf4")


@dataclass(frozen=True)
class RaceView:
    """Its components."""

    widths: gr.CheckboxGroup
    start: gr.Button
    message: gr.HTML
    table: gr.HTML


def build(page: Page) -> RaceView:
    """The components."""
    word = page.translate
    kinds = [(kind.replace("-", " "), kind) for kind in TYPED]
    gr.Markdown(word("race.lead"), elem_classes="lead")
    with gr.Row(elem_classes="actions"):
        widths = gr.CheckboxGroup(kinds, value=list(FIRST_CHOSEN), label=word("race.widths"), scale=3)
        start = gr.Button(word("race.go"), variant="primary", elem_id="race-start", scale=1)
    return RaceView(widths, start, message_box(), gr.HTML(elem_classes="counted"))


def connect(page: Page, view: RaceView, header: gr.Tab, live_view: gr.HTML) -> None:
    """Attach the listeners, once all fields of the page exist."""
    outputs, inputs = [view.message, view.start, view.table], [view.widths, *page.inputs()]

    def start(kinds: list, *values: Any) -> Iterator[list]:
        try:
            if not kinds:
                raise problem("error.race_no_width")
            settings = page.settings(values)
            jobs = {
                kind: partial(page.engine.tune, of_kind(settings, kind), exact=True) for kind in widest_first(kinds)
            }
            page.queue.start("race", jobs, about=without_kind(settings), keep_going=True)
        except PlaygroundError as error:
            yield [page.error_message(error), gr.skip(), gr.skip()]
            return
        yield from follow(kinds, *values)

    def follow(kinds: list, *values: Any) -> Iterator[list]:
        """Update the table once a second until the race has ended."""
        while page.queue.running and page.queue.kind == "race":
            yield [message(), gr.update(interactive=False), draw(kinds, values)]
            time.sleep(POLL_SECONDS)
        yield [message(), gr.update(interactive=not page.queue.running), draw(kinds, values)]

    def draw(kinds: list, values: Sequence) -> Update:
        try:
            settings = page.settings(values)
        except PlaygroundError:
            return gr.skip()
        found = lanes(page.root, settings, widest_first(kinds), this_machine()["name"])
        now = page.engine.run if page.engine.state == "busy" else None
        shown = {kind: replace(lane, state="running") if lane.run == now else lane for kind, lane in found.items()}
        return race_table(page, shown, failures(page, settings, kinds))

    view.start.click(start, inputs, outputs, **QUIET)
    header.select(follow, inputs, outputs, **QUIET)
    live_view.change(lambda kinds, *values: draw(kinds, values), inputs, view.table, **QUIET)


def failures(page: Page, settings: Settings, kinds: Sequence[str]) -> dict[str, str]:
    """Why kinds of the last race with these settings failed, in a sentence each."""
    if page.queue.kind != "race" or page.queue.about != without_kind(settings):
        return {}
    return {kind: error.text(page.lang) for kind, error in page.queue.errors.items() if kind in kinds}


def race_table(page: Page, found: Mapping[str, Lane], failed: Mapping[str, str] = MappingProxyType({})) -> str:
    """A line a kind: memory predicted beside measured, seconds a step, loss, facts, and the last sample answer.

    found: lanes by kind; failed: why kinds failed, or couldn't be run on this machine.
    """
    if not found and not failed:
        return f'<p class="quiet">{escape(page.translate("race.none"))}</p>'
    listed = list(found.values())
    sizes = [size for lane in listed for size in (lane.predicted, lane.measured) if size]
    head = "".join(f'<th scope=col class="{name}">{escape(page.translate(f"race.head.{name}"))}</th>' for name in HEAD)
    rows = "".join(
        _row(page, found[kind], max(sizes, default=1), failed.get(kind, ""))
        if kind in found
        else _failed_row(kind, failed[kind])
        for kind in widest_first([*found, *failed])
    )
    prompt = next((lane.prompt for lane in listed if lane.prompt), "")
    about = f'<p class="small">{escape(page.translate("race.prompt", prompt=prompt))}</p>' if prompt else ""
    figure = race_figure(page.translate, listed)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="plan wide race">{table}{about}{figure}</div>'


def _failed_row(kind: str, sentence: str) -> str:
    """A kind that has no run: why."""
    bits, _, type = kind.partition("-")
    small = f"<small>{escape(type)}</small>" if type else ""
    return (
        f'<tr><th scope=row>{bits}{small}</th><td class="answer" colspan={len(HEAD) - 1}>{escape(sentence)}</td></tr>'
    )


def _row(page: Page, lane: Lane, largest: int, failure: str) -> str:
    """The row of a lane. failure: why the kind's last run failed, or ""."""
    bars = "".join(
        f'<span class="{look}"><i style="width:{60 * size / largest:.1f}%"></i>'
        f" {format_bytes(size)} {escape(page.translate(f'race.{look}'))}</span>"
        for look, size in (("predicted", lane.predicted), ("measured", lane.measured))
        if size
    )
    step = "–" if lane.seconds_per_step is None else f"{lane.seconds_per_step:.2f} s"
    speed = (
        ""
        if lane.tokens_per_s is None
        else f"<small>{escape(page.translate('race.speed', speed=lane.tokens_per_s))}</small>"
    )
    loss = "–" if lane.loss is None else f"{lane.loss[0]:.3f} → {lane.loss[1]:.3f}"
    recall = "–" if lane.recall is None else f"{lane.recall[0]:.0%} → {lane.recall[1]:.0%}"
    state = "" if lane.state == "done" else f"<small>{escape(page.translate(f'state.{lane.state}'))}</small>"
    cells = f'<td class="memory">{bars}</td><td>{step}{speed}</td><td>{loss}</td><td>{recall}</td>'
    kind = f"<small>{escape(lane.type)}</small>" if lane.type else ""
    last = escape(failure or lane.answers[1])
    return f'<tr><th scope=row>{lane.bits}{kind}{state}</th>{cells}<td class="answer">{last}</td></tr>'
