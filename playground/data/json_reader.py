"""Read JSON and JSON Lines files record by record."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from playground.data import json_stream
from playground.data.records import Reading, Record
from playground.data.text_reader import iter_lines
from playground.errors import Problem


def read_json(stream: TextIO, reading: Reading) -> Iterator[Record]:
    """Read the records of a JSON file, whichever suffix it has.

    A list of objects, an object that contains such a list, a single object, or one object a line. Raises
    PlaygroundError.
    """
    start = stream.read(json_stream.CHUNK)
    stripped = start.lstrip("\ufeff \t\r\n")
    first_char, is_indented = stripped[:1], stripped.split("\n", 1)[0].strip() == "{"
    is_lines = reading.kind == "jsonl" and first_char != "[" and not is_indented
    if is_lines or (first_char == "{" and json_stream.is_json_lines(start)):
        yield from _read_lines(iter_lines(start, stream), reading)
    elif first_char == "[":
        yield from _objects(json_stream.iter_list(start, stream, reading.name), reading)
    else:
        values, ignored = json_stream.parse_object(start + stream.read(), reading.name)
        if ignored:
            reading.notes.append(Problem("note.other_lists", {"lists": ignored}))
        yield from _objects(values, reading)


def _read_lines(lines: Iterator[str], reading: Reading) -> Iterator[Record]:
    number = 0
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        number += 1
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = getattr(error, "msg", str(error))[: json_stream.MAX_DETAIL]
            reading.add_problem(Problem("error.json", {"file": reading.name, "line": line, "detail": message}))
            continue
        yield from _object(value, number, reading)


def _objects(values: Iterable[Any], reading: Reading) -> Iterator[Record]:
    for number, value in enumerate(values, 1):
        yield from _object(value, number, reading)


def _object(value: Any, number: int, reading: Reading) -> Iterator[Record]:
    if isinstance(value, dict):
        yield Record(number, value)
    else:
        reading.add_problem(Problem("error.not_object", {"file": reading.name, "row": number}))
