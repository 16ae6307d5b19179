"""What the Data tab shows: updates of its components from the form's values, each problem at one place only.

Problems of the data set or its selection stand under its field (`preview`, `count_rows`), and then the places that
would show its rows stay empty. A row's own problems, and a tokenizer that isn't there, stand where its tokens would
(`draw_tokens`); the cost of a cutoff (`cutoff_cost`) repeats none of these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from playground.data import source
from playground.data.mapping_text import FIELDS
from playground.data.preview_values import from_dict
from playground.errors import as_playground_error
from playground.settings import Settings
from playground.ui import cost_view, rows_view, xray_view
from playground.ui.gpu_choice import memory_of
from playground.ui.page import FieldName, Page, Update, message
from playground.ui.source_names import source_name

PREVIEW_RECORDS = 20
SELECTION_FIELDS = (  # of the group "data", that decide which rows are read
    "source",
    "encoding",
    "part",
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
SELECTION: list[FieldName] = [("data", name) for name in SELECTION_FIELDS]
ROW: list[FieldName] = [
    *SELECTION,
    *(("data", name) for name in FORMAT_FIELDS),
    ("load", "model"),
    ("train", "max_seq_length"),
]
# Fields whose choices come from the data set itself. New choices discard what is being typed there, so a change updates
# only those that it can affect.
ALL_CHOICES = ("columns", "category", "part")
HIDDEN = gr.update(visible=False)
IDLE = (HIDDEN, HIDDEN)  # of the progress and the stop button


def preview(page: Page, values: Sequence, choices: tuple[str, ...] = (), fetch: bool = False) -> tuple:
    """The beginning of the data set: its facts, the first rows as trained on, and the first records unchanged.

    values: of SELECTION. choices: the fields of ALL_CHOICES to offer new choices for; fetch: also ask a hub.
    Updates of about, table, raw table, category, columns, part, fetch button and message; whether its rows can be read.
    """
    same_columns = [gr.skip() for _ in (*FIELDS, "part")]
    try:
        data = page.parse_fields(SELECTION, values).data
        if not fetch and source.is_remote(data.source):
            about = rows_view.quiet(page.translate("rows.remote", source=source_name(page, data.source)))
            return about, "", "", gr.skip(), *same_columns, gr.update(visible=True), message(), True
        asked = replace(Settings(), data=data).to_dict()
        found = from_dict(page.planner.ask("preview", settings=asked, rows=PREVIEW_RECORDS))
    except Exception as error:
        return "", "", "", gr.skip(), *same_columns, HIDDEN, page.error_message(error), False
    offered = [(page.translate("rows.guess"), ""), *((name, name) for name in [*found.found, *found.nested])]
    columns = [gr.update(choices=offered) if "columns" in choices else gr.skip() for _ in FIELDS]
    category = gr.update(choices=["", *found.categories]) if "category" in choices else gr.skip()
    part = gr.update(choices=["", *found.parts]) if "part" in choices else gr.skip()
    problems = message("\n".join(problem.text(page.lang) for problem in found.problems), bad=True)
    about, raw = rows_view.about(page.translate, found), rows_view.raw(page.translate, found)
    rows = rows_view.first_rows(page.translate, found.rows)
    return about, rows, raw, category, *columns, part, HIDDEN, problems, not found.problems


def count_rows(page: Page, readable: bool, values: Sequence) -> Iterator[tuple]:
    """The rows to train on, held out and left out, by reason; with progress while a large set is read.

    values: of SELECTION. Updates of counts, message and readable (as `preview` found it, now for the whole set), and of
    progress and stop button.
    """
    try:
        settings = page.parse_fields(SELECTION, values) if readable else None
        if settings is None or source.is_remote(settings.data.source):
            yield "", gr.skip(), readable, *IDLE
            return
        asking = page.ask_with_progress("count_rows", settings=settings.to_dict())
        counts = yield from _with_progress(page, asking, 3)
    except Exception as error:
        if not as_playground_error(error).problems:  # it was stopped
            yield rows_view.quiet(page.translate("rows.stopped")), gr.skip(), readable, *IDLE
        else:
            yield "", page.error_message(error), False, *IDLE
        return
    yield rows_view.counts(page.translate, counts), gr.skip(), True, *IDLE


def draw_tokens(page: Page, readable: bool, number: float | None, values: Sequence) -> tuple[Update, list[str]]:
    """One row, token by token, as HTML; and the lines of its error, if that is shown in its place. values: of ROW."""
    try:
        settings = _local_settings(page, ROW, values) if readable else None
        if settings is None:
            return "", []
        xray = page.planner.ask("xray", settings=settings.to_dict(), row=int(number or 1))
    except Exception as error:
        reported = as_playground_error(error)
        lines = reported.text(page.lang).split("\n") if reported.problems else []
        if [problem.key for problem in reported.problems] == ["error.tokenizer_absent"]:  # normal before the first load
            return rows_view.quiet(lines[0]), lines
        return rows_view.notice(lines) if lines else "", lines
    return xray_view.draw(page.translate, xray), []


def cutoff_cost(
    page: Page, readable: bool, shown: list[str], cutoff: float, card: str, values: Sequence, sample: int
) -> Iterator[tuple]:
    """The cost of a cutoff on a card as HTML, from a sample of the rows (0: all), with progress while counting.

    shown: lines of an error that stands elsewhere. values: of the whole form. Updates of cost, button to count all,
    progress and stop button.
    """
    try:
        settings = _local_settings(page, list(page.fields), values) if readable else None
        if settings is None:
            yield "", HIDDEN, *IDLE
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
        cost = yield from _with_progress(page, asking, 2)
    except Exception as error:
        reported = as_playground_error(error)
        lines = [line for line in reported.text(page.lang).split("\n") if line and line not in shown]
        stopped = "" if reported.problems else rows_view.quiet(page.translate("rows.stopped"))
        yield rows_view.notice(lines) if lines else stopped, HIDDEN, *IDLE
        return
    is_sample = gr.update(visible=cost["counted"] < cost["rows"])
    yield cost_view.draw(page.translate, page.lang, cost), is_sample, *IDLE


def _local_settings(page: Page, fields: list[FieldName], values: Sequence) -> Settings | None:
    """The form's settings, or None if their rows are on a hub, which isn't asked before a click."""
    settings = page.parse_fields(fields, values)
    return None if source.is_remote(settings.data.source) else settings


def _with_progress(page: Page, asking: Iterator, unchanged: int) -> Any:
    """Yield a progress bar and the stop button after `unchanged` other outputs while the planner works.

    Returns its answer.
    """
    while True:
        try:
            step = next(asking)
        except StopIteration as end:
            return end.value
        bar = gr.update(value=rows_view.progress(page.translate, step), visible=True)
        yield *(gr.skip() for _ in range(unchanged)), bar, gr.update(visible=True)
