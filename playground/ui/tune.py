"""Tab 4: how to teach it."""

from types import SimpleNamespace

import gradio as gr

from playground.settings import CHECKPOINTING, COMPILE, METHODS, OPTIMIZERS, SAMPLE_EVERY
from playground.ui import relief
from playground.ui.page import AT_ONCE, QUIET, Page, message, message_box, opened


def build(page: Page) -> SimpleNamespace:
    """The tab's components; its fields are the page's."""
    say, field = page.say, page.field
    gr.Markdown(say("tune.lead"), elem_classes="lead")
    with gr.Row():
        field(gr.Number, "lora", "r", precision=0)
        field(gr.Number, "train", "epochs")
        field(gr.Number, "train", "lr")
    with gr.Accordion(say("tune.lora"), open=False):
        with gr.Row():
            field(gr.Number, "lora", "alpha")
            field(gr.Number, "lora", "dropout")
            field(gr.Dropdown, "lora", "targets", choices=["attention", "all-linear"], allow_custom_value=True)
            field(gr.Number, "lora", "layers", precision=0)
        with gr.Row():
            field(gr.Checkbox, "lora", "rslora")
            field(gr.Checkbox, "lora", "dora")
            field(gr.Number, "lora", "lr_ratio")
    with gr.Accordion(say("tune.train"), open=False):
        with gr.Row():
            field(gr.Radio, "train", "method", choices=METHODS)
            field(gr.Dropdown, "train", "optimizer", choices=OPTIMIZERS)
        with gr.Row():
            field(gr.Number, "train", "batch", precision=0)
            field(gr.Number, "train", "length", precision=0)
        with gr.Row():
            field(gr.Number, "train", "steps", precision=0)
            field(gr.Dropdown, "train", "schedule", choices=["linear", "cosine", "constant"])
            field(gr.Number, "train", "warmup")
        with gr.Row():
            field(gr.Number, "train", "save_every", precision=0)
            field(gr.Number, "train", "seed", precision=0)
        with gr.Row():
            field(gr.Number, "train", "measured", precision=0)
            field(gr.Dropdown, "train", "sample_every", choices=SAMPLE_EVERY, allow_custom_value=True)
    with gr.Accordion(say("tune.memory"), open=False):
        field(gr.Dropdown, "train", "checkpointing", choices=CHECKPOINTING, allow_custom_value=True)
        with gr.Row():
            field(gr.Number, "train", "tokens", precision=0)
            field(gr.Number, "train", "micro_batch", precision=0)
            field(gr.Dropdown, "train", "compile", choices=COMPILE)
    with gr.Row(elem_classes="actions"):
        go = gr.Button(say("tune.go"), variant="primary")
        stop = gr.Button(say("tune.stop"), variant="stop", interactive=False)
    told = message_box()
    return SimpleNamespace(go=go, stop=stop, message=told, relief=relief.build(page))


def connect(page: Page, tab: SimpleNamespace, chart: gr.HTML) -> None:
    """The tab's listeners, once all fields of the page are there."""

    def tune(*values):
        opened(page.engine.tune(page.settings(values)))
        return message()

    tab.go.click(page.telling(tune), page.inputs(), tab.message, **QUIET)
    tab.stop.click(page.engine.stop, **AT_ONCE)
    relief.connect(page, tab.relief, "tune", chart)
