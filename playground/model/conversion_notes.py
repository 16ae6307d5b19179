"""Notes of a conversion, kept in the folder that it made, so that each load of the folder shows them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playground.errors import Problem
from playground.json_values import read_small_json
from playground.model.weights import SHOWN

FILE = "conversion_notes.json"
NUMBERS = {"note.unused_tensors": ("count",), "note.adapter_unused": ("unused", "count")}  # beside `path` and `names`


def unused_tensors(source: str, names: Sequence[str]) -> list[Problem]:
    """The note on tensors of a file that the network has no place for, if any. source: the file's name."""
    if not names:
        return []
    return [Problem("note.unused_tensors", {"path": source, "count": len(names), "names": sorted(names)[:SHOWN]})]


def save_notes(folder: Path, notes: Sequence[Problem]) -> None:
    """Keep notes with what was made."""
    if notes:
        (folder / FILE).write_text(json.dumps({note.key: note.values for note in notes}), encoding="utf-8")


def read_notes(folder: Path) -> list[dict[str, Any]]:
    """`note` events of a conversion; none for a folder that isn't one's, or whose file holds something else."""
    notes = []
    try:
        stored = read_small_json(folder / FILE)
        for key in [key for key in NUMBERS if key in stored]:
            names = [str(name) for name in stored[key]["names"]][:SHOWN]
            values: dict[str, Any] = {"path": str(stored[key]["path"]), "names": names}
            values |= {name: int(stored[key][name]) for name in NUMBERS[key]}
            notes.append({"kind": "note", "key": key, "values": values})
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return []
    return notes
