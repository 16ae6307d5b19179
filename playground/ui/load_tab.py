"""Tab "Load": choose a model and its bit width, and load it."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground import catalog
from playground.catalog.cards import cards
from playground.settings import BIT_WIDTHS, QUANT_TYPES, QUANT_TYPES_8BIT, STREAMED_CHOICES
from playground.ui import card_picture, model_filters, oom_suggestions
from playground.ui.model_filters import ModelFilters
from playground.ui.oom_suggestions import SuggestionBox
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box, wait_until_opened

BITS = (0, *BIT_WIDTHS)  # 0: auto
DTYPES = ("auto", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class LoadTab:
    """The tab's components that listeners use; its other fields are the page's."""

    filters: ModelFilters
    model: gr.Dropdown
    about: gr.Markdown
    terms: gr.Checkbox
    bits: gr.Radio
    quant_type_8bit: gr.Radio
    load: gr.Button
    message: gr.HTML
    suggestions: SuggestionBox
    picture: gr.HTML


def build(page: Page) -> LoadTab:
    """The tab's components."""
    translate, field, labelled = page.translate, page.field, page.choices
    filters = model_filters.build(page)
    model = field(gr.Dropdown, "load", "model", choices=model_filters.choices(page), allow_custom_value=True)
    about = gr.Markdown(model_filters.about(page, model.value), elem_classes="quiet")
    terms = field(gr.Checkbox, "load", "accept_terms", visible=False)
    bits = field(gr.Radio, "load", "bits", choices=labelled("load.bits", BITS))
    kinds = labelled("load.quant_type_8bit", QUANT_TYPES_8BIT)
    kind = field(gr.Radio, "load", "quant_type_8bit", choices=kinds, visible=bits.value == 8)
    with gr.Row(elem_classes="actions"):
        load = gr.Button(translate("load.go"), variant="primary")
    box = message_box()
    suggestions = oom_suggestions.build(page)
    picture = card_picture.build(page)
    sizes = [(translate("load.simulate_gpu_gib.whole"), 0), *((f"{card['gib']} GiB", card["gib"]) for card in cards())]
    with gr.Accordion(translate("load.details"), open=False):
        field(gr.Dropdown, "load", "simulate_gpu_gib", choices=sizes, allow_custom_value=True)
        with gr.Row():
            field(gr.Radio, "load", "quant_type", choices=labelled("load.quant_type", QUANT_TYPES))
            field(gr.Checkbox, "load", "double_quant")
        counts = labelled("load.streamed_layers", STREAMED_CHOICES)
        field(gr.Dropdown, "load", "streamed_layers", choices=counts, allow_custom_value=True)
        with gr.Row():
            field(gr.Radio, "load", "dtype", choices=labelled("load.dtype", DTYPES))
            field(gr.Radio, "load", "device", choices=labelled("load.device", DEVICES))
    return LoadTab(filters, model, about, terms, bits, kind, load, box, suggestions, picture)


def show_at_width(shown_at: int, bits: gr.Radio, choice: gr.Radio) -> None:
    """Show a choice only while the bit width is that one."""
    bits.change(lambda width: gr.update(visible=width == shown_at), bits, choice, **UNQUEUED)


def connect(page: Page, tab: LoadTab, header: gr.Tab, live_view: gr.HTML) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""

    def load(*values: Any) -> Update:
        wait_until_opened(page.engine.load(page.settings(values)))
        return message()

    def describe(model: str) -> tuple:
        has_terms = bool(catalog.models().get(model, {}).get("terms"))
        return model_filters.about(page, model), gr.update(visible=has_terms)

    model_filters.connect(page, tab.filters, tab.model, header)
    tab.model.change(describe, tab.model, [tab.about, tab.terms], **UNQUEUED)
    show_at_width(8, tab.bits, tab.quant_type_8bit)
    tab.load.click(page.with_error_message(load), page.inputs(), tab.message, **QUIET)
    oom_suggestions.connect(page, tab.suggestions, "load", live_view)
    card_picture.connect_form(page, tab.picture, "load", header, live_view)
