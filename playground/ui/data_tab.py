"""Tab "Data": the components: the choices on one side, what they make of the data set on the other.

Choices and results alternate in CSS order on a narrow screen (assets/data.css): each result follows its choices. The
listeners are in data_listeners.py.
"""

from dataclasses import dataclass

import gradio as gr

from playground.data.mapping_text import FIELDS
from playground.data.readers import KINDS
from playground.settings import PROMPT_FORMATS
from playground.ui.gpu_choice import THIS_MACHINE, card_choices
from playground.ui.page import Page, message_box
from playground.ui.source_names import source_choices

ENCODINGS = ("auto", "utf-8", "cp932", "euc_jp", "utf-16")  # suggested; any encoding that Python knows is accepted
MIN_CUTOFF, MAX_CUTOFF = 16, 4096  # tokens, of the slider

# A click on a row's number in the table, as the event "select" with that number.
SELECT_ROW = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-row]");
  if (button) trigger("select", { row: Number(button.dataset.row) });
});
"""


@dataclass(frozen=True)
class SourceInputs:
    """Where rows come from."""

    source: gr.Dropdown
    upload: gr.UploadButton
    fetch: gr.Button
    text: gr.Textbox
    use_text: gr.Button


@dataclass(frozen=True)
class RowsView:
    """What the data set holds. busy: the progress of a long count, with the button that stops it."""

    message: gr.HTML
    about: gr.HTML
    table: gr.HTML
    raw_table: gr.HTML
    counts: gr.HTML
    busy: gr.HTML
    stop: gr.Button


@dataclass(frozen=True)
class TokenView:
    """One row, token by token."""

    row_number: gr.Number
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
    """The tab's components; its other fields are the page's.

    opened: whether to look at tokens, which needs the planning process: once the tab was opened or a file uploaded.
    """

    inputs: SourceInputs
    columns: dict[str, gr.Dropdown]
    category: gr.Dropdown
    custom_format: gr.Textbox
    rows: RowsView
    token_view: TokenView
    cost_view: CostView
    opened: gr.State


def build(page: Page) -> DataTab:
    """The tab's components."""
    gr.Markdown(page.translate("rows.lead"), elem_classes="lead")
    with gr.Row(elem_classes="split data-tab"):
        with gr.Column(scale=5, min_width=320, elem_classes="controls"):
            with gr.Column(elem_classes="step source"):
                inputs, message = _build_source(page)
                about = gr.HTML(elem_classes="about")
                columns, raw_table = _build_columns(page)
            with gr.Column(elem_classes="step selection"):
                category = _build_selection(page)
                counts = gr.HTML(elem_classes="counted-rows")
            with gr.Column(elem_classes="step template"):
                custom_format = _build_template(page)
            with gr.Column(elem_classes="step cutoff"):
                cutoff, card = _build_cutoff(page)
        with gr.Column(scale=6, min_width=320, elem_classes="result"):
            with gr.Column(elem_classes="step rows-shown"):
                table, busy, stop = _build_rows_view(page)
            with gr.Column(elem_classes="step tokens-shown"):
                token_view = _build_token_view(page)
            with gr.Column(elem_classes="step cost-shown"):
                cost, count_all = _build_cost(page)
    return DataTab(
        inputs=inputs,
        columns=columns,
        category=category,
        custom_format=custom_format,
        rows=RowsView(message, about, table, raw_table, counts, busy, stop),
        token_view=token_view,
        cost_view=CostView(cutoff, card, cost, count_all),
        opened=gr.State(False),
    )


