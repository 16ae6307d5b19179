"""Rows of a data set: bundled, a file, pasted, or a hub's. No torch in here.

A set becomes records (readers.py, hub_sets.py), records become rows (columns.py), and of these a slice is taken (slices.py).
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playground import ASSETS, catalog
from playground.data.columns import ColumnMapping, column_names_of, format_mapping, resolve_columns
from playground.data.hub_sets import is_id, read_hub
from playground.data.readers import KINDS, MOST_BYTES, PACKED_ENDS, Reading, Record, guess_kind, read_file
from playground.data.row import Row, text_of
from playground.data.selection import MOST_ROWS, RowSelector, SelectedRows
from playground.errors import PlaygroundError, Problem, problem
from playground.settings import Data

__all__ = ["MOST_BYTES", "Preview", "Row", "SelectedRows", "is_file", "preview", "read", "save_pasted"]

HEAD = 100  # records that columns are guessed from
EVERY = 100  # records between two words on the progress
LOOKED, PATIENCE = 5000, 1.0  # records and seconds that a preview looks through for rows
AHEAD, AHEAD_BYTES = 1000, 2**20  # and that it looks at anyway in a file, for categories and how many there are
LOOKED_BYTES = 4 * 2**20  # bytes that a preview finds out the encoding from
CUT = 2000  # characters of a text in a preview
ENDS = {*KINDS, *PACKED_ENDS}  # a source with one of these is meant as a file


@dataclass(frozen=True)
class Preview:
    """The beginning of a slice: `records` as they stand ({column: text}, cut to 2,000 characters), with their `numbers`, and the `rows` they'd be taught as.

    `columns`: which is what, None where that is told in `problems`, which also name broken rows; `size` in bytes and `total` records are
    None where they aren't known yet. `dropped`: by reason, of the `looked` records that were looked at; `whole`: these were all there are.
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
    dropped: dict[str, int] = field(default_factory=dict)
    where: dict[str, list[int]] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    looked: int = 0
    whole: bool = False


def read(settings: Data, on_progress: Callable = lambda *_: None) -> SelectedRows:
    """The chosen slice, its held-out rows kept apart.

    Raises PlaygroundError: no such file, too large, broken lines (with their numbers), no known columns (with those found), an
    empty slice, nothing left of it (with counts by reason). `tell(done, total, unit)` hears of the progress, and may raise to stop it.
    """
    name = short_name(settings.source)
    with _open(settings, 0, on_progress) as reading:
        head, records = _head(reading.records)
        if not head:
            reading.end()
            raise problem("error.no_rows", source=name)
        slicer = RowSelector(settings, resolve_columns(settings.columns, [record.values for record in head], name))
        if reading.kind == "hub" and not settings.end_row and (reading.total or 0) - settings.start_row >= MOST_ROWS:
            raise problem("error.large_hub", source=name, rows=reading.total, most=MOST_ROWS)
        for count, record in enumerate(records, 1):
            slicer.add(record)
            if count % EVERY == 0:
                on_progress(*_progress(reading, settings, count))
            if reading.kind == "hub" and slicer.past:
                break  # what isn't asked for isn't downloaded
        on_progress(*_progress(reading, settings, count))
    train, held_out = slicer.rows()
    known = reading.total if reading.kind == "hub" and reading.total else slicer.total
    return SelectedRows(
        train, held_out, known, dict(slicer.dropped), slicer.where, _notes(reading, slicer), slicer.columns
    )


def preview(settings: Data, rows: int = 20) -> Preview:
    """The first `rows` records of the slice, and the first rows that would be taught. Reads no more than it needs.

    Raises PlaygroundError where nothing can be read at all; what is wrong with rows or columns is told in the result.
    """
    name = short_name(settings.source)
    with _open(settings, LOOKED_BYTES) as reading:
        shown, slicer, problems, whole, looked, until = [], None, [], False, 0, time.monotonic() + PATIENCE
        records = _until_broken(reading, problems)
        head = list(itertools.islice(records, HEAD))
        if not head:
            raise PlaygroundError(*problems or problem("error.no_rows", source=name).problems)
        try:
            slicer = RowSelector(settings, resolve_columns(settings.columns, [record.values for record in head], name))
        except PlaygroundError as error:
            problems += error.problems
        for place, record in enumerate(itertools.chain(head, records), 1):
            if slicer:
                slicer.add(record)
            if place >= settings.start_row:
                shown += [record] if len(shown) < rows else []
                looked += 1
            ahead = reading.raw and reading.done < AHEAD_BYTES and looked < AHEAD
            if looked >= LOOKED or (shown and time.monotonic() > until) or (_enough(slicer, shown, rows) and not ahead):
                break
        else:
            whole = True
        problems += [p for p in reading.problems if p not in problems]
        if whole and slicer and not slicer.kept:
            problems += _why_nothing(slicer)
        return _previewed(reading, slicer, shown, problems, rows, looked, whole)


