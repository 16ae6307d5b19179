"""Tab "Runs": everything that was done, to be seen, used or deleted again."""

from html import escape
from types import SimpleNamespace

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.runs import accuracy
from playground.ui import tables
from playground.ui.page import QUIET, UNQUEUED, Page, message, message_box, wait_until_opened

CHECKPOINT = "checkpoint.pt"  # as train/checkpoint.py names it, which imports torch


def build(page: Page) -> SimpleNamespace:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("runs.lead"), elem_classes="lead")
    table = gr.HTML()
    empty = gr.Markdown(translate("runs.empty"), elem_classes="quiet")
    pick = gr.Dropdown(label=translate("runs.pick"), info=translate("runs.pick.info"), choices=[], value=None)
    with gr.Row(elem_classes="actions"):
        show = gr.Button(translate("runs.show"), variant="primary")
        live = gr.Button(translate("runs.live"))
    with gr.Row(elem_classes="actions"):
        reuse = gr.Button(translate("runs.reuse"))
        resume = gr.Button(translate("runs.resume"), interactive=False)
        delete = gr.Button(translate("runs.delete"))
        really = gr.Button(translate("runs.really"), variant="stop", visible=False)
    told = message_box()
    with gr.Accordion(translate("accuracy.title"), open=True):
        pairs = gr.HTML()
    with gr.Accordion(translate("accuracy.record"), open=False) as record:
        kept = gr.HTML()
    return SimpleNamespace(
        table=table,
        empty=empty,
        pick=pick,
        show=show,
        live=live,
        reuse=reuse,
        resume=resume,
        delete=delete,
        really=really,
        message=told,
        pairs=pairs,
        record=record,
        kept=kept,
    )


def connect(page: Page, tab: SimpleNamespace, chart: gr.HTML) -> None:
    """The tab's listeners, once all fields of the page are there."""

    def reuse(run_id):
        try:
            chosen = runs.find(page.root, run_id).settings()
            return [*page.values(chosen), message()]
        except Exception as error:
            return [*(gr.skip() for _ in page.fields), page.trouble(error)]

    def resume(run_id):
        wait_until_opened(page.engine.resume(run_id))
        return message()

    def delete(run_id):
        if page.engine.state == "busy" and page.engine.run == run_id:
            raise problem("error.busy")
        runs.delete(page.root, run_id)
        return message(page.translate("runs.deleted", run=run_id))

    tab.show.click(lambda run_id: gr.update(follow=run_id or ""), tab.pick, chart, **UNQUEUED)
    for button in (tab.live, tab.resume):
        button.click(lambda: gr.update(follow=""), None, chart, **UNQUEUED)
    tab.resume.click(page.telling(resume), tab.pick, tab.message, **QUIET)
    tab.pick.change(lambda run_id: _resumable(page, run_id), tab.pick, tab.resume, **UNQUEUED)
    tab.pick.change(lambda run_id: _pairs(page, run_id), tab.pick, tab.pairs, **UNQUEUED)
    chart.change(lambda run_id: _pairs(page, run_id), tab.pick, tab.pairs, **UNQUEUED)
    tab.record.expand(lambda: _record(page), None, tab.kept, **UNQUEUED)
    tab.reuse.click(reuse, tab.pick, [*page.inputs(), tab.message], **UNQUEUED)
    tab.delete.click(lambda: gr.update(visible=True), None, tab.really, **UNQUEUED)
    tab.really.click(page.telling(delete), tab.pick, tab.message, **UNQUEUED).then(
        lambda: (gr.update(visible=False), *listed(page)),
        None,
        [tab.really, tab.table, tab.empty, tab.pick, tab.resume],
        **UNQUEUED,
    )


def listed(page: Page, picked: str | None = None) -> tuple:
    """Updates of the table, the empty state, the choice and what it allows: every run, newest first.

    The choice stays on `picked` where that run is still there, else it becomes the newest.
    """
    found = runs.history(page.root)
    ids = [s.id for s in found]
    now = picked if picked in ids else next(iter(ids), None)
    return (
        gr.update(value=tables.history(page.translate, found), visible=bool(found)),
        gr.update(visible=not found),
        gr.update(choices=ids, value=now),
        _resumable(page, now),
    )


def _resumable(page: Page, run_id: str | None):
    """An update of the button that resumes a run: it can be pressed where the run left a checkpoint and nothing runs."""
    left = bool(runs.RUN_ID.fullmatch(run_id or "")) and (page.root / run_id / CHECKPOINT).is_file()
    return gr.update(interactive=left and page.engine.state != "busy")


def _pairs(page: Page, run_id: str | None) -> str:
    """What was predicted and measured in a run, as HTML."""
    try:
        run = runs.find(page.root, run_id)
        events = list(run.events())
        found = accuracy.pairs(run.id, events)
    except PlaygroundError:  # no run picked, or it was deleted just now
        found = []
    if not found:
        return _quiet(page, "accuracy.none")
    device = events[0].get("hardware", {}).get("device")
    return _quiet(page, "accuracy.of_cpu" if device == "cpu" else "accuracy.of_cuda") + tables.pairs(
        page.translate, found
    )


def _record(page: Page) -> str:
    """Every prediction that could be checked on this machine, as HTML."""
    found = accuracy.record(page.root)
    if not found:
        return _quiet(page, "accuracy.empty")
    by_id = {summary.id: summary for summary in runs.history(page.root)}
    return (
        _quiet(page, "accuracy.record.lead")
        + tables.scores(page.translate, accuracy.scores(found))
        + tables.record(page.translate, found, by_id)
    )


def _quiet(page: Page, key: str) -> str:
    return f'<p class="quiet">{escape(page.translate(key))}</p>'
