"""The name and the note that a person gave a run: `<run>/label.json`, apart from its events and settings.

A separate file, so that a run can be renamed while another program writes to it, and so that a copied or recorded run
is still the same run. A file that can't be read counts as none.
"""

import contextlib
import itertools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from playground.errors import problem
from playground.json_values import one_line, without_controls
from playground.runs.store import find

FILE = "label.json"
MAX_NAME, MAX_NOTE = 1_000, 20_000  # characters
MAX_BYTES = 200_000  # of a file that is read
_numbers = itertools.count()


@dataclass(frozen=True)
class Label:
    """A person's own name for a run, and a note on it; "" where there is none."""

    name: str = ""
    note: str = ""


def read_label(folder: Path | str) -> Label:
    """The label of a run's folder; an empty one where the file is missing or damaged."""
    try:
        with open(os.path.join(folder, FILE), "rb") as file:
            values = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return Label()
    if not isinstance(values, dict):
        return Label()
    texts = (values.get(name, "") for name in ("name", "note"))
    name, note = (text if isinstance(text, str) else "" for text in texts)
    return Label(one_line(name), without_controls(note))


def write_label(root: Path, run_id: str | None, name: str, note: str) -> Label:
    """Name a run and note something on it; two empty texts remove the label. Returns what was kept.

    Whatever can be printed is kept whole; a name's line breaks become blanks. Raises PlaygroundError for an unknown run
    or a text that is too long, OSError where it can't be written: the label before stays.
    """
    label, folder = Label(one_line(name), without_controls(note).strip()), find(root, run_id).folder
    if len(label.name) > MAX_NAME or len(label.note) > MAX_NOTE:
        lengths = len(label.name), len(label.note)
        raise problem("error.label_long", name=lengths[0], note=lengths[1], most_name=MAX_NAME, most_note=MAX_NOTE)
    partial = folder / f"{FILE}.{os.getpid()}-{next(_numbers)}.partial"  # of this program and this call alone
    try:
        if label == Label():
            (folder / FILE).unlink(missing_ok=True)
        else:
            partial.write_text(json.dumps(asdict(label), ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(partial, folder / FILE)
    except FileNotFoundError as error:  # deleted in this moment
        raise problem("error.no_run", run=folder.name) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return label
