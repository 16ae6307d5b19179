"""How much of a data set a preview shows: the beginnings of its texts, and the names that a person can choose from.

A text, a conversation or a list of categories can be as large as the file; a preview goes to the page and a browser.
"""

import json
from collections.abc import Iterable
from dataclasses import fields
from itertools import islice
from typing import Any

from playground.data.row import Row
from playground.errors import problem

MAX_CHARS = 2000  # of a text
MAX_TURNS = 100  # of a conversation
MAX_NAMES, MAX_NAME_CHARS = 500, 200  # categories, sheets and splits to choose from, and of each
MAX_BYTES = 8 * 2**20  # of a whole preview, as JSON


def beginning(row: Row) -> Row:
    """A row with the beginnings of its texts and of its earlier turns."""
    return Row(**{part.name: _short(getattr(row, part.name)) for part in fields(row)})


def shown_names(names: Iterable[str]) -> list[str]:
    """Names to choose from, those that can be shown."""
    return list(islice((name for name in names if 0 < len(name) <= MAX_NAME_CHARS), MAX_NAMES))


def raise_if_large(preview: dict[str, Any], name: str) -> None:
    """Raise PlaygroundError for a preview, in JSON types, that is too large for a page. name: the data set's."""
    size = len(json.dumps(preview))
    if size > MAX_BYTES:
        raise problem("error.preview_large", source=name, size_bytes=size, most_bytes=MAX_BYTES)


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_short, value[:MAX_TURNS]))
    return value[:MAX_CHARS] if isinstance(value, str) else value
