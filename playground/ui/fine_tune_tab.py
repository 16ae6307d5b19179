"""Tab "Fine-tune": the adapter, the training and its memory; what a start would do, and the start."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from playground.errors import as_playground_error
from playground.settings import (
    ADAPTER_KINDS,
    CHECKPOINTING_CHOICES,
    COMPILE_CHOICES,
    METHODS,
    OPTIMIZERS,
    PARALLEL_CHOICES,
    SAMPLE_CHOICES,
    START_VALUES,
)
from playground.settings.limits import too_much_work
from playground.ui import card_picture, interrupted_notice, oom_suggestions, queue_form
from playground.ui.adapter_choice import adapter_choices
from playground.ui.advice_view import advice_html
from playground.ui.interrupted_notice import InterruptedNotice
from playground.ui.oom_suggestions import SuggestionBox
from playground.ui.page import (
    LATEST_ONLY,
    QUIET,
    TARGET_MODULES,
    UNQUEUED,
    Page,
    Update,
    message,
    message_box,
    select_tab,
    wait_until_opened,
)
from playground.ui.process_choice import most_processes
from playground.ui.queue_form import QueueForm
from playground.ui.run_names import data_name
from playground.ui.snapshot_view import records_snapshots

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class FineTuneTab:
    """The tab's components that listeners use; its fields are the page's."""

    summary: gr.HTML
    start: gr.Button
    compare: gr.Button
    message: gr.HTML
    suggestions: SuggestionBox
    picture: gr.HTML
    queue: QueueForm
    interrupted: InterruptedNotice


def build(page: Page) -> FineTuneTab:
    """The tab's components."""
    translate, field = page.translate, page.field
    interrupted = interrupted_notice.build(page)
    gr.Markdown(translate("tune.lead"), elem_classes="lead")
    summary = gr.HTML(f'<p class="summary">{escape(translate("summary.counting"))}</p>', elem_classes="counted")
    with gr.Row(elem_classes="actions"):
        start = gr.Button(translate("tune.go"), variant="primary")
        add = gr.Button(translate("queue.add"), elem_id="queue-add")
        compare = gr.Button(translate("tune.compare"), variant="primary", visible=False)
    box = message_box()
    suggestions = oom_suggestions.build(page)
    queue = queue_form.build(page, add)
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
    return FineTuneTab(summary, start, compare, box, suggestions, card_picture.build(page), queue, interrupted)


def connect(
    page: Page,
    tab: FineTuneTab,
    app: gr.Blocks,
    tabs: gr.Tabs,
    header: gr.Tab,
    live_view: gr.HTML,
    strip: gr.HTML,
) -> None:
    """Attach the tab's listeners, once all fields of the page exist. strip: its `data` is updated with the summary."""

    def tune(*values: Any) -> Update:
        settings = page.settings(values)
        page.raise_if_too_much_work(settings)
        wait_until_opened(page.engine.tune(settings))
        return message()

    tab.start.click(page.with_error_message(tune), page.inputs(), tab.message, **QUIET)
    select_tab(tab.compare.click, tabs, "chat")
    queue_form.connect(page, tab.queue, live_view)
    oom_suggestions.connect(page, tab.suggestions, "tune", live_view)
    card_picture.connect_form(page, tab.picture, "tune", header, live_view)
    form = page.inputs()
    start_from = page.fields["lora", "start_from"]
    header.select(lambda: gr.update(choices=_start_choices(page)), None, start_from, **UNQUEUED)
    triggers = [app.load, *(component.change for component in form)]
    gr.on(triggers, lambda *values: _summarize(page, values), form, [tab.summary, strip], **LATEST_ONLY)


def _summarize(page: Page, values: Sequence) -> tuple:
    """What a fine-tune with these settings would do, in a sentence, and the data set for the status strip."""
    try:
        settings = page.settings(values)
        summary = page.fine_tune_summary(settings)
    except Exception as error:
        text = as_playground_error(error).text(page.lang)
        return f'<p class="summary bad">{escape(text)}</p>', gr.update(data="")
    data = {
        "name": data_name(settings.data.source, page.lang),
        "rows": page.translate("strip.rows", rows=summary["rows"]),
    }
    beyond = too_much_work(summary["rows"], summary["steps"], page.limits) if page.limits else []
    lines = [f'<p class="summary bad">{escape(one.text(page.lang))}</p>' for one in beyond]
    shown = "".join([*lines, summary_html(page.translate, summary), advice_html(summary["advice"], page.lang)])
    return shown, gr.update(data=json.dumps(data, ensure_ascii=False))


