"""Listeners of the Data tab: preview the data set, count its rows, draw a row's tokens and the cost of a cutoff."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from playground.catalog import cache_folder
from playground.data import source
from playground.data.columns import FIELDS, format_mapping, parse_mapping
from playground.errors import PlaygroundError
from playground.settings import Settings
from playground.ui import cost_view, rows_view, xray_view
from playground.ui.data_tab import MAX_CUTOFF, MIN_CUTOFF, DataTab
from playground.ui.page import LATEST_ONLY, QUIET, UNQUEUED, Page, memory_of, message

PREVIEW_RECORDS = 20
SAMPLE_ROWS = 2000  # whose tokens are counted for the cost; all rows only on a click
SELECTION_FIELDS = (  # that decide which rows are read
    "source",
    "encoding",
    "columns",
    "start_row",
    "end_row",
    "sample",
    "contains",
    "category",
    "min_chars",
    "max_chars",
    "drop_duplicates",
    "drop_empty",
    "strip_citations",
    "held_out",
    "seed",
)
FORMAT_FIELDS = ("prompt_format", "custom_format", "train_on_prompt")  # that decide how a row is written
# Fields whose choices come from the data set itself. New choices discard what is being typed there, so a change updates
# only those that it can affect.
ALL_CHOICES = ("columns", "category")
CHOICES_AFFECTED = {"source": ALL_CHOICES, "encoding": ALL_CHOICES, "columns": ("category",)}


def connect(page: Page, tab: DataTab, header: gr.Tab) -> None:
    """Attach the tab's listeners, once all fields of the page exist.

    header: the tab itself. Tokens are only looked at once it was opened.
    """
    opened = gr.State(False)
    _connect_analysis(page, tab, header, opened)
    _connect_cutoff(page, tab)
    _connect_sources(page, tab)
    _connect_columns(page, tab)


def _connect_analysis(page: Page, tab: DataTab, header: gr.Tab, opened: gr.State) -> None:
    """Keep the preview, the counts, the tokens and the cost up to date with the form."""
    form, tokens, costs = page.inputs(), tab.token_view, tab.cost_view
    previewed = [tab.about, tab.table, tab.raw_table, tab.category, *tab.columns.values()]
    previewed += [tab.inputs.fetch, tab.message]

    def preview(choices: tuple[str, ...], fetch: bool = False) -> Callable:
        return lambda *values: _preview(page, values, choices, fetch)

    def count(opened: bool, *values: Any) -> Iterator[tuple]:
        yield from _count_rows(page, values) if opened else [(gr.skip(), gr.skip())]

    def draw(opened: bool, number: float, *values: Any) -> Any:
        return _draw_tokens(page, number, values) if opened else gr.skip()

    def cost(opened: bool, cutoff: float, card: str, *values: Any) -> Iterator[tuple]:
        skip = [(gr.skip(), gr.skip(), gr.skip())]
        yield from _cutoff_cost(page, cutoff, card, values, SAMPLE_ROWS) if opened else skip

    def cost_of_all(cutoff: float, card: str, *values: Any) -> Iterator[tuple]:
        yield from _cutoff_cost(page, cutoff, card, values, 0)

    counting = (count, [opened, *form], [tab.counts, tab.stop])
    drawing = (draw, [opened, tokens.row_number, *form], tokens.tokens)
    cost_inputs, cost_outputs = [costs.cutoff, costs.card, *form], [costs.cost, costs.count_all, tab.stop]
    costing = (cost, [opened, *cost_inputs], cost_outputs)

    def analyse(event: Any) -> None:
        event.then(*drawing, **LATEST_ONLY).then(*costing, **LATEST_ONLY)

    fields = {name: page.fields["data", name] for name in (*SELECTION_FIELDS, *FORMAT_FIELDS)}
    length = page.fields["train", "max_seq_length"]
    for name in SELECTION_FIELDS:
        fields[name].change(preview(CHOICES_AFFECTED.get(name, ())), form, previewed, **UNQUEUED)
    analyse(gr.on([fields[name].change for name in SELECTION_FIELDS], *counting, **LATEST_ONLY))
    redraw = [tokens.row_number.change, *(fields[name].change for name in FORMAT_FIELDS)]
    gr.on(redraw, *drawing, **LATEST_ONLY)
    gr.on([costs.cutoff.release, length.change], *drawing, **LATEST_ONLY)
    gr.on([costs.cutoff.change, costs.card.change, fields["prompt_format"].change], *costing, **LATEST_ONLY)
    first = header.select(lambda: True, None, opened, **UNQUEUED)
    analyse(first.then(preview(ALL_CHOICES), form, previewed, **UNQUEUED).then(*counting, **LATEST_ONLY))
    costs.count_all.click(cost_of_all, cost_inputs, cost_outputs, **QUIET)
    tab.inputs.fetch.click(preview(ALL_CHOICES, fetch=True), form, previewed, **QUIET)
    tab.stop.click(lambda: page.planner.stop("count_rows"), **UNQUEUED)


def _connect_cutoff(page: Page, tab: DataTab) -> None:
    """The cutoff's slider and the form's length follow each other, as far as the slider reaches."""
    cutoff, length = tab.cost_view.cutoff, page.fields["train", "max_seq_length"]

    def follow(value: float | None) -> Any:
        return gr.update(value=value) if value and MIN_CUTOFF <= value <= MAX_CUTOFF else gr.skip()

    cutoff.release(lambda value: value, cutoff, length, **UNQUEUED)
    length.change(follow, length, cutoff, **UNQUEUED)


def _connect_sources(page: Page, tab: DataTab) -> None:
    """Uploads, pasted text, and the field of a custom prompt format."""
    inputs, prompt_format = tab.inputs, page.fields["data", "prompt_format"]

    def paste(text: str) -> tuple:
        try:
            return gr.update(value=str(source.save_pasted(text or "", cache_folder() / "pasted"))), message()
        except Exception as error:
            return gr.skip(), page.error_message(error)

    inputs.upload.upload(lambda path: gr.update(value=path), inputs.upload, inputs.source, **UNQUEUED)
    inputs.use_text.click(paste, inputs.text, [inputs.source, tab.message], **UNQUEUED)
    prompt_format.change(
        lambda name: gr.update(visible=name == "custom"), prompt_format, tab.token_view.custom_format, **UNQUEUED
    )


def _connect_columns(page: Page, tab: DataTab) -> None:
    """The choices of columns and the written mapping follow each other."""
    mapping, choices = page.fields["data", "columns"], list(tab.columns.values())

    def write(*names: str) -> str:
        return format_mapping({part: name for part, name in zip(FIELDS, names) if name})

    for choice in choices:
        choice.input(write, choices, mapping, **UNQUEUED)
    mapping.change(_column_updates, [mapping, *choices], choices, **UNQUEUED)


def _column_updates(mapping: str, *shown: str) -> list:
    """Updates of the choices of columns to the written mapping.

    Choices that already contain the mapping, and more that was chosen faster than this answer came, stay.
    """
    unchanged = [gr.skip() for _ in FIELDS]
    try:
        written = parse_mapping(mapping or "")
    except PlaygroundError:  # the preview shows the error
        return unchanged
    if written and written.items() <= dict(zip(FIELDS, shown)).items():
        return unchanged
    return [gr.update(value=written.get(part, "")) for part in FIELDS]


def _preview(page: Page, values: Sequence, choices: tuple[str, ...], fetch: bool = False) -> tuple:
    """The beginning of the data set: its facts, the first rows as trained on, and the first records unchanged.

    choices: the fields of ALL_CHOICES to offer new choices for; fetch: also ask a hub.
    """
    hidden, same_columns = gr.update(visible=False), [gr.skip() for _ in FIELDS]
    try:
        data = page.settings(values).data
        if not fetch and source.is_remote(data.source):
            about = rows_view.remote(page.translate, source.short_name(data.source))
            return about, [], [], gr.skip(), *same_columns, gr.update(visible=True), message()
        preview = source.preview(data, PREVIEW_RECORDS)
    except Exception as error:
        return "", [], [], gr.skip(), *same_columns, hidden, page.error_message(error)
    offered = [(page.translate("rows.guess"), ""), *((name, name) for name in preview.found)]
    columns = [gr.update(choices=offered) if "columns" in choices else gr.skip() for _ in FIELDS]
    category = gr.update(choices=["", *preview.categories]) if "category" in choices else gr.skip()
    problems = message("\n".join(problem.text(page.lang) for problem in preview.problems), bad=True)
    rows = [[rows_view.question(row), row.output] for row in preview.rows]
    about, raw = rows_view.about(page.translate, preview), rows_view.raw(page.translate, preview)
    return about, rows, raw, category, *columns, hidden, problems


def _local_settings(page: Page, values: Sequence) -> Settings | None:
    """The form's settings, or None if their rows are on a hub, which isn't asked before a click."""
    settings = page.settings(values)
    return None if source.is_remote(settings.data.source) else settings


def _count_rows(page: Page, values: Sequence) -> Iterator[tuple]:
    """The rows to train on, held out and dropped, by reason; with progress while a large set is read."""
    hidden = gr.update(visible=False)
    try:
        settings = _local_settings(page, values)
        if settings is None:
            yield "", hidden
            return
        asking = page.ask_with_progress("count_rows", settings=settings.to_dict())
        counts = yield from _with_progress(page, asking, lambda bar: (bar, gr.update(visible=True)))
    except Exception as error:
        yield rows_view.stopped(page.translate, page.lang, error), hidden
        return
    yield rows_view.counts(page.translate, counts), hidden


def _draw_tokens(page: Page, number: float | None, values: Sequence) -> str:
    """One row, token by token, as HTML."""
    try:
        settings = _local_settings(page, values)
        if settings is None:
            return ""
        xray = page.planner.ask("xray", settings=settings.to_dict(), row=int(number or 1))
        return xray_view.draw(page.translate, xray)
    except Exception as error:
        return rows_view.stopped(page.translate, page.lang, error)


def _cutoff_cost(page: Page, cutoff: float, card: str, values: Sequence, sample: int) -> Iterator[tuple]:
    """The cost of a cutoff on a card as HTML, from a sample of the rows (0: all), with progress while counting."""
    hidden, visible = gr.update(visible=False), gr.update(visible=True)
    try:
        settings = _local_settings(page, values)
        if settings is None:
            yield "", hidden, hidden
            return
        memory = memory_of(card)
        asking = page.ask_with_progress(
            "cutoff_cost",
            settings=settings.to_dict(),
            cutoff=int(cutoff),
            sample=sample,
            root=str(page.root),
            capacity=memory["bytes"],
            device=memory["device"],
            card=memory["name"],
        )
        cost = yield from _with_progress(page, asking, lambda bar: (bar, hidden, visible))
    except Exception as error:
        yield rows_view.stopped(page.translate, page.lang, error), hidden, hidden
        return
    is_sample = gr.update(visible=cost["counted"] < cost["rows"])
    yield cost_view.draw(page.translate, page.lang, cost), is_sample, hidden


def _with_progress(page: Page, asking: Iterator, updates: Callable[[str], tuple]) -> Any:
    """Yield `updates` of a progress bar while the planner works; returns its answer."""
    while True:
        try:
            step = next(asking)
        except StopIteration as end:
            return end.value
        yield updates(rows_view.progress(page.translate, step))
