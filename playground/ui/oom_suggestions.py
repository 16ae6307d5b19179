"""Suggestions under a job that ran out of memory, or that was refused because it would: one click applies a change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError, Problem
from playground.job import Job
from playground.ui.page import QUIET, FieldName, Page, Update, message, message_box, wait_until_opened

MAX_SUGGESTIONS = 3
RAN_OUT, REFUSED = "error.out_of_memory", "error.too_large"  # it ran out; it was predicted to, and was not loaded
TRAIN_FIELDS = (
    "method",
    "optimizer",
    "offload_optimizer",
    "gradient_checkpointing",
    "max_tokens_per_micro_batch",
    "max_seq_length",
)
# The fields that a suggestion may change, by job.
FIELDS: dict[str, tuple[FieldName, ...]] = {
    "load": (("load", "bits"), ("load", "streamed_layers")),
    "tune": (
        ("load", "bits"),
        ("load", "streamed_layers"),
        ("lora", "target_modules"),
        *(("train", name) for name in TRAIN_FIELDS),
    ),
}


@dataclass(frozen=True)
class SuggestionBox:
    """A message, a button for each suggestion, and one that loads the model regardless."""

    message: gr.HTML
    buttons: list[gr.Button]
    force: gr.Button


def build(page: Page) -> SuggestionBox:
    """The box's components, hidden until there is a suggestion."""
    box = message_box()
    with gr.Row(elem_classes="actions suggestions"):
        buttons = [gr.Button(visible=False, size="sm") for _ in range(MAX_SUGGESTIONS)]
        force = gr.Button(page.translate("load.force"), visible=False, size="sm", variant="stop")
    return SuggestionBox(box, buttons, force)


def connect(page: Page, box: SuggestionBox, do: str, live_view: gr.HTML) -> None:
    """Attach the listeners for jobs of kind `do` ("load" or "tune"), once all fields of the page exist."""
    fields = [page.fields[name] for name in FIELDS[do]]

    def update() -> Iterator[list]:
        yield from _updates(page, do)

    def force(*values: Any) -> Update:
        settings = page.settings(values)
        start = page.engine.load if do == "load" else page.engine.tune
        wait_until_opened(start(replace(settings, load=replace(settings.load, force=True))))
        return message()

    for index, button in enumerate(box.buttons):
        button.click(lambda index=index: _apply(page, do, index), None, [*fields, box.message], **QUIET)
    box.force.click(page.with_error_message(force), page.inputs(), box.message, **QUIET)
    live_view.change(update, None, [box.message, *box.buttons, box.force], **QUIET)


def suggestions(page: Page, do: str) -> list[dict]:
    """The current suggestions, as planning/oom_suggestions.py returns them.

    Empty unless the last job was of kind `do` and memory was too small for it.
    """
    job = page.engine.last
    problem = _memory_problem(job, do)
    if job is None or job.run is None or problem is None:
        return []
    run = runs.find(page.root, job.run)
    events = list(run.events())
    phase = do if problem.key == RAN_OUT else "load"
    predictions = (e for e in reversed(events) if e["kind"] == "memory_predicted" and e.get("phase") == phase)
    prediction: dict = next(predictions, {})
    rows = {name: prediction[name] for name in ("lengths", "labelled") if name in prediction}
    return page.planner.ask(
        "suggest_changes",
        settings=page.run_settings(run.id).to_dict(),
        phase=phase,
        capacity=problem.values["capacity_bytes"],
        device=events[0].get("hardware", {}).get("device", "cuda"),
        job=do,
        **rows,
    )[:MAX_SUGGESTIONS]


def describe(page: Page, suggestion: dict) -> str:
    """The change that a suggestion makes, in words."""
    key = f"suggestion.{suggestion['group']}.{suggestion['field']}"
    return page.translate(key, value=suggestion["value"])


def _memory_problem(job: Job | None, do: str) -> Problem | None:
    """The problem of too little memory that the last job ended with, if it was of kind `do`; else None."""
    if job is None or job.do != do or job.error is None:
        return None
    return next((problem for problem in job.error.problems if problem.key in (RAN_OUT, REFUSED)), None)


def _updates(page: Page, do: str) -> Iterator[list]:
    """Updates of the box's components: first that suggestions are being computed, which takes a while, then they."""
    hidden = [gr.update(visible=False)] * MAX_SUGGESTIONS
    problem = _memory_problem(page.engine.last, do)
    force = gr.update(visible=problem is not None and problem.key == REFUSED and page.limits is None)
    if problem:
        yield [message(page.translate("suggestion.counting")), *hidden, force]
    try:
        current = suggestions(page, do)
    except PlaygroundError:  # the page shows the failure itself already
        current = []
    buttons = [gr.update(value=_label(page, suggestion), visible=True) for suggestion in current]
    lead = message(page.translate("suggestion.lead")) if buttons else message()
    yield [lead, *buttons, *hidden[len(buttons) :], force]


def _label(page: Page, suggestion: dict) -> str:
    return page.translate(
        f"suggestion.offer.{suggestion['verdict']}",
        change=describe(page, suggestion),
        need_bytes=suggestion["bytes"],
        saved_bytes=suggestion["saved"],
    )


def _apply(page: Page, do: str, index: int) -> list:
    """Updates that write a suggestion into the form; none if another job has ended since."""
    try:
        suggestion = suggestions(page, do)[index]  # the planner remembers its answer
    except (PlaygroundError, IndexError):
        return [*(gr.skip() for _ in FIELDS[do]), gr.skip()]
    changed = (suggestion["group"], suggestion["field"])
    values = [suggestion["value"] if name == changed else gr.skip() for name in FIELDS[do]]
    return [*values, message(page.translate("suggestion.taken", change=describe(page, suggestion)))]
