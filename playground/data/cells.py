"""Values written as text in a table's cell: JSON, or Python as pandas and NumPy write it."""

import ast
import json
import re
from typing import Any

MAX_PYTHON_CHARS = 200_000  # a text of 1 MB makes a syntax tree of about 100 MB
MAX_DEPTH = 60  # brackets within brackets; Python's parser gives up at 200
STARTS = ("[", "{", "a", " ", "\n", "\r", "\t")  # characters that a list, an object, an array or a blank begins with
STRING = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
PARTS = re.compile(rf"{STRING}|\barray\(|,\s*dtype=\w+\)|(?<=[\]}}])\s+(?=[\[{{])|\)", re.DOTALL)
TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])', re.DOTALL)


def parse_cell(value: Any) -> Any:
    """The list or object that a text holds as JSON or Python; any other value unchanged."""
    if not isinstance(value, str) or value[:1] not in STARTS:
        return value
    text = value.strip()
    if text[:1] not in ("[", "{") or text[-1:] not in ("]", "}"):
        if not text.startswith("array("):
            return value
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = parse_python(text)
    return parsed if isinstance(parsed, (list, dict)) else value


def parse_python(text: str) -> Any:
    """The value of a Python literal, also of a NumPy array of them, or None: not one, too long, nested too deeply."""
    if len(text) > MAX_PYTHON_CHARS or _depth(text) > MAX_DEPTH:
        return None
    for attempt in (text, _without_arrays(text)):
        try:
            return ast.literal_eval(attempt)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def without_trailing_commas(text: str) -> str:
    """JSON without the commas that stand before a closing bracket, which JSON doesn't allow."""
    return TRAILING_COMMA.sub(lambda part: "" if part.group() == "," else part.group(), text)


def _without_arrays(text: str) -> str:
    """Lists in place of NumPy's `array(…, dtype=…)`, whose elements are separated by a line end alone."""

    def replaced(part: re.Match) -> str:
        found = part.group()
        if found[0] in "'\"":
            return found
        return ", " if found.isspace() else ""

    return PARTS.sub(replaced, text)


def _depth(text: str) -> int:
    """How deeply brackets are nested, those within strings included."""
    depth = deepest = 0
    for char in re.findall(r"[\[\](){}]", text):
        depth += 1 if char in "[({" else -1
        deepest = max(deepest, depth)
    return deepest
