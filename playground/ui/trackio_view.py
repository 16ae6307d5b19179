"""The part of the Take home tab that imports a run into Trackio, where that is installed; else how to get it."""

from dataclasses import dataclass

import gradio as gr

from playground import compat_trackio
from playground.share.trackio_import import PROJECT, import_run
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box


@dataclass(frozen=True)
class TrackioView:
    """Its components. start and project: None where Trackio isn't installed."""

    project: gr.Textbox | None
    start: gr.Button | None
    message: gr.HTML


def build(page: Page) -> TrackioView:
    """The components, for a page that only its owner opens: runs are written into the owner's Trackio."""
    if not compat_trackio.is_installed():
        gr.Markdown(page.translate("trackio.install"), elem_classes="quiet")
        return TrackioView(None, None, message_box())
    gr.Markdown(page.translate("trackio.lead"), elem_classes="quiet")
    with gr.Row(elem_classes="actions"):
        project = gr.Textbox(label=page.translate("trackio.project"), value=PROJECT, max_lines=1, scale=2)
        start = gr.Button(page.translate("trackio.start"), variant="primary", scale=1, elem_id="trackio-start")
    return TrackioView(project, start, message_box())


def connect(page: Page, view: TrackioView, run: gr.Dropdown) -> None:
    """Import the chosen run on a click. run: its id."""
    if view.start is None or view.project is None:
        return

    def start(run_id: str | None, project: str) -> Update:
        if not run_id:
            return message(page.translate("card.none"))
        result = import_run(page.root, run_id, project or "")
        key = "trackio.replaced" if result["replaced"] else "trackio.done"
        return message("\n".join([page.translate(key, **result), page.translate("trackio.show", **result)]))

    view.start.click(page.with_error_message(start), [run, view.project], view.message, **QUIET)
    run.change(lambda: message(), None, view.message, **UNQUEUED)
