"""Tab "Data": the components: choose a data set, its columns and rows, see its tokens, and the cost of a cutoff.

Its listeners are in data_listeners.py.
"""

from dataclasses import dataclass

import gradio as gr

from playground import catalog
from playground.data.columns import FIELDS
from playground.data.readers import KINDS
from playground.settings import PROMPT_FORMATS
from playground.ui.page import THIS_MACHINE, Page, card_choices, message_box

ENCODINGS = ("auto", "utf-8", "cp932", "euc_jp", "utf-16")  # suggested; any encoding that Python knows is accepted
MIN_CUTOFF, MAX_CUTOFF = 16, 4096  # tokens, of the slider


@dataclass(frozen=True)
class SourceInputs:
    """Where rows come from."""

    source: gr.Dropdown
    upload: gr.UploadButton
    fetch: gr.Button
    text: gr.Textbox
    use_text: gr.Button


@dataclass(frozen=True)
class TokenView:
    """One row, token by token."""

    row_number: gr.Number
    custom_format: gr.Textbox
    tokens: gr.HTML


@dataclass(frozen=True)
class CostView:
    """The cost of a cutoff."""

    cutoff: gr.Slider
    card: gr.Dropdown
    cost: gr.HTML
    count_all: gr.Button


@dataclass(frozen=True)
class DataTab:
    """The tab's components; its other fields are the page's."""

    inputs: SourceInputs
    message: gr.HTML
    about: gr.HTML
    table: gr.Dataframe
    columns: dict[str, gr.Dropdown]
    raw_table: gr.Dataframe
    category: gr.Dropdown
    counts: gr.HTML
    stop: gr.Button
    token_view: TokenView
    cost_view: CostView


def build(page: Page) -> DataTab:
    """The tab's components."""
    translate = page.translate
    gr.Markdown(translate("rows.lead"), elem_classes="lead")
    inputs = _build_source(page)
    box = message_box()
    about = gr.HTML()
    table = gr.Dataframe(
        headers=[translate("rows.question"), translate("rows.answer")],
        wrap=True,
        interactive=False,
        max_height=260,
        show_label=False,
        buttons=[],
        column_widths=["50%", "50%"],
    )
    columns, raw_table = _build_columns(page)
    category = _build_selection(page)
    counts = gr.HTML()
    stop = gr.Button(translate("rows.stop"), variant="stop", size="sm", visible=False)
    return DataTab(
        inputs=inputs,
        message=box,
        about=about,
        table=table,
        columns=columns,
        raw_table=raw_table,
        category=category,
        counts=counts,
        stop=stop,
        token_view=_build_token_view(page),
        cost_view=_build_cost_view(page),
    )


def _build_source(page: Page) -> SourceInputs:
    translate = page.translate
    listed = [(translate(entry["name"]), key) for key, entry in catalog.data_sets().items()]
    source = page.field(gr.Dropdown, "data", "source", choices=listed, allow_custom_value=True)
    with gr.Row():
        label = f"{translate('rows.upload')} ({translate('rows.upload.info')})"
        upload = gr.UploadButton(label, file_types=list(KINDS), size="sm", min_width=200)
        fetch = gr.Button(translate("rows.fetch"), size="sm", min_width=200, visible=False)
    with gr.Accordion(translate("rows.paste"), open=False):
        text = gr.Textbox(show_label=False, placeholder=translate("rows.paste.info"), lines=5, max_lines=14)
        use_text = gr.Button(translate("rows.paste.go"), size="sm")
    return SourceInputs(source, upload, fetch, text, use_text)


def _build_columns(page: Page) -> tuple[dict[str, gr.Dropdown], gr.Dataframe]:
    """A choice of column for every part of a row, and the first records unchanged."""
    translate, field = page.translate, page.field
    guess = [(translate("rows.guess"), "")]
    with gr.Accordion(translate("rows.columns"), open=False):
        gr.Markdown(translate("rows.columns.info"), elem_classes="quiet")
        with gr.Row():
            columns = {
                part: gr.Dropdown(label=translate(f"rows.part.{part}"), choices=guess, value="", min_width=140)
                for part in FIELDS
            }
        with gr.Row():
            field(gr.Textbox, "data", "columns", min_width=240)
            encodings = page.choices("data.encoding", ENCODINGS)
            field(gr.Dropdown, "data", "encoding", choices=encodings, allow_custom_value=True, min_width=160)
        raw_table = gr.Dataframe(label=translate("rows.raw"), wrap=True, interactive=False, max_height=260, buttons=[])
    return columns, raw_table


def _build_selection(page: Page) -> gr.Dropdown:
    """The fields that select rows; returns the category's, whose choices depend on the data set."""
    field = page.field
    with gr.Row():
        for name in ("start_row", "end_row", "sample"):
            field(gr.Number, "data", name, precision=0, min_width=120)
    with gr.Accordion(page.translate("rows.filter"), open=False):
        with gr.Row():
            field(gr.Textbox, "data", "contains", min_width=160)
            category = field(gr.Dropdown, "data", "category", choices=[""], allow_custom_value=True, min_width=160)
        with gr.Row():
            field(gr.Number, "data", "min_chars", precision=0, min_width=140)
            field(gr.Number, "data", "max_chars", precision=0, min_width=140)
        with gr.Row():
            for name in ("drop_duplicates", "drop_empty", "strip_citations"):
                field(gr.Checkbox, "data", name)
        with gr.Row():
            field(gr.Number, "data", "held_out", min_width=140)
            field(gr.Number, "data", "seed", precision=0, min_width=140)
    return category


def _build_token_view(page: Page) -> TokenView:
    translate, field = page.translate, page.field
    gr.Markdown(f"### {translate('rows.xray')}\n{translate('rows.xray.info')}")
    with gr.Row():
        row_number = gr.Number(label=translate("rows.number"), value=1, precision=0, minimum=1, min_width=110)
        formats = page.choices("data.prompt_format", PROMPT_FORMATS)
        field(gr.Dropdown, "data", "prompt_format", choices=formats, min_width=200, scale=2)
    is_custom = page.start.data.prompt_format == "custom"
    custom_format = field(gr.Textbox, "data", "custom_format", lines=4, visible=is_custom)
    field(gr.Checkbox, "data", "train_on_prompt")
    return TokenView(row_number, custom_format, gr.HTML())


def _build_cost_view(page: Page) -> CostView:
    translate = page.translate
    gr.Markdown(f"### {translate('rows.cost')}\n{translate('rows.cost.info')}")
    with gr.Row():
        cutoff = gr.Slider(
            label=translate("rows.cutoff"),
            info=translate("train.max_seq_length.info"),
            minimum=MIN_CUTOFF,
            maximum=MAX_CUTOFF,
            step=8,
            value=page.start.train.max_seq_length,
            min_width=240,
        )
        card = gr.Dropdown(label=translate("plan.card"), choices=card_choices(page), value=THIS_MACHINE, min_width=200)
    cost = gr.HTML()
    count_all = gr.Button(translate("rows.count_all"), size="sm", visible=False)
    return CostView(cutoff, card, cost, count_all)
