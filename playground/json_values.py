"""JSON values that every reader takes: text without halves of characters, numbers within 64 bits, a bounded depth.

Python's json reads and writes more than that: lone surrogates, NaN, integers of any size. UTF-8 files and pipes refuse
the first, browsers and orjson (which encodes a server function's answer in Gradio) refuse all of them.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MAX_INT = 2**63  # the first integer that neither torch nor orjson takes
MAX_DEPTH = 100  # of lists and objects in each other
MAX_CHARACTERS = 1_000_000  # of a small file
HALF = re.compile("[\ud800-\udfff]")
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def valid_text(text: str) -> str:
    """A text that UTF-8 can hold: two halves of a character become that character, a lone half becomes U+FFFD."""
    if not HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def without_controls(text: str) -> str:
    """A text without control characters and halves of characters, which no file can hold; its line breaks stay."""
    return CONTROLS.sub(" ", text)


def one_line(text: str) -> str:
    """A text in one line, without control characters."""
    return re.sub(r"\s+", " ", without_controls(text)).strip()


def valid_value(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A JSON value with valid text; None for what isn't finite, a float for an integer beyond 64 bits.

    What is nested more than `depth` deep becomes None too.
    """
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if -MAX_INT <= value < MAX_INT else _as_float(value)
    if depth <= 0:
        return None
    if isinstance(value, (list, tuple)):
        return [valid_value(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {valid_text(str(name)): valid_value(item, depth - 1) for name, item in value.items()}
    return valid_text(str(value))


def is_too_deep(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether lists and objects are nested more than `depth` deep in each other."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, (list, dict))
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (list, dict))
        ]
        if not level:
            return False
    return True


def with_valid_text(value: Any) -> Any:
    """A JSON value with valid text in all its strings, at any place; its numbers as they are."""
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, (list, tuple)):
        return [with_valid_text(item) for item in value]
    if isinstance(value, dict):
        return {with_valid_text(name): with_valid_text(item) for name, item in value.items()}
    return value


def read_small_text(path: Path, most: int = MAX_CHARACTERS, errors: str = "strict") -> str:
    """A text file of at most `most` characters. errors: as of `open`.

    Raises OSError or ValueError, also for what is no file: a pipe would be waited for, a device has no end.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    with open(path, encoding="utf-8", errors=errors) as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise ValueError(f"more than {most:,} characters")
    return text


def read_small_json(path: Path, most: int = MAX_CHARACTERS) -> Any:
    """The value of a small JSON file. Raises OSError or ValueError, also for one that is nested too deep."""
    return parse_json(read_small_text(path, most))


def read_json_lines(path: Path, most: int) -> list[Any]:
    """The values of a JSON Lines file of at most `most` characters, without the lines that can't be read.

    Raises OSError or ValueError as `read_small_text`.
    """
    values = []
    for line in read_small_text(path, most, "replace").split("\n"):
        with contextlib.suppress(ValueError):
            values.append(parse_json(line))
    return values


def parse_json(text: str) -> Any:
    """A JSON value. Raises ValueError, also for one that is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def lines_within(stream: IO[str], most: int) -> Iterator[str]:
    """A stream's lines. Raises ValueError for one of more than `most` characters, before the rest of it is read."""
    while line := stream.readline(most + 1):
        if len(line) > most:
            raise ValueError(f"a line of more than {most:,} characters")
        yield line


def to_line(value: Any) -> str:
    """A value as one line of JSON with its end, that can be written as UTF-8.

    Raises TypeError, ValueError or RecursionError for what isn't JSON.
    """
    return valid_text(json.dumps(value, ensure_ascii=False)) + "\n"


def _as_float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None
