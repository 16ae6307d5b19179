"""Under a job that ran out of memory, or wasn't begun because it would: the changes that are predicted to save most, one click each."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr

from playground import runs
from playground.engine.client import Job
from playground.errors import PlaygroundError, Problem
from playground.ui.page import QUIET, Page, message, message_box, wait_until_opened

OFFERED = 3
TOLD = ("error.out_of_memory", "error.too_large")  # it ran out; it was predicted to
# what a change may be of, by job
CHANGED = {
    "load": (("load", "bits"),),
    "tune": (
        ("load", "bits"),
        ("lora", "target_modules"),
        *(
            ("train", name)
            for name in (
                "method",
                "optimizer",
                "gradient_checkpointing",
                "max_tokens_per_micro_batch",
                "max_seq_length",
            )
        ),
    ),
}


def build(page: Page) -> SimpleNamespace:
    """The buttons, hidden until there is something to offer, and what is said about them."""
    told = message_box()
    with gr.Row(elem_classes="actions relief"):
        buttons = [gr.Button(visible=False, size="sm") for _ in range(OFFERED)]
        anyway = gr.Button(page.translate("load.force"), visible=False, size="sm", variant="stop")
    return SimpleNamespace(message=told, buttons=buttons, anyway=anyway)


def connect(page: Page, box: SimpleNamespace, do: str, chart: gr.HTML) -> None:
    """The listeners for jobs of that kind, once all fields of the page are there."""
    fields = [page.fields[key] for key in CHANGED[do]]

    def shown():
        yield from _shown(page, do)

    def anyway(*values):
        chosen = page.settings(values)
        start = page.engine.load if do == "load" else page.engine.tune
        wait_until_opened(start(replace(chosen, load=replace(chosen.load, force=True))))
        return message()

    for place, button in enumerate(box.buttons):
        button.click(lambda place=place: _take(page, do, place), None, [*fields, box.message], **QUIET)
    box.anyway.click(page.telling(anyway), page.inputs(), box.message, **QUIET)
    chart.change(shown, None, [box.message, *box.buttons, box.anyway], **QUIET)


def offers(page: Page, do: str) -> list[dict]:
    """What is offered now, as planning/oom_suggestions.py has it; empty unless the last job was of that kind and memory was too small for it."""
    job = page.engine.last
    full = _full(job, do)
    if full is None or job.run is None:
        return []
    run = runs.find(page.root, job.run)
    events = list(run.events())
    phase = do if full.key == "error.out_of_memory" else "load"
    said = next((e for e in reversed(events) if e["kind"] == "memory_predicted" and e.get("phase") == phase), {})
    rows = {name: said[name] for name in ("lengths", "labelled") if name in said}
    device = events[0].get("hardware", {}).get("device", "cuda")
    return page.planner.ask(
        "suggest_changes",
        settings=run.settings().to_dict(),
        phase=phase,
        capacity=full.values["capacity_bytes"],
        device=device,
        **rows,
    )[:OFFERED]


def _full(job: Job | None, do: str) -> Problem | None:
    """What the last job, of that kind, said of memory that is too small for it; None if it said nothing such."""
    return next((p for p in job.error.problems if p.key in TOLD), None) if job and job.do == do and job.error else None


def change(page: Page, offer: dict) -> str:
    """What an offer changes, in words."""
    return page.translate(f"suggestion.{offer['group']}.{offer['field']}", value=offer["value"])


def _shown(page: Page, do: str) -> Iterator[list]:
    """Updates of the message and the buttons: they're counted only after the failure, so that is said first."""
    hidden = [gr.update(visible=False)] * OFFERED
    full = _full(page.engine.last, do)
    anyway = gr.update(visible=full is not None and full.key == "error.too_large")
    if full:
        yield [message(page.translate("suggestion.counting")), *hidden, anyway]
    try:
        found = offers(page, do)
    except PlaygroundError:  # the failure itself is told already
        found = []
    told = [
        gr.update(
            value=page.translate(
                f"suggestion.offer.{o['verdict']}",
                change=change(page, o),
                need_bytes=o["bytes"],
                saved_bytes=o["saved"],
            ),
            visible=True,
        )
        for o in found
    ]
    yield [message(page.translate("suggestion.lead")) if told else message(), *told, *hidden[len(told) :], anyway]


def _take(page: Page, do: str, place: int) -> list:
    """Write one of them into the form."""
    try:
        offer = offers(page, do)[place]  # remembered by the planner
    except (PlaygroundError, IndexError):  # another job has ended since
        return [*(gr.skip() for _ in CHANGED[do]), gr.skip()]
    values = [offer["value"] if key == (offer["group"], offer["field"]) else gr.skip() for key in CHANGED[do]]
    return [*values, message(page.translate("suggestion.taken", change=change(page, offer)))]
