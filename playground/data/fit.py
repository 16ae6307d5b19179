"""Fit conversations into the maximum length: of a row that is too long, the most recent turns that fit are kept."""

from collections.abc import Sequence

from playground.data.row import Row
from playground.data.template import ROWS_AT_ONCE, Template


def fit_turns(rows: Sequence[Row], template: Template, length: int) -> tuple[list[Row], int]:
    """Leave out the earliest turns of the rows that have more than `length` tokens, as many as needed.

    Returns the rows and the number of those that lost turns. A row that is too long without any earlier turn keeps
    none, so that its question and as much of its answer as possible remain.
    """
    fitted, shortened = list(rows), 0
    places = [place for place, row in enumerate(rows) if row.before]
    for start in range(0, len(places), ROWS_AT_ONCE):
        chunk = places[start : start + ROWS_AT_ONCE]
        for place, (prompt, answer) in zip(chunk, template.tokens([rows[place] for place in chunk])):
            if len(prompt) + len(answer) > length:
                fitted[place] = _with_turns_that_fit(rows[place], template, length)
                shortened += 1
    return fitted, shortened


def _with_turns_that_fit(row: Row, template: Template, length: int) -> Row:
    """The row with the most earlier turns that fit, found by bisection: each turn more is longer."""
    fitting, too_many = 0, len(row.before)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        [(prompt, answer)] = template.tokens([row.with_recent_turns(middle)])
        if len(prompt) + len(answer) > length:
            too_many = middle
        else:
            fitting = middle
    return row.with_recent_turns(fitting)
