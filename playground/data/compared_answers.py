"""Two answers of a record and a column that names the better one: read as a chosen and a rejected answer."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from playground.data.names import columns_named, fold, is_named
from playground.data.records import Reading, Record
from playground.data.row import text_of
from playground.errors import Problem

SIDES = (("a", "b"), ("0", "1"), ("1", "2"))  # how the two answers' columns end
NUMBERED = re.compile(r"(.*?)[\W_]*(a|b|0|1|2)$", re.IGNORECASE)
TIES = ("tie", "both", "draw", "same", "equal", "neither", "none", "tiebothbad", "bothbad")


class _Pair(NamedTuple):
    """The columns of the two answers, how their names end, and the columns that name the better one."""

    answers: tuple[str, str]
    sides: tuple[str, str]
    winners: tuple[str, ...]


def conversion(head: list[Record], reading: Reading) -> Callable[[Iterator[Record]], Iterator[Record]] | None:
    """What makes chosen and rejected answers of the records, or None where they aren't two answers and a winner."""
    pair = _find_pair([record.values for record in head])
    if pair is None:
        return None
    first, second = pair.answers
    reading.add_note(Problem("note.compared", {"columns": [first, second], "winner": list(pair.winners)}))
    return lambda records: (_judged(record, pair) for record in records)


def _find_pair(records: list[dict]) -> _Pair | None:
    columns = list(dict.fromkeys(name for record in records for name in record if isinstance(name, str)))
    stems: dict[str, dict[str, str]] = {}
    for column in columns:
        match = NUMBERED.match(column)
        if match and any(is_named(match[1], kind) for kind in ("output", "messages")):
            stems.setdefault(fold(match[1]), {})[match[2].casefold()] = column
    winners = columns_named(columns, "winner")
    for found in stems.values():
        sides = next((sides for sides in SIDES if set(sides) <= set(found)), None)
        if not sides:
            continue
        answers = (found[sides[0]], found[sides[1]])
        for chosen in [(winner,) for winner in winners] + [_one_hot(columns, sides)]:
            pair = _Pair(answers, sides, chosen)
            if chosen and any(_winner(record, pair) is not None for record in records):
                return pair
    return None


def _one_hot(columns: list[str], sides: tuple[str, str]) -> tuple[str, ...]:
    """The two columns of flags for the winner, as in {"winner_model_a": 1, "winner_model_b": 0}."""
    found = [column for side in sides for column in columns if re.fullmatch(rf"winner(model)?{side}", fold(column))]
    return tuple(found) if len(found) == 2 else ()


def _winner(record: dict, pair: _Pair) -> int | None:
    """Which answer is the better one, 0 or 1; None for a tie and for a value that names neither."""
    if len(pair.winners) == 2:
        flags = [text_of(record.get(column)).strip().casefold() in ("1", "1.0", "true") for column in pair.winners]
        return flags.index(True) if sum(flags) == 1 else None
    value = fold(text_of(record.get(pair.winners[0])).strip().removesuffix(".0"))
    if not value or value in TIES:
        return None
    for number, (column, side) in enumerate(zip(pair.answers, pair.sides)):
        stem = fold(column).removesuffix(side)
        if value in (side, f"model{side}", f"assistant{side}", f"{stem}{side}"):
            return number
    return None


def _judged(record: Record, pair: _Pair) -> Record:
    """The record with its answers as "chosen" and "rejected"; unusable without a winner."""
    if record.unusable:
        return record
    winner = _winner(record.values, pair)
    values = {name: value for name, value in record.values.items() if name not in (*pair.answers, *pair.winners)}
    if winner is None:
        return Record(record.number, values | {"chosen": None, "rejected": None}, "undecided")
    better, worse = (record.values.get(pair.answers[side]) for side in (winner, 1 - winner))
    return record._replace(values=values | {"chosen": better, "rejected": worse})
