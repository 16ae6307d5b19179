"""Tab "Take home": what a fine-tune's run can be turned into, for the run that is chosen here."""

from dataclasses import dataclass

import gradio as gr

from playground import runs
from playground.ui import card_view, export_view, repeat_view
from playground.ui.page import UNQUEUED, Page, Update
from playground.ui.run_names import adapter_name


@dataclass(frozen=True)
class TakeHomeTab:
    """The tab's components. run: the chosen run's id; from the browser, so that `runs.find` must check it."""

    run: gr.Dropdown
    export: export_view.ExportView
    repeat: repeat_view.RepeatView
    card: card_view.CardView


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
    return TakeHomeTab(run, export, files, shown)


def connect(page: Page, tab: TakeHomeTab, header: gr.Tab) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""
    header.select(lambda chosen: _run_update(page, chosen), tab.run, tab.run, **UNQUEUED)
    export_view.connect(page, tab.export, tab.run)
    repeat_view.connect(page, tab.repeat, tab.run)
    card_view.connect(page, tab.card, tab.run)


def _choices(page: Page) -> list[tuple[str, str]]:
    """Every fine-tune that has kept an adapter or a model, newest first."""
    return [(adapter_name(page.lang, run), run.id) for run in runs.history(page.root) if run.has_adapter]


def _run_update(page: Page, chosen: str | None) -> Update:
    """The choices as the tab opens; the chosen run stays while it exists, else the newest is chosen."""
    choices = _choices(page)
    ids = [run_id for _, run_id in choices]
    return gr.update(choices=choices, value=chosen if chosen in ids else next(iter(ids), None))
