"""Listeners of the Data tab: whatever changes, its rows, counts, tokens and costs follow (data_answers.py)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gradio as gr

from playground.catalog import cache_folder
from playground.data import source
from playground.data.mapping_text import FIELDS, format_mapping, parse_mapping
from playground.errors import PlaygroundError
from playground.ui import data_answers
from playground.ui.access import was_uploaded
from playground.ui.data_answers import ALL_CHOICES, FORMAT_FIELDS, ROW, SELECTION, SELECTION_FIELDS
from playground.ui.data_tab import MAX_CUTOFF, MIN_CUTOFF, DataTab
from playground.ui.page import EACH_CLICK, LAST_INPUT, LATEST_ONLY, UNQUEUED, Page, Update, message
from playground.ui.source_names import source_update

SAMPLE_ROWS = 2000  # whose tokens are counted for the cost; all rows only on a click
# Gives a question its moment in the page as its first input: questions of several listeners can be answered in another
# order than they were asked in.
STAMPED: dict[str, Any] = {"js": "(...values) => [performance.now(), ...values.slice(1)]"}
CHANGED, OPENED = ({**kind, **STAMPED} for kind in (LATEST_ONLY, UNQUEUED))
CHOICES_AFFECTED = {
    ("source", "encoding"): ALL_CHOICES,
    ("part",): ("columns", "category"),
    ("columns",): ("category",),
}


def connect(page: Page, tab: DataTab, header: gr.Tab) -> None:
    """Attach the tab's listeners, once all fields of the page exist.

    header: the tab itself.
    """
    _connect_analysis(page, tab, header)
    _connect_row_number(tab)
    _connect_cutoff(page, tab)
    connect_upload(page, tab, tab.inputs.upload)
    _connect_pasted(page, tab)
    _connect_columns(page, tab)


def connect_upload(page: Page, tab: DataTab, button: gr.UploadButton) -> Any:
    """Make what is uploaded with a button the data set, and look at it at once. Returns the event."""

    def use(path: str) -> tuple:
        return source_update(page, page.keep_upload(path)), 1, True

    return button.upload(use, button, [tab.inputs.source, tab.token_view.row_number, tab.opened], **UNQUEUED)


class _Steps:
    """The steps from the form to what the tab shows, each as a handler with its inputs and outputs."""

    def __init__(self, page: Page, tab: DataTab) -> None:
        self.page, self.tab = page, tab
        self.readable = gr.State(False)  # whether the rows can be read; also False before the tab was opened
        shown = gr.State([])  # lines of an error that stands where the tokens would
        # What was asked last, as (moment, values): "selection" of the preview, "row" of the tokens, "cost".
        question = [gr.Number(visible=False), gr.State({})]
        selection, row_fields = ([page.fields[name] for name in names] for names in (SELECTION, ROW))
        rows, tokens, costs = tab.rows, tab.token_view, tab.cost_view
        busy = [rows.busy, rows.stop]
        self.selection = [*question, tab.opened, *selection]
        self.previewed = [rows.about, rows.table, rows.raw_table, tab.category, *tab.columns.values()]
        self.previewed += [
            page.fields["data", "part"],
            tab.inputs.fetch,
            rows.message,
            self.readable,
            rows.counts,
            tokens.tokens,
            costs.cost,
        ]
        self.counting = (
            self._count,
            [*question, self.readable, *selection],
            [rows.counts, rows.message, self.readable, *busy],
        )
        inputs = [*question, self.readable, tokens.row_number, *row_fields]
        self.drawing = self._draw, inputs, [tokens.tokens, shown]
        inputs = [*question, self.readable, shown, costs.cutoff, costs.card, *page.inputs()]
        outputs = [costs.cost, costs.count_all, *busy]
        self.costing, self.costing_all = (self._cost(SAMPLE_ROWS), inputs, outputs), (self._cost(0), inputs, outputs)

    def previewing(self, choices: tuple[str, ...], fetch: bool = False) -> tuple:
        """The step that reads the beginning of the data set; choices and fetch as in data_answers.preview."""

        def preview(moment: float | None, latest: dict, opened: bool, *values: Any) -> tuple:
            if not _note(latest, "selection", moment, values):
                return tuple(gr.skip() for _ in self.previewed)
            *updates, is_readable = data_answers.preview(self.page, values, choices, fetch)
            drawn = gr.skip() if is_readable else ""  # what was drawn stays until the next is, unless it has no rows
            return *updates, opened and is_readable, drawn, drawn, drawn

        return preview, self.selection, self.previewed

    def _count(self, moment: float | None, latest: dict, readable: bool, *values: Any) -> Iterator[tuple]:
        answers = data_answers.count_rows(self.page, readable, values)
        yield from _while_latest(latest, {"selection": values}, answers, 5)

    def _draw(
        self, moment: float | None, latest: dict, readable: bool, number: float | None, *values: Any
    ) -> Iterator[tuple]:
        asked = (number, values)
        if not _note(latest, "row", moment, asked):
            return
        answers = [data_answers.draw_tokens(self.page, readable, number, values)]
        yield from _while_latest(latest, {"selection": values[: len(SELECTION)], "row": asked}, answers, 2)

    def _cost(self, sample: int) -> Callable:
        def cost(
            moment: float | None,
            latest: dict,
            readable: bool,
            shown: list[str],
            cutoff: float,
            card: str,
            *values: Any,
        ) -> Iterator[tuple]:
            by_name = dict(zip(self.page.fields, values))
            selection = tuple(by_name[name] for name in SELECTION)
            asked = (cutoff, card, values)
            if not _note(latest, "cost", moment, asked):
                return
            answers = data_answers.cutoff_cost(self.page, readable, shown, cutoff, card, values, sample)
            yield from _while_latest(latest, {"selection": selection, "cost": asked}, answers, 4)

        return cost


def _note(latest: dict, name: str, moment: float | None, asked: tuple) -> bool:
    """Note what is asked at a moment (ms of the page's clock); False where a later question came before it."""
    last, _ = latest.get(name, (0.0, None))
    if (moment or 0.0) < last:
        return False
    latest[name] = (moment or 0.0, asked)
    return True


def _while_latest(latest: dict, asked: dict, answers: Iterable[tuple], outputs: int) -> Iterator[tuple]:
    """The answers, as long as nothing was asked later: a later answer must not be replaced by them.

    Several listeners ask the same, so that an earlier question can be answered last. latest, asked: by what is asked.
    """
    for answer in answers:
        is_latest = all(latest.get(name, (0.0, values))[1] == values for name, values in asked.items())
        yield answer if is_latest else tuple(gr.skip() for _ in range(outputs))


def _connect_analysis(page: Page, tab: DataTab, header: gr.Tab) -> None:
    """Keep the preview, the counts, the tokens and the cost up to date with the form."""
    steps, costs = _Steps(page, tab), tab.cost_view

    def analyse(event: Any) -> None:
        """Count, draw and cost after the preview: a problem of the rows is known by then."""
        for step in (steps.counting, steps.drawing, steps.costing):
            event = event.then(*step, **CHANGED)

    def changes(names: Sequence[str]) -> list:
        return [page.fields["data", name].change for name in names]

    others = [name for name in SELECTION_FIELDS if not any(name in names for names in CHOICES_AFFECTED)]
    for names, choices in [*CHOICES_AFFECTED.items(), (others, ())]:
        analyse(gr.on(changes(names), *steps.previewing(choices), **CHANGED, queue=False))
    opened = header.select(lambda: True, None, tab.opened, **UNQUEUED)
    analyse(opened.then(*steps.previewing(ALL_CHOICES), **OPENED))
    gr.on(tab.token_view.row_number.change, *steps.drawing, **CHANGED)
    redraw = [*changes(FORMAT_FIELDS), costs.cutoff.release, page.fields["train", "max_seq_length"].change]
    gr.on(redraw, *steps.drawing, **CHANGED).then(*steps.costing, **CHANGED)
    gr.on([costs.cutoff.change, costs.card.change], *steps.costing, **CHANGED)
    costs.count_all.click(*steps.costing_all, **CHANGED)
    tab.inputs.fetch.click(*steps.previewing(ALL_CHOICES, fetch=True), **CHANGED)
    tab.rows.stop.click(lambda: page.planner.stop("count_rows"), **UNQUEUED)


def _connect_row_number(tab: DataTab) -> None:
    """A row that is picked in the table is drawn token by token."""

    def pick(event: gr.EventData) -> Update:
        row = event._data.get("row") if isinstance(event._data, dict) else None
        return row if isinstance(row, int) and row > 0 else gr.skip()

    tab.rows.table.select(pick, None, tab.token_view.row_number, **EACH_CLICK)


def _connect_cutoff(page: Page, tab: DataTab) -> None:
    """The cutoff's slider and the form's length follow each other, as far as the slider reaches."""
    cutoff, length = tab.cost_view.cutoff, page.fields["train", "max_seq_length"]

    def follow(value: float | None) -> Any:
        return gr.update(value=value) if value and MIN_CUTOFF <= value <= MAX_CUTOFF else gr.skip()

    cutoff.release(lambda value: value, cutoff, length, **LAST_INPUT)
    length.change(follow, length, cutoff, **UNQUEUED)


def _connect_pasted(page: Page, tab: DataTab) -> None:
    """Pasted text, the name under which the field shows a file, and the field of a custom prompt format."""
    inputs, prompt_format = tab.inputs, page.fields["data", "prompt_format"]

    def paste(text: str) -> tuple:
        try:
            path = str(source.save_pasted(text or "", cache_folder() / "pasted" / page.visitor))
            return source_update(page, page.keep_upload(path)), message()
        except Exception as error:
            return gr.skip(), page.error_message(error)

    def rename(chosen: str | None) -> Update:
        return source_update(page, chosen) if chosen and was_uploaded(chosen) else gr.skip()

    inputs.use_text.click(paste, inputs.text, [inputs.source, tab.rows.message], **LAST_INPUT)
    inputs.source.change(rename, inputs.source, inputs.source, **UNQUEUED)  # also when another tab writes it
    prompt_format.change(lambda name: gr.update(visible=name == "custom"), prompt_format, tab.custom_format, **UNQUEUED)


def _connect_columns(page: Page, tab: DataTab) -> None:
    """The choices of columns and the written mapping follow each other."""
    mapping, choices = page.fields["data", "columns"], list(tab.columns.values())

    def write(*names: str) -> str:
        return format_mapping({part: name for part, name in zip(FIELDS, names) if name})

    for choice in choices:
        choice.input(write, choices, mapping, **LAST_INPUT)
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
