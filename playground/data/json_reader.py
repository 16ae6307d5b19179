"""Read JSON and JSON Lines files record by record."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from playground.data import json_stream
from playground.data.cells import parse_python, without_trailing_commas
from playground.data.records import Reading, Record
from playground.data.structure import RecordShaper, records_in
from playground.data.text_reader import iter_lines
from playground.errors import Problem

PYTHON = re.compile(r"[\[{][\s\[{]*'")  # how a list or dict begins that Python has written


def read_json(stream: TextIO, reading: Reading) -> Iterator[Record]:
    """Read the records of a JSON file, whichever suffix it has.

    A list, an object that contains a list or a table, a single object, one value a line, or values one after another.
    Commas where JSON allows none are read over, and said. Raises PlaygroundError.
    """
    start = stream.read(json_stream.CHUNK)
    stripped = start.lstrip("\ufeff \t\r\n")
    if json_stream.is_json_lines(start, reading.kind == "jsonl"):
        yield from _records(_read_lines(iter_lines(start, stream), reading), reading)
    elif PYTHON.match(stripped) and (value := parse_python((start + stream.read()).strip("\ufeff \t\r\n"))):
        reading.add_note(Problem("note.python_text"))
        yield from _records(enumerate(value if isinstance(value, (list, tuple)) else [value], 1), reading)
    elif stripped[:1] == "[":
        values = json_stream.iter_list(start, stream, reading.name, lambda: _said_loose(reading))
        yield from _records(enumerate(values, 1), reading)
    else:
        yield from _records(enumerate(_whole(start + stream.read(), reading), 1), reading)


def _whole(text: str, reading: Reading) -> Iterable[Any]:
    """The records of one object, or of objects over several lines each."""
    values = json_stream.iter_values(text, reading.name, lambda: _said_loose(reading))
    first = next(values, None)
    if first is None:
        return
    second = next(values, None)
    if second is not None:
        _said_loose(reading)
        yield from (first, second)
        yield from values
    elif isinstance(first, dict):
        found, ignored = records_in(first, reading.kind == "jsonl")
        if ignored:
            reading.add_note(Problem("note.other_lists", {"lists": ignored}))
        yield from found
    else:
        yield first


def _read_lines(lines: Iterator[str], reading: Reading) -> Iterator[tuple[int, Any]]:
    """(number, value) of every line that isn't blank."""
    number = 0
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        number += 1
        try:
            yield number, _parse_line(text, reading)
        except (ValueError, RecursionError) as error:
            message = getattr(error, "msg", str(error))[: json_stream.MAX_DETAIL]
            reading.add_problem(Problem("error.json", {"file": reading.name, "line": line, "detail": message}))


def _parse_line(text: str, reading: Reading) -> Any:
    """A line's value; a comma behind it or before a closing bracket is read over. Raises ValueError, RecursionError."""
    try:
        return json.loads(text)
    except ValueError:
        loose = without_trailing_commas(text.strip().removesuffix(","))
        try:
            value = json.loads(loose)
        except ValueError:
            value = parse_python(loose) if PYTHON.match(loose) else None
            if value is None:
                raise
            reading.add_note(Problem("note.python_text"))
            return value
    _said_loose(reading)
    return value


def _said_loose(reading: Reading) -> None:
    reading.add_note(Problem("note.loose_json"))


def _records(values: Iterable[tuple[int, Any]], reading: Reading) -> Iterator[Record]:
    """Records of numbered values; a value that can't be one is a broken row."""
    shaper, headers = RecordShaper(), 0
    for number, value in values:
        record = shaper.record(value)
        if record is None:
            reading.add_problem(Problem("error.not_object", {"file": reading.name, "row": number}))
        elif record == {} and value != {}:
            headers += 1
        else:
            yield Record(number - headers, record)
