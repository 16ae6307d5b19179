"""Tab "Load": choose a model and its bit width, load it, release its memory."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground import catalog
from playground.catalog.cards import cards
from playground.settings import BIT_WIDTHS
from playground.ui import model_filters, oom_suggestions
from playground.ui.model_filters import ModelFilters
from playground.ui.oom_suggestions import SuggestionBox
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box, wait_until_opened

BITS = [("auto", 0), *((str(bits), bits) for bits in BIT_WIDTHS)]


@dataclass(frozen=True)
class LoadTab:
    """The tab's components that listeners use; its other fields are the page's."""

    filters: ModelFilters
    model: gr.Dropdown
    about: gr.Markdown
    terms: gr.Checkbox
    load: gr.Button
    release: gr.Button
    message: gr.HTML
    suggestions: SuggestionBox


def build(page: Page) -> LoadTab:
    """The tab's components."""
    translate, field = page.translate, page.field
    gr.Markdown(translate("load.lead"), elem_classes="lead")
    filters = model_filters.build(page)
    model = field(gr.Dropdown, "load", "model", choices=model_filters.choices(page), allow_custom_value=True)
    about = gr.Markdown(model_filters.about(page, model.value), elem_classes="quiet")
    terms = field(gr.Checkbox, "load", "accept_terms", visible=False)
    field(gr.Radio, "load", "bits", choices=BITS)
    sizes = [(translate("load.simulate_gpu_gib.whole"), 0), *((f"{card['gib']} GiB", card["gib"]) for card in cards())]
    field(gr.Dropdown, "load", "simulate_gpu_gib", choices=sizes, allow_custom_value=True)
    with gr.Accordion(translate("load.details"), open=False):
        with gr.Row():
            field(gr.Radio, "load", "quant_type", choices=["nf4", "fp4"])
            field(gr.Checkbox, "load", "double_quant")
        with gr.Row():
            field(gr.Radio, "load", "dtype", choices=["auto", "bfloat16", "float16"])
            field(gr.Radio, "load", "device", choices=["auto", "cpu", "cuda"])
    with gr.Row(elem_classes="actions"):
        load = gr.Button(translate("load.go"), variant="primary")
        release = gr.Button(translate("load.release"))
    box = message_box()
    return LoadTab(filters, model, about, terms, load, release, box, oom_suggestions.build(page))


def connect(page: Page, tab: LoadTab, live_view: gr.HTML) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""

    def load(*values: Any) -> Update:
        wait_until_opened(page.engine.load(page.settings(values)))
        return message()

    def release() -> Update:
        page.engine.unload()
        return message(page.translate("load.released"))

    def describe(model: str) -> tuple:
        has_terms = bool(catalog.models().get(model, {}).get("terms"))
        return model_filters.about(page, model), gr.update(visible=has_terms)

    model_filters.connect(page, tab.filters, tab.model)
    tab.model.change(describe, tab.model, [tab.about, tab.terms], **UNQUEUED)
    tab.load.click(page.with_error_message(load), page.inputs(), tab.message, **QUIET)
    tab.release.click(page.with_error_message(release), None, tab.message, **QUIET)
    oom_suggestions.connect(page, tab.suggestions, "load", live_view)
