"""Known names of columns, roles, verdicts and splits, whatever their case, width, blanks and punctuation.

The names themselves, in English and Japanese, are in `assets/catalog/`: `columns.json`, `roles.json`, `verdicts.json`
and `splits.json`.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from playground import catalog

MAX_NAME = 100  # characters; a longer text is no name
EDGES = re.compile(r"^[\W_]+|[\W_]+$")
SEPARATORS = re.compile(r"[\s_\-]+")


@lru_cache(4096)
def fold(name: str) -> str:
    """A name without differences of case, width, blanks, underscores and surrounding punctuation (NFKC, casefold)."""
    folded = unicodedata.normalize("NFKC", name[:MAX_NAME]).casefold()
    return SEPARATORS.sub("", EDGES.sub("", folded)) or folded.strip()


@cache
def _folded(kind: str) -> dict[str, dict[str, int]]:
    """{id: {folded name: its place}} of one of the catalog's lists."""
    entries = getattr(catalog, kind)()
    return {
        id: {fold(name): place for place, name in reversed(list(enumerate(entry["names"])))}
        for id, entry in entries.items()
    }


def is_named(name: Any, kind: str) -> bool:
    """Whether a column or key has one of the usual names of that kind, an id of `assets/catalog/columns.json`."""
    return isinstance(name, str) and fold(name) in _folded("column_names")[kind]


def columns_named(columns: Iterable, kind: str) -> list[str]:
    """Those of the columns with a usual name of that kind, the most usual first."""
    return list(_columns_named(tuple(columns), kind))


@lru_cache(4096)
def _columns_named(columns: tuple, kind: str) -> tuple[str, ...]:
    places = _folded("column_names")[kind]
    found = (column for column in columns if isinstance(column, str) and fold(column) in places)
    return tuple(sorted(found, key=lambda column: places[fold(column)]))


def is_known(name: str) -> bool:
    """Whether a name is usual for any column of rows."""
    kinds = ("messages", "instruction", "input", "output", "text", "system", "chosen", "rejected", "history")
    return any(is_named(name, kind) for kind in kinds)


def role_named(name: Any) -> str:
    """The role with that name: "system", "user", "assistant", "call", "result", or "" if it is unknown."""
    return _role_named(name[:MAX_NAME]) if isinstance(name, str) else ""


@lru_cache(4096)
def _role_named(name: str) -> str:
    folded = fold(name)
    return next((role for role, names in _folded("role_names").items() if folded in names), "")


def split_named(value: Any) -> str:
    """The part of a data set that a value names: "train", "held_out" (as test, validation), or "" for neither."""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        return ""
    folded = fold(value)
    return next((part for part, names in _folded("split_values").items() if folded in names), "")


def verdict(value: Any) -> bool | None:
    """What a value says of an answer: good (True) or bad (False); None if it says neither."""
    folded = fold(value) if isinstance(value, str) and len(value) <= MAX_NAME else str(value).casefold()
    sign = unicodedata.normalize("NFKC", value).strip().casefold() if isinstance(value, str) else folded
    verdicts = {id: entry["names"] for id, entry in catalog.verdicts().items()}
    for id, names in verdicts.items():
        if sign in names or (folded in _folded("verdicts")[id] and not sign.startswith("-")):
            return id == "true"
    return None
