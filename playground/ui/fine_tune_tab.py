"""Tab "Fine-tune": the adapter, the training and its memory; start and stop."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.settings import CHECKPOINTING_CHOICES, COMPILE_CHOICES, METHODS, OPTIMIZERS, SAMPLE_CHOICES
from playground.ui import oom_suggestions
from playground.ui.oom_suggestions import SuggestionBox
from playground.ui.page import (
    QUIET,
    TARGET_MODULES,
    UNQUEUED,
    Page,
    Update,
    message,
    message_box,
    wait_until_opened,
)

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class FineTuneTab:
    """The tab's components that listeners use; its fields are the page's."""

    start: gr.Button
    stop: gr.Button
    message: gr.HTML
    suggestions: SuggestionBox


def build(page: Page) -> FineTuneTab:
    """The tab's components."""
    translate, field = page.translate, page.field
    gr.Markdown(translate("tune.lead"), elem_classes="lead")
    with gr.Row():
        field(gr.Number, "lora", "r", precision=0)
        field(gr.Number, "train", "epochs")
        field(gr.Number, "train", "lr")
    with gr.Accordion(translate("tune.lora"), open=False):
        _lora_fields(page)
    with gr.Accordion(translate("tune.train"), open=False):
        _training_fields(page)
    with gr.Accordion(translate("tune.memory"), open=False):
        _memory_fields(page)
    with gr.Row(elem_classes="actions"):
        start = gr.Button(translate("tune.go"), variant="primary")
        stop = gr.Button(translate("tune.stop"), variant="stop", interactive=False)
    box = message_box()
    return FineTuneTab(start, stop, box, oom_suggestions.build(page))


def connect(page: Page, tab: FineTuneTab, live_view: gr.HTML) -> None:
    """Attach the tab's listeners, once all fields of the page exist."""

    def tune(*values: Any) -> Update:
        wait_until_opened(page.engine.tune(page.settings(values)))
        return message()

    tab.start.click(page.with_error_message(tune), page.inputs(), tab.message, **QUIET)
    tab.stop.click(page.engine.stop, **UNQUEUED)
    oom_suggestions.connect(page, tab.suggestions, "tune", live_view)


def _lora_fields(page: Page) -> None:
    field = page.field
    with gr.Row():
        field(gr.Number, "lora", "alpha")
        field(gr.Number, "lora", "dropout")
        targets = page.choices("lora.target_modules", TARGET_MODULES)
        field(gr.Dropdown, "lora", "target_modules", choices=targets, allow_custom_value=True)
        field(gr.Number, "lora", "layers", precision=0)
    with gr.Row():
        field(gr.Checkbox, "lora", "use_rslora")
        field(gr.Checkbox, "lora", "use_dora")
        field(gr.Number, "lora", "loraplus_lr_ratio")


def _training_fields(page: Page) -> None:
    field, labelled = page.field, page.choices
    with gr.Row():
        field(gr.Radio, "train", "method", choices=labelled("train.method", METHODS))
        field(gr.Dropdown, "train", "optimizer", choices=labelled("train.optimizer", OPTIMIZERS))
    with gr.Row():
        field(gr.Number, "train", "batch_size", precision=0)
        field(gr.Number, "train", "max_seq_length", precision=0)
    with gr.Row():
        field(gr.Number, "train", "max_steps", precision=0)
        field(gr.Dropdown, "train", "schedule", choices=labelled("train.schedule", SCHEDULES))
        field(gr.Number, "train", "warmup")
    with gr.Row():
        field(gr.Number, "train", "save_every", precision=0)
        field(gr.Number, "train", "seed", precision=0)
    with gr.Row():
        field(gr.Number, "train", "eval_rows", precision=0)
        intervals = labelled("train.sample_every", SAMPLE_CHOICES)
        field(gr.Dropdown, "train", "sample_every", choices=intervals, allow_custom_value=True)


def _memory_fields(page: Page) -> None:
    field, labelled = page.field, page.choices
    policies = labelled("train.gradient_checkpointing", CHECKPOINTING_CHOICES)
    field(gr.Dropdown, "train", "gradient_checkpointing", choices=policies, allow_custom_value=True)
    with gr.Row():
        field(gr.Number, "train", "max_tokens_per_micro_batch", precision=0)
        field(gr.Number, "train", "micro_batch_size", precision=0)
        field(gr.Dropdown, "train", "compile", choices=labelled("train.compile", COMPILE_CHOICES))
