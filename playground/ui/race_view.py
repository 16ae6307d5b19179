"""The bit-width race on the Bit widths tab: the form's fine-tune at several widths, in one table and one picture."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from playground.errors import PlaygroundError, problem
from playground.i18n import format_bytes
from playground.planning.client import this_machine
from playground.runs.race import Lane, lanes
from playground.settings import BIT_WIDTHS, Settings
from playground.ui.page import QUIET, Page, Update, message, message_box
from playground.ui.race_figure import race_figure

POLL_SECONDS = 1.0
HEAD = ("bits", "memory", "step", "loss", "recall", "answer")


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
    gr.Markdown(word("race.lead"), elem_classes="lead")
    with gr.Row(elem_classes="actions"):
        widths = gr.CheckboxGroup(list(BIT_WIDTHS), value=list(BIT_WIDTHS), label=word("race.widths"), scale=3)
        start = gr.Button(word("race.go"), variant="primary", elem_id="race-start", scale=1)
    return RaceView(widths, start, message_box(), gr.HTML(elem_classes="counted"))


def connect(page: Page, view: RaceView, header: gr.Tab, live_view: gr.HTML) -> None:
    """Attach the listeners, once all fields of the page exist."""
    outputs, inputs = [view.message, view.start, view.table], [view.widths, *page.inputs()]

    def start(widths: list, *values: Any) -> Iterator[list]:
        try:
            if not widths:
                raise problem("error.race_no_width")
            settings = page.settings(values)
            jobs = [partial(page.engine.tune, at_width(settings, bits)) for bits in widest_first(widths)]
            page.queue.start("race", jobs)
        except PlaygroundError as error:
            yield [page.error_message(error), gr.skip(), gr.skip()]
            return
        yield from follow(widths, *values)

    def follow(widths: list, *values: Any) -> Iterator[list]:
        """Update the table once a second until the race has ended."""
        while page.queue.running and page.queue.kind == "race":
            yield [message(), gr.update(interactive=False), draw(widths, values)]
            time.sleep(POLL_SECONDS)
        error = page.queue.error if page.queue.kind == "race" else None
        shown = page.error_message(error) if error else message()
        yield [shown, gr.update(interactive=not page.queue.running), draw(widths, values)]

    def draw(widths: list, values: Sequence) -> Update:
        try:
            settings = page.settings(values)
        except PlaygroundError:
            return gr.skip()
        found = lanes(page.root, settings, widest_first(widths), this_machine()["name"])
        now = page.engine.run if page.engine.state == "busy" else None
        return race_table(
            page,
            settings,
            [replace(lane, state="running") if lane.run == now else lane for lane in found.values()],
        )

    view.start.click(start, inputs, outputs, **QUIET)
    header.select(follow, inputs, outputs, **QUIET)
    live_view.change(lambda widths, *values: draw(widths, values), inputs, view.table, **QUIET)


def at_width(settings: Settings, bits: int) -> Settings:
    """The same fine-tune with the frozen weights at another width."""
    return replace(settings, load=replace(settings.load, bits=bits))


def widest_first(widths: Sequence) -> list[int]:
    """The chosen widths in the order in which they are run and shown."""
    return [bits for bits in sorted(BIT_WIDTHS, reverse=True) if bits in widths]


def race_table(page: Page, settings: Settings, found: Sequence[Lane]) -> str:
    """A line a width: memory predicted beside measured, seconds a step, loss, facts, and the last sample answer."""
    if not found:
        return f'<p class="quiet">{escape(page.translate("race.none"))}</p>'
    sizes = [size for lane in found for size in (lane.predicted, lane.measured) if size]
    head = "".join(f'<th scope=col class="{name}">{escape(page.translate(f"race.head.{name}"))}</th>' for name in HEAD)
    rows = "".join(_row(page, lane, max(sizes, default=1)) for lane in found)
    prompt = next((lane.prompt for lane in found if lane.prompt), "")
    about = f'<p class="small">{escape(page.translate("race.prompt", prompt=prompt))}</p>' if prompt else ""
    figure = race_figure(page.translate, found)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="plan wide race">{table}{about}{figure}</div>'


def _row(page: Page, lane: Lane, largest: int) -> str:
    bars = "".join(
        f'<span class="{look}"><i style="width:{60 * size / largest:.1f}%"></i>'
        f" {format_bytes(size)} {escape(page.translate(f'race.{look}'))}</span>"
        for look, size in (("predicted", lane.predicted), ("measured", lane.measured))
        if size
    )
    step = "–" if lane.seconds_per_step is None else f"{lane.seconds_per_step:.2f} s"
    speed = "" if lane.tokens_per_s is None else f"<small>{lane.tokens_per_s:,.0f} tokens/s</small>"
    loss = "–" if lane.loss is None else f"{lane.loss[0]:.3f} → {lane.loss[1]:.3f}"
    recall = "–" if lane.recall is None else f"{lane.recall[0]:.0%} → {lane.recall[1]:.0%}"
    state = "" if lane.state == "done" else f"<small>{escape(page.translate(f'state.{lane.state}'))}</small>"
    cells = f'<td class="memory">{bars}</td><td>{step}{speed}</td><td>{loss}</td><td>{recall}</td>'
    kind = "<small>fp8</small>" if lane.is_float8 else ""
    return (
        f'<tr><th scope=row>{lane.bits}{kind}{state}</th>{cells}<td class="answer">{escape(lane.answers[1])}</td></tr>'
    )