def _build_source(page: Page) -> tuple[SourceInputs, gr.HTML]:
    """Where rows come from, and the place of their problems."""
    translate = page.translate
    choices = source_choices(page, page.start.data.source)
    source = page.field(gr.Dropdown, "data", "source", choices=choices, allow_custom_value=True)
    with gr.Row():
        upload = gr.UploadButton(translate("rows.upload"), file_types=list(KINDS), size="sm", min_width=160)
        fetch = gr.Button(translate("rows.fetch"), size="sm", min_width=160, visible=False)
    gr.HTML(f'<p class="quiet">{translate("rows.upload.info")}</p>')
    message = message_box()
    with gr.Accordion(translate("rows.paste"), open=False):
        text = gr.Textbox(
            label=translate("rows.paste"),
            show_label=False,
            placeholder=translate("rows.paste.info"),
            lines=5,
            max_lines=14,
        )
        use_text = gr.Button(translate("rows.paste.go"), size="sm")
    return SourceInputs(source, upload, fetch, text, use_text), message


def _build_columns(page: Page) -> tuple[dict[str, gr.Dropdown], gr.HTML]:
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
            field(gr.Dropdown, "data", "part", choices=[""], allow_custom_value=True, min_width=160)
            encodings = page.choices("data.encoding", ENCODINGS)
            field(gr.Dropdown, "data", "encoding", choices=encodings, allow_custom_value=True, min_width=160)
        gr.HTML(f"<h4>{translate('rows.raw')}</h4>")
        raw_table = gr.HTML()
    return columns, raw_table


def _build_selection(page: Page) -> gr.Dropdown:
    """The fields that select rows; returns the category's, whose choices depend on the data set."""
    field = page.field
    with gr.Accordion(page.translate("rows.filter"), open=False):
        with gr.Row():
            for name in ("start_row", "end_row", "sample"):
                field(gr.Number, "data", name, precision=0, min_width=120)
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


def _build_template(page: Page) -> gr.Textbox:
    """How a row is written for the model; returns the field of a custom format."""
    field = page.field
    formats = page.choices("data.prompt_format", PROMPT_FORMATS)
    field(gr.Dropdown, "data", "prompt_format", choices=formats, min_width=200)
    is_custom = page.start.data.prompt_format == "custom"
    custom_format = field(gr.Textbox, "data", "custom_format", lines=4, visible=is_custom)
    field(gr.Checkbox, "data", "train_on_prompt")
    return custom_format


def _build_cutoff(page: Page) -> tuple[gr.Slider, gr.Dropdown]:
    translate = page.translate
    cutoff = gr.Slider(
        label=translate("rows.cutoff"),
        info=translate("rows.cost.info"),
        minimum=MIN_CUTOFF,
        maximum=MAX_CUTOFF,
        step=8,
        value=page.start.train.max_seq_length,
        min_width=240,
    )
    card = gr.Dropdown(label=translate("plan.card"), choices=card_choices(page), value=THIS_MACHINE, min_width=200)
    return cutoff, card


def _build_rows_view(page: Page) -> tuple[gr.HTML, gr.HTML, gr.Button]:
    """The first rows, and what is shown while many are counted."""
    translate = page.translate
    with gr.Row(elem_classes="result-head"):
        gr.HTML(f"<h3>{translate('rows.first')}</h3>", elem_classes="grows")
        busy = gr.HTML(visible=False, elem_classes="grows")
        stop = gr.Button(translate("rows.stop"), size="sm", visible=False, scale=0, min_width=140)
    table = gr.HTML(js_on_load=SELECT_ROW, elem_classes="first-rows")
    return table, busy, stop


def _build_token_view(page: Page) -> TokenView:
    translate = page.translate
    with gr.Row(elem_classes="result-head"):
        gr.HTML(
            f'<h3>{translate("rows.xray")}</h3><p class="quiet">{translate("rows.xray.info")}</p>',
            elem_classes="grows",
        )
        row_number = gr.Number(
            label=translate("rows.number"),
            value=1,
            precision=0,
            minimum=1,
            min_width=110,
            scale=0,
            elem_classes="row-number",
        )
    return TokenView(row_number, gr.HTML(elem_classes="drawn-tokens"))


def _build_cost(page: Page) -> tuple[gr.HTML, gr.Button]:
    translate = page.translate
    gr.HTML(f"<h3>{translate('rows.cost')}</h3>")
    cost = gr.HTML(elem_classes="drawn-cost")
    return cost, gr.Button(translate("rows.count_all"), size="sm", visible=False)
