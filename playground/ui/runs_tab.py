"""Tab "Runs": past runs: show, name, reuse, resume, delete and restore them; predictions compared with measurements.

The marked run is the one that the live view shows; it changes when a person picks another, never by a refresh. Each
button of a row carries its run's id, so that nothing is done to a run but by its own row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.runs import accuracy
from playground.ui import adapters_chat_view, recordings_view, run_tables, runs_overlay, snapshot_view
from playground.ui.live_view import shown_run
from playground.ui.page import EACH_CLICK, QUIET, UNQUEUED, Page, Update, message, message_box, wait_until_opened
from playground.ui.run_names import display_name
from playground.ui.runs_table import runs_table, table_value


@dataclass(frozen=True)
class RunsTab:
    """The tab's components."""

    table: gr.HTML
    message: gr.HTML
    overlay: runs_overlay.OverlayView
    adapters_chat: adapters_chat_view.AdaptersChatView
    recordings: recordings_view.RecordingsView
    snapshots: snapshot_view.RunSnapshots
    run_accuracy: gr.Accordion
    accuracy: gr.HTML
    record: gr.Accordion
    record_tables: gr.HTML


def build(page: Page) -> RunsTab:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("runs.lead"), elem_classes="lead")
    table = runs_table(page)
    box = message_box()
    overlay = runs_overlay.build(page)
    adapters_chat = adapters_chat_view.build(page)
    recordings = recordings_view.build(page)
    snapshots = snapshot_view.build_for_run(page)
    with gr.Accordion(translate("accuracy.title"), open=False) as run_accuracy:
        accuracy_table = gr.HTML()
    with gr.Accordion(translate("accuracy.record"), open=False) as record:
        record_tables = gr.HTML(elem_classes="scrolled")
    return RunsTab(
        table,
        box,
        overlay,
        adapters_chat,
        recordings,
        snapshots,
        run_accuracy,
        accuracy_table,
        record,
        record_tables,
    )


def connect(page: Page, tab: RunsTab, live_view: gr.HTML) -> list[Callable]:
    """Attach the tab's listeners, once all fields of the page exist.

    Returns what adds a listener that is called after a run was deleted or restored.
    """
    table = tab.table

    def show(event: gr.EventData) -> Update:
        return gr.update(follow=_run_id(event))

    def reuse(event: gr.EventData) -> list:
        try:
            settings = page.run_settings(_run_id(event))
            return [*page.values(settings), message(page.translate("runs.reused", run=_name(page, _run_id(event))))]
        except Exception as error:
            return [*(gr.skip() for _ in page.fields), page.error_message(error)]

    def resume(event: gr.EventData) -> Update:
        try:
            page.raise_if_forbidden(page.run_settings(_run_id(event)), of_run=True)
            wait_until_opened(page.engine.resume(_run_id(event)))
            return message()
        except Exception as error:
            return page.error_message(error)

    def label(event: gr.EventData, shown: str | None) -> tuple:
        try:
            runs.write_label(page.root, _run_id(event), _text(event, "name"), _text(event, "note"))
        except Exception as error:
            return table_update(page, shown), page.error_message(error)
        return table_update(page, shown), message()

    table.show_run(show, None, live_view, **EACH_CLICK)
    table.label_run(label, live_view, [table, tab.message], **EACH_CLICK)
    for event in (table.show_live, table.resume_run):
        event(lambda: gr.update(follow=""), None, live_view, **UNQUEUED)
    table.resume_run(resume, None, tab.message, **QUIET)
    table.use_settings(reuse, None, [*page.inputs(), tab.message], **EACH_CLICK)
    live_view.change(lambda value: table_update(page, value), live_view, table, **UNQUEUED)
    for event in (live_view.change, tab.run_accuracy.expand):  # what comes while it unfolds may be lost
        event(lambda value: _accuracy(page, shown_run(value)), live_view, tab.accuracy, **UNQUEUED)
    runs_overlay.connect(page, tab.overlay, table, live_view)
    recordings_view.connect(page, tab.recordings, live_view)
    snapshot_view.connect_run(page, tab.snapshots, live_view)
    tab.record.expand(lambda: _record(page), None, tab.record_tables, **UNQUEUED)
    return _connect_trash(page, tab, live_view)


