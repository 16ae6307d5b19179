"""Read a data set: bundled, a file, pasted text, or from the hub. Imports no torch.

A source yields records (readers.py, hub_sets.py), records become rows (columns.py), and rows are selected
(selection.py).
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playground import ASSETS, catalog
from playground.data.column_guess import nested_columns
from playground.data.columns import ColumnMapping, column_names_of, resolve_columns
from playground.data.file_kind import ARCHIVE_SUFFIXES, KINDS
from playground.data.folders import read_folder
from playground.data.hub_sets import is_id, read_hub
from playground.data.locations import is_file, is_folder, is_remote, modified, short_name
from playground.data.mapping_text import format_mapping
from playground.data.preview_limits import MAX_CHARS, beginning, shown_names
from playground.data.readers import MAX_FILE_BYTES, read_file
from playground.data.records import Reading, Record
from playground.data.reshape import reshape
from playground.data.row import Row, text_of
from playground.data.selection import MAX_ROWS, RowSelector, SelectedRows
from playground.data.text_kind import kind_of_text, without_fence
from playground.data.uploads import is_upload, path_of
from playground.errors import PlaygroundError, Problem, problem
from playground.i18n import pasted_name
from playground.settings import Data

__all__ = [
    "MAX_FILE_BYTES",
    "Preview",
    "Row",
    "SelectedRows",
    "is_file",
    "is_folder",
    "is_remote",
    "modified",
    "preview",
    "read",
    "save_pasted",
    "short_name",
]

HEAD = 100  # records that columns are guessed from
PROGRESS_EVERY = 100  # records
FILE_SUFFIXES = {*KINDS, *ARCHIVE_SUFFIXES}  # a source with one of these means a file

# A preview searches up to so many records and seconds for rows.
PREVIEW_RECORDS, PREVIEW_SECONDS = 5000, 1.0
# It reads on at least so far in a file, for its categories and its number of records.
PREVIEW_MIN_RECORDS, PREVIEW_MIN_BYTES = 1000, 2**20
PREVIEW_ENCODING_BYTES = 4 * 2**20  # that it detects the encoding from


@dataclass(frozen=True)
class Preview:
    """The beginning of a slice.

    records: as they stand, {column: text} truncated to 2,000 characters, with their `numbers`. rows: the first rows to
    train on, their texts truncated as well. found: the columns. nested: paths of texts within their values. parts:
    sheets or splits to choose from. columns: the mapping, None if it has `problems`, which also name broken rows. size
    (bytes), total (records): None while unknown. dropped: counts by reason among the `looked` records that were read.
    whole: whether these are all there are.
    """

    kind: str
    encoding: str
    encoding_guessed: bool
    size: int | None
    total: int | None
    found: list[str]
    columns: ColumnMapping | None
    numbers: list[int]
    records: list[dict[str, str]]
    rows: list[Row]
    categories: list[str]
    nested: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    where: dict[str, list[int]] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    looked: int = 0
    whole: bool = False


def read(settings: Data, on_progress: Callable = lambda *_: None) -> SelectedRows:
    """Read the chosen slice, its held-out rows apart.

    on_progress(done, total, unit) is called now and then, and may raise to cancel. Raises PlaygroundError: no such
    file, too large, broken lines (with their numbers), unknown columns (naming those that exist), an empty slice,
    nothing left of it (with counts by reason).
    """
    name = short_name(settings.source)
    with _open(settings, 0, on_progress) as reading:
        reshape(reading)
        head = list(itertools.islice(reading.records, HEAD))
        if not head:
            reading.raise_problems()
            raise problem("error.no_rows", source=name)
        selector = _selector(settings, head)
        if reading.kind == "hub" and not settings.end_row and (reading.total or 0) - settings.start_row >= MAX_ROWS:
            raise problem("error.large_hub", source=name, rows=reading.total, most=MAX_ROWS)
        for count, record in enumerate(itertools.chain(head, reading.records), 1):
            selector.add(record)
            if count % PROGRESS_EVERY == 0:
                on_progress(*_progress(reading, settings, count))
            if reading.is_streamed and selector.is_past_slice:
                break  # nothing behind the slice is downloaded
        on_progress(*_progress(reading, settings, count))
    train, held_out = selector.rows()
    records = reading.total if reading.is_streamed and reading.total else selector.records
    own_held_out = selector.records - selector.total
    return SelectedRows(
        train,
        held_out,
        dict(selector.dropped),
        selector.where,
        _notes(reading, selector),
        selector.columns,
        outside=max(0, records - own_held_out - selector.in_slice),
        not_sampled=len(selector.kept) - settings.sample if settings.sample else 0,
        unused_columns=tuple(selector.unused.found),
        records=records,
    )


def preview(settings: Data, rows: int = 20) -> Preview:
    """Read the first `rows` records of the slice, and as far as needed for the first rows to train on.

    Raises PlaygroundError if nothing can be read at all; problems of rows or columns are in the result.
    """
    with _open(settings, PREVIEW_ENCODING_BYTES) as reading:
        reading.is_preview = True
        reshape(reading)
        deadline = time.monotonic() + PREVIEW_SECONDS
        problems: list[Problem] = []
        records = _until_error(reading, problems)
        head = list(itertools.islice(records, HEAD))
        if not head:
            raise PlaygroundError(*problems or problem("error.no_rows", source=short_name(settings.source)).problems)
        selector: RowSelector | None = None
        try:
            selector = _selector(settings, head)
        except PlaygroundError as error:
            problems += error.problems
        shown: list[Record] = []
        looked, whole = 0, False
        for count, record in enumerate(itertools.chain(head, records), 1):
            if selector:
                selector.add(record)
            if count >= settings.start_row:
                shown += [record] if len(shown) < rows else []
                looked += 1
            is_enough = len(shown) >= rows and (selector is None or len(selector.kept) >= rows)
            must_read_on = reading.file and reading.bytes_read < PREVIEW_MIN_BYTES and looked < PREVIEW_MIN_RECORDS
            is_late = shown and time.monotonic() > deadline
            if looked >= PREVIEW_RECORDS or is_late or (is_enough and not must_read_on):
                break
        else:
            whole = True
        problems += [broken for broken in reading.problems if broken not in problems]
        if whole and selector and not selector.kept:
            problems += _problems_of_selection(selector)
        return _make_preview(reading, selector, shown, problems, rows, looked, whole)


def save_pasted(text: str, folder: Path) -> Path:
    """Save a pasted text as a file of the kind that it looks like; the same text gets the same file.

    Raises PlaygroundError: only blanks, too large.
    """
    if not text.strip():
        raise problem("error.pasted_empty")
    text = without_fence(text)
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_FILE_BYTES:
        raise problem("error.pasted_large", size_bytes=len(data), most_bytes=MAX_FILE_BYTES)
    kind = kind_of_text(text)
    path = folder / pasted_name(hashlib.sha256(data).hexdigest(), "txt" if kind == "text" else kind)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _open(settings: Data, preview_bytes: int, on_progress: Callable = lambda *_: None) -> Reading:
    source = settings.source
    entry = catalog.data_sets().get(source)
    if entry and "file" in entry:
        reading = read_file(ASSETS / "data" / entry["file"])
        reading.bundled = True
        return reading
    if entry:
        return read_hub(entry["hub"])
    if is_file(source):
        return read_file(path_of(source), settings.encoding, preview_bytes, on_progress, settings.part)
    if is_folder(source):
        return read_folder(path_of(source), settings.part)
    if (
        is_upload(source)
        or Path(source).is_absolute()
        or not is_id(source)
        or Path(source).suffix.lower() in FILE_SUFFIXES
    ):
        raise problem("error.no_file", source=short_name(source))
    return read_hub(source)


def _selector(settings: Data, head: list[Record]) -> RowSelector:
    values = [record.values for record in head]
    return RowSelector(settings, resolve_columns(settings.columns, values, short_name(settings.source)))


def _progress(reading: Reading, settings: Data, count: int) -> tuple[int, int, str]:
    """(done, total, unit): bytes of a file, else records."""
    if reading.file:
        return reading.bytes_read, reading.size, "bytes"
    total = max(count, reading.total or settings.end_row)
    return count, min(total, settings.end_row or total) if reading.is_streamed else total, "rows"


def _notes(reading: Reading, selector: RowSelector | None) -> list[Problem]:
    """What was guessed, and oddities of the rows."""
    if selector is None:
        return reading.notes
    columns = selector.columns
    guessed = {field: name for field, name in columns.names.items() if field in columns.guessed and field != name}
    notes = [Problem("note.columns_guessed", {"columns": format_mapping(guessed)})] if guessed else []
    notes += columns.notes()
    if not reading.bundled:  # whose held-out rows and unused columns are no news
        notes += selector.split.notes() + selector.unused.notes()
    return reading.notes + notes + selector.notes()


def _until_error(reading: Reading, problems: list[Problem]) -> Iterator[Record]:
    """The records up to the first error that ends reading, which is added to `problems`."""
    try:
        yield from reading.records
    except PlaygroundError as error:
        problems += error.problems


def _problems_of_selection(selector: RowSelector) -> list[Problem]:
    try:
        selector.rows()
    except PlaygroundError as error:
        return list(error.problems)
    return []


def _make_preview(
    reading: Reading,
    selector: RowSelector | None,
    shown: list[Record],
    problems: list[Problem],
    rows: int,
    looked: int,
    whole: bool,
) -> Preview:
    total = reading.total
    if total is None and whole and selector:
        total = selector.records
    values = [record.values for record in shown]
    return Preview(
        kind=reading.kind,
        encoding=reading.encoding.name if reading.encoding else "",
        encoding_guessed=bool(reading.encoding and reading.encoding.guessed),
        size=reading.size or None,
        total=total,
        found=column_names_of(values),
        columns=selector.columns if selector else None,
        numbers=[record.number for record in shown],
        records=[{name: text_of(value)[:MAX_CHARS] for name, value in record.items()} for record in values],
        rows=[beginning(row) for row in selector.kept[:rows]] if selector else [],
        categories=shown_names(name for name, _ in selector.categories.most_common()) if selector else [],
        nested=list(nested_columns(values)),
        parts=shown_names(reading.parts),
        dropped=dict(selector.dropped) if selector else {},
        where=dict(selector.where) if selector else {},
        notes=_notes(reading, selector),
        problems=problems,
        looked=looked,
        whole=whole,
    )
