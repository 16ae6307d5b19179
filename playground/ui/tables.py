"""HTML tables of texts, counts with separators, durations. Styles: assets/figures.css; all text is escaped."""

import math
from collections.abc import Callable, Sequence
from html import escape


def table(head: Sequence[str], rows: Sequence[Sequence[str]], look: str = "wide") -> str:
    """A table of texts whose first column names the row. Text after a line break in a cell is written small.

    A row of a single text is a heading for the rows after it. look: on a narrow screen "wide" scrolls sideways,
    "stacked" puts the first column on a separate line.
    """
    top = "".join(f"<th scope=col>{escape(text)}</th>" for text in head)
    body = "".join(_row(row, len(head)) for row in rows)
    return f'<div class="plan {look}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def number(count: int) -> str:
    """A count with thousands separators."""
    return f"{count:,}"


def duration(seconds: float) -> str:
    """Seconds as m:ss, from an hour on as h:mm:ss; at least one second."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def significant(value: float) -> str:
    """A number with two significant digits, without an exponent: 0.042, 3.1, 420."""
    digits = 1 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"


def step_time(translate: Callable, seconds: float) -> str:
    """The time of a step: seconds with two significant digits, from a minute on minutes and seconds."""
    return duration(seconds) if seconds >= 60 else translate("accuracy.seconds", seconds=significant(seconds))


def _row(cells: Sequence[str], width: int) -> str:
    if len(cells) == 1:
        return f'<tr class="group"><th scope=rowgroup colspan={width}>{escape(cells[0])}</th></tr>'
    first, *rest = cells
    return f"<tr><th scope=row>{_cell(first)}</th>{''.join(f'<td>{_cell(text)}</td>' for text in rest)}</tr>"


def _cell(text: str) -> str:
    main, _, small = text.partition("\n")
    return f"{escape(main)}<small>{escape(small)}</small>" if small else escape(main)