def _connect_trash(page: Page, tab: RunsTab, live_view: gr.HTML) -> list[Callable]:
    """Attach what deletes and restores runs; returns what `connect` returns."""
    table, outputs = tab.table, [tab.table, live_view, tab.message]

    def delete(event: gr.EventData, shown: str | None) -> tuple:
        run_id = _run_id(event)
        try:
            if page.engine.writes_to(run_id):
                raise problem("error.run_in_use")
            runs.delete(page.root, run_id)
        except Exception as error:
            return table_update(page, shown), gr.skip(), page.error_message(error)
        return table_update(page, shown), gr.update(follow="") if run_id == shown_run(shown) else gr.skip(), message()

    def restore(event: gr.EventData, shown: str | None) -> tuple:
        try:
            runs.restore(page.root, _run_id(event))
        except Exception as error:
            return table_update(page, shown), gr.skip(), page.error_message(error)
        return table_update(page, shown), gr.skip(), message()

    deleted = table.delete_run(delete, live_view, outputs, **EACH_CLICK)
    restored = table.restore_run(restore, live_view, outputs, **EACH_CLICK)
    emptied = table.empty_trash(lambda: runs.empty_trash(page.root), None, None, **UNQUEUED)
    emptied.then(lambda value: table_update(page, value), live_view, table, **UNQUEUED)
    return [deleted.then, restored.then]


def table_update(page: Page, live_view: str | None) -> Update:
    """The table's value with every run. live_view: the live view's value, which tells what run is shown.

    The value itself, not a gr.update: with one, Gradio (6.31) replaces a gr.HTML's properties by none.
    """
    return table_value(page, shown_run(live_view))


def _run_id(event: gr.EventData) -> str:
    """The run that a row's button sent; from the browser, so that it can be anything: `runs.find` checks it."""
    return str(getattr(event, "run", ""))


def _text(event: gr.EventData, name: str) -> str:
    """A text that a row's form sent; from the browser."""
    return str(getattr(event, name, ""))


def _name(page: Page, run_id: str) -> str:
    """The readable name of a run; its id if it is gone."""
    try:
        return display_name(runs.summary(page.root, run_id), page.lang)
    except PlaygroundError:
        return run_id


def _accuracy(page: Page, run_id: str) -> str:
    """The figures of a run that were both predicted and measured, as HTML."""
    try:
        run = runs.find(page.root, run_id)
        events = list(run.events())
        pairs = accuracy.pairs(run.id, events)
    except PlaygroundError:  # none is shown, or it was deleted just now
        return _quiet(page.translate("accuracy.none"))
    name = _quiet(page.translate("accuracy.run", name=_name(page, run.id), run=run.id))
    if not pairs:
        return name + _quiet(page.translate("accuracy.none"))
    device = events[0].get("hardware", {}).get("device")
    lead = _quiet(page.translate("accuracy.of_cpu" if device == "cpu" else "accuracy.of_cuda"))
    return name + lead + run_tables.accuracy(page.translate, pairs)


def _record(page: Page) -> str:
    """Every prediction that was measured on this machine, and how far off they were, as HTML."""
    pairs = accuracy.all_totals(page.root)
    if not pairs:
        return _quiet(page.translate("accuracy.empty"))
    names = {run.id: display_name(run, page.lang) for run in runs.history(page.root)}
    scores = run_tables.scores(page.translate, accuracy.scores(pairs))
    lead = _quiet(page.translate("accuracy.record.lead"))
    return lead + scores + run_tables.record(page.translate, pairs, names)


def _quiet(text: str) -> str:
    return f'<p class="quiet">{escape(text)}</p>'