def summary_html(translate: Callable, summary: Mapping[str, Any]) -> str:
    """The sentence as HTML, with the verdict. summary: of the planner's `tune_summary`."""
    facts = [translate("summary.steps", **summary)]
    if summary["seconds"]:
        facts.append(translate("summary.time", time=minutes(summary["seconds"])))
    fit, verdict = summary["verdict"], ""
    if fit:
        key = "summary.memory_each" if summary["processes"] > 1 else "summary.memory"
        facts.append(translate(key, need_bytes=summary["need_bytes"]))
        verdict = f'<b class="verdict {fit}">{escape(translate(f"plan.verdict.{fit}"))}</b>'
    sentence = translate("summary.teach", facts=translate("catalog.and").join(facts), **summary)
    streamed = translate("plan.streamed", **summary["streamed"]) if summary["streamed"] else ""
    return f'<p class="plan summary">{escape(sentence)} {verdict} {escape(streamed)}</p>'


def minutes(seconds: float) -> str:
    """Seconds as m:ss."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def _lora_fields(page: Page) -> None:
    field, labelled = page.field, page.choices
    with gr.Row():
        field(gr.Radio, "lora", "kind", choices=labelled("lora.kind", ADAPTER_KINDS))
        starts = labelled("lora.init", START_VALUES)
        field(gr.Dropdown, "lora", "init", choices=starts, allow_custom_value=True)
    with gr.Row():
        field(gr.Number, "lora", "alpha")
        field(gr.Number, "lora", "dropout")
        targets = labelled("lora.target_modules", TARGET_MODULES)
        field(gr.Dropdown, "lora", "target_modules", choices=targets, allow_custom_value=True)
        field(gr.Number, "lora", "layers", precision=0)
        field(gr.Textbox, "lora", "modules_to_save")
    with gr.Row():
        field(gr.Checkbox, "lora", "use_rslora")
        field(gr.Checkbox, "lora", "use_dora")
        field(gr.Number, "lora", "loraplus_lr_ratio")
    field(gr.Dropdown, "lora", "start_from", choices=_start_choices(page), allow_custom_value=True)


def _start_choices(page: Page) -> list[tuple[str, str]]:
    """A new adapter, and every run's adapter to continue."""
    *adapters, _ = adapter_choices(page)
    return [(page.translate("lora.start_from.new"), ""), *adapters]


def _training_fields(page: Page) -> None:
    field, labelled = page.field, page.choices
    with gr.Row():
        field(gr.Radio, "train", "method", choices=labelled("train.method", METHODS))
        field(gr.Dropdown, "train", "optimizer", choices=labelled("train.optimizer", OPTIMIZERS))
        field(gr.Checkbox, "train", "offload_optimizer")
    with gr.Row():
        field(gr.Number, "train", "batch_size", precision=0)
        field(gr.Number, "train", "max_seq_length", precision=0)
    with gr.Row():
        field(gr.Number, "train", "max_steps", precision=0)
        field(gr.Dropdown, "train", "schedule", choices=labelled("train.schedule", SCHEDULES))
        field(gr.Number, "train", "warmup")
    with gr.Row():
        field(gr.Number, "train", "eval_rows", precision=0)
        field(gr.Number, "train", "eval_every", precision=0)
        field(gr.Number, "train", "patience", precision=0)
        field(gr.Checkbox, "train", "measure_forgetting")
    with gr.Row():
        intervals = labelled("train.sample_every", SAMPLE_CHOICES)
        field(gr.Dropdown, "train", "sample_every", choices=intervals, allow_custom_value=True)
        field(gr.Number, "train", "save_every", precision=0)
        field(gr.Number, "train", "seed", precision=0)


def _memory_fields(page: Page) -> None:
    field, labelled = page.field, page.choices
    policies = labelled("train.gradient_checkpointing", CHECKPOINTING_CHOICES)
    field(gr.Dropdown, "train", "gradient_checkpointing", choices=policies, allow_custom_value=True)
    with gr.Row():
        field(gr.Number, "train", "max_tokens_per_micro_batch", precision=0)
        field(gr.Number, "train", "micro_batch_size", precision=0)
        field(gr.Dropdown, "train", "compile", choices=labelled("train.compile", COMPILE_CHOICES))
    most = most_processes(page.limits)
    with gr.Row(visible=most > 1):
        field(gr.Dropdown, "train", "num_processes", choices=list(range(1, most + 1)))
        field(gr.Radio, "train", "parallel", choices=labelled("train.parallel", PARALLEL_CHOICES))
    only_predicted = {} if records_snapshots() else {"info": page.translate("snapshot.cpu"), "interactive": False}
    field(gr.Checkbox, "train", "memory_snapshot", **only_predicted)
