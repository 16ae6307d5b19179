"""Tab "Runs": past runs: show, reuse, resume and delete them; predictions compared with measurements."""

from dataclasses import dataclass
from html import escape

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.runs import accuracy
from playground.ui import run_tables
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box, wait_until_opened

CHECKPOINT = "checkpoint.pt"  # as train/checkpoint.py names it, which imports torch


@dataclass(frozen=True)
class RunsTab:
    """The tab's components."""

    table: gr.HTML
    empty: gr.Markdown
    choice: gr.Dropdown
    show: gr.Button
    show_live: gr.Button
    reuse: gr.Button
    resume: gr.Button
    delete: gr.Button
    confirm_delete: gr.Button
    message: gr.HTML
    accuracy: gr.HTML
    record: gr.Accordion
    record_tables: gr.HTML

    @property
    def listing(self) -> list:
        """The components that `listing_updates` updates."""
        return [self.table, self.empty, self.choice, self.resume]


def build(page: Page) -> RunsTab:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("runs.lead"), elem_classes="lead")
    table = gr.HTML()
    empty = gr.Markdown(translate("runs.empty"), elem_classes="quiet")
    choice = gr.Dropdown(label=translate("runs.pick"), info=translate("runs.pick.info"), choices=[], value=None)
    with gr.Row(elem_classes="actions"):
        show = gr.Button(translate("runs.show"), variant="primary")
        show_live = gr.Button(translate("runs.live"))
    with gr.Row(elem_classes="actions"):
        reuse = gr.Button(translate("runs.reuse"))
        resume = gr.Button(translate("runs.resume"), interactive=False)
        delete = gr.Button(translate("runs.delete"))
        confirm_delete = gr.Button(translate("runs.really"), variant="stop", visible=False)
    box = message_box()
    with gr.Accordion(translate("accuracy.title"), open=True):
        accuracy_table = gr.HTML()
    with gr.Accordion(translate("accuracy.record"), open=False) as record:
        record_tables = gr.HTML()
    return RunsTab(
        table=table,
        empty=empty,
        choice=choice,
        show=show,
        show_live=show_live,
        reuse=reuse,
        resume=resume,
        delete=delete,
        confirm_delete=confirm_delete,
        message=box,
        accuracy=accuracy_table,
        record=record,
        record_tables=record_tables,
    )


def connect(page: Page, tab: RunsTab, live_view: gr.HTML) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""

    def reuse(run_id: str) -> list:
        try:
            return [*page.values(runs.find(page.root, run_id).settings()), message()]
        except Exception as error:
            return [*(gr.skip() for _ in page.fields), page.error_message(error)]

    def resume(run_id: str) -> Update:
        wait_until_opened(page.engine.resume(run_id))
        return message()

    def delete(run_id: str) -> Update:
        if page.engine.state == "busy" and page.engine.run == run_id:
            raise problem("error.busy")
        runs.delete(page.root, run_id)
        return message(page.translate("runs.deleted", run=run_id))

    tab.show.click(lambda run_id: gr.update(follow=run_id or ""), tab.choice, live_view, **UNQUEUED)
    for button in (tab.show_live, tab.resume):
        button.click(lambda: gr.update(follow=""), None, live_view, **UNQUEUED)
    tab.resume.click(page.with_error_message(resume), tab.choice, tab.message, **QUIET)
    tab.choice.change(lambda run_id: _resume_update(page, run_id), tab.choice, tab.resume, **UNQUEUED)
    for change in (tab.choice.change, live_view.change):
        change(lambda run_id: _accuracy(page, run_id), tab.choice, tab.accuracy, **UNQUEUED)
    tab.record.expand(lambda: _record(page), None, tab.record_tables, **UNQUEUED)
    tab.reuse.click(reuse, tab.choice, [*page.inputs(), tab.message], **UNQUEUED)
    tab.delete.click(lambda: gr.update(visible=True), None, tab.confirm_delete, **UNQUEUED)
    deleted = tab.confirm_delete.click(page.with_error_message(delete), tab.choice, tab.message, **UNQUEUED)
    deleted.then(
        lambda: (gr.update(visible=False), *listing_updates(page)),
        None,
        [tab.confirm_delete, *tab.listing],
        **UNQUEUED,
    )


def listing_updates(page: Page, chosen: str | None = None) -> tuple:
    """Updates of `RunsTab.listing` with every run, newest first.

    The choice stays on `chosen` if that run still exists, else it becomes the newest.
    """
    history = runs.history(page.root)
    ids = [run.id for run in history]
    choice = chosen if chosen in ids else next(iter(ids), None)
    return (
        gr.update(value=run_tables.history(page.translate, history), visible=bool(history)),
        gr.update(visible=not history),
        gr.update(choices=ids, value=choice),
        _resume_update(page, choice),
    )


def _resume_update(page: Page, run_id: str | None) -> Update:
    """An update of the resume button: enabled if the run left a checkpoint and the engine is free."""
    resumable = runs.RUN_ID.fullmatch(run_id or "") is not None and (page.root / str(run_id) / CHECKPOINT).is_file()
    return gr.update(interactive=resumable and page.engine.state != "busy")


def _accuracy(page: Page, run_id: str | None) -> str:
    """The figures of a run that were both predicted and measured, as HTML."""
    try:
        run = runs.find(page.root, run_id)
        events = list(run.events())
        pairs = accuracy.pairs(run.id, events)
    except PlaygroundError:  # no run is chosen, or it was deleted just now
        pairs = []
    if not pairs:
        return _quiet(page, "accuracy.none")
    device = events[0].get("hardware", {}).get("device")
    lead = _quiet(page, "accuracy.of_cpu" if device == "cpu" else "accuracy.of_cuda")
    return lead + run_tables.accuracy(page.translate, pairs)


def _record(page: Page) -> str:
    """Every prediction that was measured on this machine, and how far off they were, as HTML."""
    pairs = accuracy.all_totals(page.root)
    if not pairs:
        return _quiet(page, "accuracy.empty")
    by_id = {run.id: run for run in runs.history(page.root)}
    scores = run_tables.scores(page.translate, accuracy.scores(pairs))
    return _quiet(page, "accuracy.record.lead") + scores + run_tables.record(page.translate, pairs, by_id)


def _quiet(page: Page, key: str) -> str:
    return f'<p class="quiet">{escape(page.translate(key))}</p>'
