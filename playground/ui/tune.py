"""Tab 3: what to teach, and how."""

from types import SimpleNamespace

import gradio as gr

from playground import catalog
from playground.data import source
from playground.settings import CHECKPOINTING, COMPILE, METHODS, OPTIMIZERS, Data
from playground.ui import relief
from playground.ui.page import AT_ONCE, QUIET, Page, message, message_box, opened

PREVIEWED = 5  # rows


def build(page: Page) -> SimpleNamespace:
    """The tab's components; its fields are the page's."""
    say, field = page.say, page.field
    gr.Markdown(say("tune.lead"), elem_classes="lead")
    data = field(gr.Dropdown, "data", "source", choices=[(say(e["name"]), key) for key, e in catalog.data_sets().items()], allow_custom_value=True)
    upload = gr.UploadButton(f"{say('tune.upload')} ({say('tune.upload.info')})", file_types=[".json", ".jsonl", ".csv", ".parquet"], size="sm")
    with gr.Row():
        field(gr.Number, "data", "first", precision=0)
        field(gr.Number, "data", "last", precision=0)
        field(gr.Number, "data", "sample", precision=0)
    told, rows = _preview(page, Data())
    preview = gr.Markdown(told, elem_classes="quiet")
    table = gr.Dataframe(
        rows, headers=[say("tune.question"), say("tune.answer")], wrap=True, interactive=False, max_height=230, show_label=False, buttons=[], column_widths=["50%", "50%"]
    )
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
    with gr.Accordion(say("tune.memory"), open=False):
        field(gr.Dropdown, "train", "checkpointing", choices=CHECKPOINTING, allow_custom_value=True)
        with gr.Row():
            field(gr.Number, "train", "tokens", precision=0)
            field(gr.Number, "train", "micro_batch", precision=0)
            field(gr.Dropdown, "train", "compile", choices=COMPILE)
    with gr.Accordion(say("tune.data"), open=False):
        field(gr.Radio, "data", "template", choices=["auto", "chat", "alpaca", "talk"])
        with gr.Row():
            field(gr.Number, "data", "held_out")
            field(gr.Number, "data", "seed", precision=0)
        field(gr.Checkbox, "data", "train_on_prompt")
    with gr.Row(elem_classes="actions"):
        go = gr.Button(say("tune.go"), variant="primary")
        stop = gr.Button(say("tune.stop"), variant="stop", interactive=False)
    told = message_box()
    return SimpleNamespace(data=data, upload=upload, preview=preview, table=table, go=go, stop=stop, message=told, relief=relief.build(page))


def connect(page: Page, tab: SimpleNamespace, chart: gr.HTML) -> None:
    """The tab's listeners, once all fields of the page are there."""

    def tune(*values):
        opened(page.engine.tune(page.settings(values)))
        return message()

    def look(*values):
        try:
            told, rows = _preview(page, page.settings(values).data)
            return told, rows, message()
        except Exception as error:
            return "", [], page.trouble(error)

    slice_of = [page.fields["data", name] for name in ("source", "first", "last", "sample")]
    for component in slice_of:
        component.change(look, page.inputs(), [tab.preview, tab.table, tab.message], **AT_ONCE)
    tab.upload.upload(lambda path: gr.update(value=path), tab.upload, tab.data, **AT_ONCE)
    tab.go.click(page.telling(tune), page.inputs(), tab.message, **QUIET)
    tab.stop.click(page.engine.stop, **AT_ONCE)
    relief.connect(page, tab.relief, "tune", chart)


def _preview(page: Page, data) -> tuple[str, list[list[str]]]:
    """The first rows of a set that is on this machine; a hub is asked only when a run starts."""
    entry = catalog.data_sets().get(data.source, {})
    if "hub" in entry or (not entry and not source.is_file(data.source)):
        return page.say("tune.preview_hub", source=entry.get("hub", data.source)), []
    rows = source.read(data)
    told = page.say("tune.preview", train=len(rows.train), held_out=len(rows.held_out), total=rows.total)
    return told, [[f"{row.instruction}\n{row.input}".strip(), row.output] for row in rows.train[:PREVIEWED]]
