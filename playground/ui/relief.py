"""Under a job that ran out of memory: the changes that are predicted to save most, one click each."""

from collections.abc import Iterator
from types import SimpleNamespace

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError
from playground.ui.page import QUIET, Page, message, message_box

OFFERED = 3
# what a change may be of, by job
CHANGED = {
    "load": (("load", "bits"),),
    "tune": (("load", "bits"), ("lora", "targets"), *(("train", name) for name in ("method", "optimizer", "checkpointing", "tokens", "length"))),
}  # fmt: skip


def build() -> SimpleNamespace:
    """The buttons, hidden until there is something to offer, and what is said about them."""
    told = message_box()
    with gr.Row(elem_classes="actions relief"):
        buttons = [gr.Button(visible=False, size="sm") for _ in range(OFFERED)]
    return SimpleNamespace(message=told, buttons=buttons)


def connect(page: Page, box: SimpleNamespace, do: str, chart: gr.HTML) -> None:
    """The listeners for jobs of that kind, once all fields of the page are there."""
    fields = [page.fields[key] for key in CHANGED[do]]

    def shown():
        yield from _shown(page, do)

    for place, button in enumerate(box.buttons):
        button.click(lambda place=place: _take(page, do, place), None, [*fields, box.message], **QUIET)
    chart.change(shown, None, [box.message, *box.buttons], **QUIET)


def offers(page: Page, do: str) -> list[dict]:
    """What is offered now, as playground/relief.py has it; empty unless the last job was of that kind and ran out of memory."""
    job = page.engine.last
    full = next((p for p in job.error.problems if p.key == "error.out_of_memory"), None) if job and job.do == do and job.error else None
    if full is None or job.run is None:
        return []
    run = runs.find(page.root, job.run)
    events = list(run.events())
    said = next((e for e in reversed(events) if e["kind"] == "prediction" and e.get("phase") == do), {})
    rows = {name: said[name] for name in ("lengths", "labelled") if name in said}
    device = events[0].get("hardware", {}).get("device", "cuda")
    return page.planner.ask("relief", settings=run.settings(), phase=do, capacity=full.values["capacity_bytes"], device=device, **rows)[:OFFERED]


def change(page: Page, offer: dict) -> str:
    """What an offer changes, in words."""
    return page.say(f"relief.{offer['group']}.{offer['field']}", value=offer["value"])


def _shown(page: Page, do: str) -> Iterator[list]:
    """Updates of the message and the buttons: they're counted only after the failure, so that is said first."""
    hidden = [gr.update(visible=False)] * OFFERED
    job = page.engine.last
    if job and job.do == do and job.error and any(p.key == "error.out_of_memory" for p in job.error.problems):
        yield [message(page.say("relief.counting")), *hidden]
    try:
        found = offers(page, do)
    except PlaygroundError:  # the failure itself is told already
        found = []
    told = [gr.update(value=page.say(f"relief.offer.{o['verdict']}", change=change(page, o), need_bytes=o["bytes"], saved_bytes=o["saved"]), visible=True) for o in found]
    yield [message(page.say("relief.lead")) if told else message(), *told, *hidden[len(told) :]]


def _take(page: Page, do: str, place: int) -> list:
    """Write one of them into the form."""
    try:
        offer = offers(page, do)[place]  # remembered by the planner
    except (PlaygroundError, IndexError):  # another job has ended since
        return [*(gr.skip() for _ in CHANGED[do]), gr.skip()]
    values = [offer["value"] if key == (offer["group"], offer["field"]) else gr.skip() for key in CHANGED[do]]
    return [*values, message(page.say("relief.taken", change=change(page, offer)))]
