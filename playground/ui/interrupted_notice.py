"""The notice that a fine-tune was interrupted, with the button that resumes it."""

from dataclasses import dataclass

import gradio as gr

from playground import runs
from playground.runs import RunSummary
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box, wait_until_opened
from playground.ui.run_names import display_name


@dataclass(frozen=True)
class InterruptedNotice:
    """The notice's components, hidden while there is nothing to resume."""

    text: gr.HTML
    resume: gr.Button
    error: gr.HTML


def build(page: Page) -> InterruptedNotice:
    """The notice's components."""
    resume = page.translate("interrupted.resume")
    text = message_box()
    button = gr.Button(resume, variant="primary", visible=False, elem_classes="resume-interrupted")
    return InterruptedNotice(text, button, message_box())


def connect(page: Page, notice: InterruptedNotice, app: gr.Blocks, live_view: gr.HTML) -> None:
    """Attach the notice's listeners. A page that strangers open has no notice: the run isn't theirs."""
    if not page.private:
        return

    def refresh() -> tuple[Update, Update]:
        run = None if page.engine.state == "busy" else runs.interrupted(page.root)
        return message(_text(page, run) if run else ""), gr.update(visible=run is not None)

    def resume() -> tuple[Update, Update, Update]:
        try:
            if run := runs.interrupted(page.root):
                wait_until_opened(page.engine.resume(run.id))
        except Exception as error:
            return gr.skip(), gr.skip(), page.error_message(error)
        return message(), gr.update(visible=False), message()

    for event in (app.load, live_view.change):  # the live view changes at every start and end of a job
        event(refresh, None, [notice.text, notice.resume], **UNQUEUED)
    notice.resume.click(lambda: gr.update(follow=""), None, live_view, **UNQUEUED)
    notice.resume.click(resume, None, [notice.text, notice.resume, notice.error], **QUIET)


def _text(page: Page, run: RunSummary) -> str:
    """What was interrupted, and how far it was."""
    name = display_name(run, page.lang)
    events = runs.find(page.root, run.id).events(at_a_glance=True)
    step: dict = next((event for event in reversed(list(events)) if event["kind"] == "step"), {})
    if not run.has_checkpoint or not {"step", "steps"} <= step.keys():
        return page.translate("interrupted.offer_start", name=name)
    return page.translate("interrupted.offer", name=name, step=step["step"], steps=step["steps"])
