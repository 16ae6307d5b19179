"""Tab 2: which model, in how many bits."""

from types import SimpleNamespace

import gradio as gr

from playground import catalog
from playground.catalog.cards import cards
from playground.ui import model_filters, oom_suggestions
from playground.ui.page import QUIET, UNQUEUED, Page, message, message_box, wait_until_opened


def build(page: Page) -> SimpleNamespace:
    """The tab's components; its fields are the page's."""
    translate = page.translate
    gr.Markdown(translate("load.lead"), elem_classes="lead")
    filters = model_filters.build(page)
    model = page.field(gr.Dropdown, "load", "model", choices=model_filters.choices(page), allow_custom_value=True)
    about = gr.Markdown(model_filters.about(page, model.value), elem_classes="quiet")
    terms = page.field(gr.Checkbox, "load", "accept_terms", visible=False)
    page.field(gr.Radio, "load", "bits", choices=[("auto", 0), ("32", 32), ("16", 16), ("8", 8), ("4", 4)])
    sizes = [(f"{card['gib']} GiB", card["gib"]) for card in cards()]
    page.field(
        gr.Dropdown,
        "load",
        "simulate_gpu_gib",
        choices=[(translate("load.simulate_gpu_gib.whole"), 0), *sizes],
        allow_custom_value=True,
    )
    with gr.Accordion(translate("load.details"), open=False):
        with gr.Row():
            page.field(gr.Radio, "load", "quant_type", choices=["nf4", "fp4"])
            page.field(gr.Checkbox, "load", "double_quant")
        with gr.Row():
            page.field(gr.Radio, "load", "dtype", choices=["auto", "bfloat16", "float16"])
            page.field(gr.Radio, "load", "device", choices=["auto", "cpu", "cuda"])
    with gr.Row(elem_classes="actions"):
        go = gr.Button(translate("load.go"), variant="primary")
        free = gr.Button(translate("load.free"))
    return SimpleNamespace(
        filters=filters,
        model=model,
        about=about,
        terms=terms,
        go=go,
        free=free,
        message=message_box(),
        relief=oom_suggestions.build(page),
    )


def connect(page: Page, tab: SimpleNamespace, chart: gr.HTML) -> None:
    """The tab's listeners, once all fields of the page are there."""

    def load(*values):
        wait_until_opened(page.engine.load(page.settings(values)))
        return message()

    def give_back():
        page.engine.close()
        page.engine.start()
        return message(page.translate("load.freed"))

    def describe(name):
        return model_filters.about(page, name), gr.update(visible=_has_terms(name))

    model_filters.connect(page, tab.filters, tab.model)
    tab.model.change(describe, tab.model, [tab.about, tab.terms], **UNQUEUED)
    tab.go.click(page.telling(load), page.inputs(), tab.message, **QUIET)
    tab.free.click(page.telling(give_back), None, tab.message, **QUIET)
    oom_suggestions.connect(page, tab.relief, "load", chart)


def _has_terms(name: str) -> bool:
    return bool(catalog.models().get(name, {}).get("terms"))