def save_pasted(text: str, folder: Path) -> Path:
    """A pasted text as a file in that folder, of the kind that it looks like; the same text is the same file.

    Raises PlaygroundError: nothing but blanks, too large.
    """
    data = text.encode("utf-8", "replace")
    if not text.strip():
        raise problem("error.pasted_empty")
    if len(data) > MOST_BYTES:
        raise problem("error.pasted_large", size_bytes=len(data), most_bytes=MOST_BYTES)
    kind = guess_kind(text)
    path = folder / f"pasted-{hashlib.sha256(data).hexdigest()[:12]}.{'txt' if kind == 'text' else kind}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def is_file(source: str) -> bool:
    """Whether a source names a file on this machine."""
    try:
        return Path(source).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL in it, no such home
        return False


def is_remote(source: str) -> bool:
    """Whether a hub has to be asked for a source."""
    entry = catalog.data_sets().get(source)
    return "hub" in entry if entry else is_id(source) and not is_file(source)


def short_name(source: str) -> str:
    """What a source is called: a file by its name alone."""
    return Path(source).name if "\\" in source or source.startswith(("/", ".", "~")) else source


def _open(settings: Data, look: int, on_progress: Callable = lambda *_: None) -> Reading:
    source = settings.source
    entry = catalog.data_sets().get(source)
    if entry and "file" in entry:
        return read_file(ASSETS / "data" / entry["file"])
    if entry:
        return read_hub(entry["hub"])
    if is_file(source):
        return read_file(Path(source).expanduser(), settings.encoding, look, on_progress)
    if Path(source).is_absolute() or not is_id(source) or Path(source).suffix.lower() in ENDS:
        raise problem("error.no_file", source=short_name(source))
    return read_hub(source)


def _head(records: Iterator[Record]) -> tuple[list[Record], Iterator[Record]]:
    head = list(itertools.islice(records, HEAD))
    return head, itertools.chain(head, records)


def _progress(reading: Reading, settings: Data, count: int) -> tuple[int, int, str]:
    """(done, of how many, unit): bytes of a file, else records."""
    if reading.raw:
        return reading.done, reading.size, "bytes"
    total = max(count, reading.total or settings.end_row)
    return count, min(total, settings.end_row or total) if reading.kind == "hub" else total, "rows"


def _notes(reading: Reading, slicer: RowSelector | None) -> list[Problem]:
    """What was guessed, and what is odd about the rows."""
    if slicer is None:
        return reading.notes
    guessed = {
        part: name for part, name in slicer.columns.names.items() if part in slicer.columns.guessed and part != name
    }
    return (
        reading.notes
        + ([Problem("note.columns_guessed", {"columns": format_mapping(guessed)})] if guessed else [])
        + slicer.notes()
    )


def _until_broken(reading: Reading, problems: list[Problem]) -> Iterator[Record]:
    """The records as long as they can be read; what ends them early is added to `problems`."""
    try:
        yield from reading.records
    except PlaygroundError as error:
        problems += error.problems


def _enough(slicer: RowSelector | None, shown: list[Record], rows: int) -> bool:
    return len(shown) >= rows and (slicer is None or len(slicer.kept) >= rows)


def _why_nothing(slicer: RowSelector) -> list[Problem]:
    try:
        slicer.rows()
    except PlaygroundError as error:
        return list(error.problems)
    return []


def _previewed(
    reading: Reading,
    slicer: RowSelector | None,
    shown: list[Record],
    problems: list[Problem],
    rows: int,
    looked: int,
    whole: bool,
) -> Preview:
    values = [record.values for record in shown]
    return Preview(
        reading.kind,
        reading.encoding.name if reading.encoding else "",
        bool(reading.encoding and reading.encoding.guessed),
        reading.size or None,
        reading.total if reading.total is not None else slicer.total if whole and slicer else None,
        column_names_of(values),
        slicer.columns if slicer else None,
        [record.number for record in shown],
        [{name: text_of(value)[:CUT] for name, value in record.items()} for record in values],
        slicer.kept[:rows] if slicer else [],
        [name for name, _ in slicer.categories.most_common() if name] if slicer else [],
        dict(slicer.dropped) if slicer else {},
        dict(slicer.where) if slicer else {},
        _notes(reading, slicer),
        problems,
        looked,
        whole,
    )
