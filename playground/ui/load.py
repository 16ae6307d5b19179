"""Tab 2: which model, in how many bits."""

from types import SimpleNamespace

import gradio as gr

from playground import catalog
from playground.memory.cards import cards
from playground.ui import relief, shelf
from playground.ui.page import AT_ONCE, QUIET, Page, message, message_box, opened


def build(page: Page) -> SimpleNamespace:
    """The tab's components; its fields are the page's."""
    say = page.say
    gr.Markdown(say("load.lead"), elem_classes="lead")
    filters = shelf.build(page)
    model = page.field(gr.Dropdown, "load", "model", choices=shelf.choices(page), allow_custom_value=True)
    about = gr.Markdown(shelf.about(page, model.value), elem_classes="quiet")
    terms = page.field(gr.Checkbox, "load", "accept_terms", visible=False)
    page.field(gr.Radio, "load", "bits", choices=[("auto", 0), ("32", 32), ("16", 16), ("8", 8), ("4", 4)])
    sizes = [(f"{card['gib']} GiB", card["gib"]) for card in cards()]
    page.field(gr.Dropdown, "load", "card", choices=[(say("load.card.whole"), 0), *sizes], allow_custom_value=True)
    with gr.Accordion(say("load.details"), open=False):
        with gr.Row():
            page.field(gr.Radio, "load", "quant_type", choices=["nf4", "fp4"])
            page.field(gr.Checkbox, "load", "double_quant")
        with gr.Row():
            page.field(gr.Radio, "load", "dtype", choices=["auto", "bfloat16", "float16"])
            page.field(gr.Radio, "load", "device", choices=["auto", "cpu", "cuda"])
    with gr.Row(elem_classes="actions"):
        go = gr.Button(say("load.go"), variant="primary")
        free = gr.Button(say("load.free"))
    return SimpleNamespace(filters=filters, model=model, about=about, terms=terms, go=go, free=free, message=message_box(), relief=relief.build(page))


def connect(page: Page, tab: SimpleNamespace, chart: gr.HTML) -> None:
    """The tab's listeners, once all fields of the page are there."""

    def load(*values):
        opened(page.engine.load(page.settings(values)))
        return message()

    def give_back():
        page.engine.close()
        page.engine.start()
        return message(page.say("load.freed"))

    def describe(name):
        return shelf.about(page, name), gr.update(visible=_has_terms(name))

    shelf.connect(page, tab.filters, tab.model)
    tab.model.change(describe, tab.model, [tab.about, tab.terms], **AT_ONCE)
    tab.go.click(page.telling(load), page.inputs(), tab.message, **QUIET)
    tab.free.click(page.telling(give_back), None, tab.message, **QUIET)
    relief.connect(page, tab.relief, "load", chart)


def _has_terms(name: str) -> bool:
    return bool(catalog.models().get(name, {}).get("terms"))
