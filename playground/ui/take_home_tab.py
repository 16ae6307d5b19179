"""Tab "Take home": what a fine-tune's run can be turned into, for the run that is chosen here."""

from dataclasses import dataclass
from functools import partial

import gradio as gr

from playground import runs
from playground.ui import card_view, export_view, repeat_view, trackio_view
from playground.ui.kept_state import with_kept
from playground.ui.page import UNQUEUED, Page, Update
from playground.ui.run_names import adapter_name

KEPT = "take.run"  # the name under which the browser keeps the choice


@dataclass(frozen=True)
class TakeHomeTab:
    """The tab's components. run: the chosen run's id; from the browser, so that `runs.find` must check it.

    trackio: None on a page that strangers open.
    """

    run: gr.Dropdown
    export: export_view.ExportView
    repeat: repeat_view.RepeatView
    card: card_view.CardView
    trackio: trackio_view.TrackioView | None


def build(page: Page) -> TakeHomeTab:
    """The tab's components."""
    gr.Markdown(page.translate("take.lead"), elem_classes="lead")
    run = gr.Dropdown(
        label=page.translate("take.run"), info=page.translate("take.run.info"), choices=_choices(page), value=None
    )
    export = export_view.build(page)
    with gr.Accordion(page.translate("card.title"), open=False) as card:
        shown = card_view.build(page, card)
    with gr.Accordion(page.translate("repeat.title"), open=False) as repeat:
        files = repeat_view.build(page, repeat)
    trackio = None
    if page.private:
        with gr.Accordion(page.translate("trackio.title"), open=False):
            trackio = trackio_view.build(page)
    return TakeHomeTab(run, export, files, shown, trackio)


def connect(page: Page, tab: TakeHomeTab, header: gr.Tab) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""
    listed = [gr.Textbox(visible=False), tab.run]
    header.select(partial(_run_update, page), listed, tab.run, js=with_kept(KEPT), **UNQUEUED)
    export_view.connect(page, tab.export, tab.run)
    repeat_view.connect(page, tab.repeat, tab.run)
    card_view.connect(page, tab.card, tab.run)
    if tab.trackio:
        trackio_view.connect(page, tab.trackio, tab.run)


def _choices(page: Page) -> list[tuple[str, str]]:
    """Every fine-tune that has kept an adapter or a model, newest first."""
    return [(adapter_name(page.lang, run), run.id) for run in runs.history(page.root) if run.has_adapter]


def _run_update(page: Page, kept: str, chosen: str | None) -> Update:
    """The choices as the tab opens; the chosen run stays while it exists, else the newest is chosen.

    kept: what was chosen on the page before this one, or "".
    """
    choices = _choices(page)
    ids = [run_id for _, run_id in choices]
    return gr.update(choices=choices, value=next((run for run in (chosen, kept, *ids) if run in ids), None))
