"""Tab 4: how to teach it."""

from types import SimpleNamespace

import gradio as gr

from playground.settings import CHECKPOINTING_CHOICES, COMPILE_CHOICES, METHODS, OPTIMIZERS, SAMPLE_CHOICES
from playground.ui import oom_suggestions
from playground.ui.page import QUIET, UNQUEUED, Page, message, message_box, wait_until_opened


def build(page: Page) -> SimpleNamespace:
    """The tab's components; its fields are the page's."""
    translate, field = page.translate, page.field
    gr.Markdown(translate("tune.lead"), elem_classes="lead")
    with gr.Row():
        field(gr.Number, "lora", "r", precision=0)
        field(gr.Number, "train", "epochs")
        field(gr.Number, "train", "lr")
    with gr.Accordion(translate("tune.lora"), open=False):
        with gr.Row():
            field(gr.Number, "lora", "alpha")
            field(gr.Number, "lora", "dropout")
            field(gr.Dropdown, "lora", "target_modules", choices=["attention", "all-linear"], allow_custom_value=True)
            field(gr.Number, "lora", "layers", precision=0)
        with gr.Row():
            field(gr.Checkbox, "lora", "use_rslora")
            field(gr.Checkbox, "lora", "use_dora")
            field(gr.Number, "lora", "loraplus_lr_ratio")
    with gr.Accordion(translate("tune.train"), open=False):
        with gr.Row():
            field(gr.Radio, "train", "method", choices=METHODS)
            field(gr.Dropdown, "train", "optimizer", choices=OPTIMIZERS)
        with gr.Row():
            field(gr.Number, "train", "batch_size", precision=0)
            field(gr.Number, "train", "max_seq_length", precision=0)
        with gr.Row():
            field(gr.Number, "train", "max_steps", precision=0)
            field(gr.Dropdown, "train", "schedule", choices=["linear", "cosine", "constant"])
            field(gr.Number, "train", "warmup")
        with gr.Row():
            field(gr.Number, "train", "save_every", precision=0)
            field(gr.Number, "train", "seed", precision=0)
        with gr.Row():
            field(gr.Number, "train", "eval_rows", precision=0)
            field(gr.Dropdown, "train", "sample_every", choices=SAMPLE_CHOICES, allow_custom_value=True)
    with gr.Accordion(translate("tune.memory"), open=False):
        field(gr.Dropdown, "train", "gradient_checkpointing", choices=CHECKPOINTING_CHOICES, allow_custom_value=True)
        with gr.Row():
            field(gr.Number, "train", "max_tokens_per_micro_batch", precision=0)
            field(gr.Number, "train", "micro_batch_size", precision=0)
            field(gr.Dropdown, "train", "compile", choices=COMPILE_CHOICES)
    with gr.Row(elem_classes="actions"):
        go = gr.Button(translate("tune.go"), variant="primary")
        stop = gr.Button(translate("tune.stop"), variant="stop", interactive=False)
    told = message_box()
    return SimpleNamespace(go=go, stop=stop, message=told, relief=oom_suggestions.build(page))


def connect(page: Page, tab: SimpleNamespace, chart: gr.HTML) -> None:
    """The tab's listeners, once all fields of the page are there."""

    def tune(*values):
        wait_until_opened(page.engine.tune(page.settings(values)))
        return message()

    tab.go.click(page.telling(tune), page.inputs(), tab.message, **QUIET)
    tab.stop.click(page.engine.stop, **UNQUEUED)
    oom_suggestions.connect(page, tab.relief, "tune", chart)
