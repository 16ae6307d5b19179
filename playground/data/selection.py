"""Select the rows to train on: slice, filter, deduplicate and hold out, counting what is dropped by reason."""

import random
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from playground.data.columns import ColumnMapping
from playground.data.conversation import Converted
from playground.data.held_out_split import HeldOutSplit
from playground.data.records import Record
from playground.data.row import Row, UnusableRecord, has_hidden_characters, has_visible_text, looks_like, same_text
from playground.data.short_rows import ShortRows
from playground.data.unused import UnusedColumns
from playground.errors import PlaygroundError, Problem, problem
from playground.settings import Data

CITATION = re.compile(r" ?\[[0-9]+\]")
MAX_ROWS = 1_000_000  # in a slice
MAX_CHARS = 400 * 2**20  # in a slice
LONG_ROW = 10**6  # characters from which a row gets a note
MAX_NUMBERS = 8  # row numbers in a message
MAX_CATEGORIES = 12  # in a message
MAX_FIRST = 80  # characters of a text that is shown
MAX_REASONS = 40  # counted separately, such as one for each unknown role


@dataclass(frozen=True)
class SelectedRows:
    """Rows to train on, and held-out rows to evaluate on.

    dropped: number of dropped rows by reason, a key of the words table under `dropped.`; where: row numbers of the
    first of them. notes: what was guessed, and oddities of the rows. columns: which column is which field. outside:
    records outside the slice. not_sampled: rows that the random sample leaves out. unused_columns: columns of which
    nothing is taught. records: records in the source, of which a conversation makes several rows.
    """

    train: list[Row]
    held_out: list[Row]
    dropped: dict[str, int] = field(default_factory=dict)
    where: dict[str, list[int]] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    columns: ColumnMapping | None = None
    outside: int = 0
    not_sampled: int = 0
    unused_columns: tuple[str, ...] = ()
    records: int = 0

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that are neither trained on nor held out, by reason: a key of the words table under `dropped.`."""
        others = {"outside": self.outside, "not_sampled": self.not_sampled}
        return self.dropped | {reason: count for reason, count in others.items() if count}

    @property
    def total(self) -> int:
        """Rows to train on, held out and left out together. A record outside the slice counts as one row."""
        return len(self.train) + len(self.held_out) + sum(self.left_out.values())


class RowSelector:
    """Takes records one by one and keeps the rows that pass the settings' filters.

    records: records so far; total: those of them that aren't held out by the set itself; in_slice: those of `total`
    within the slice. kept, held_out: rows. dropped, remarked: counts by reason; where: row numbers of the first of
    each.
    """

    def __init__(self, settings: Data, columns: ColumnMapping):
        self.settings, self.columns = settings, columns
        self.kept: list[Row] = []
        self.held_out: list[Row] = []
        self.records = self.total = self.in_slice = self.chars = 0
        self.dropped: Counter[str] = Counter()
        self.remarked: Counter[str] = Counter()
        self.where: dict[str, list[int]] = {}
        self.categories: Counter[str] = Counter()
        self.unused = UnusedColumns(columns)
        self.split, self.short = HeldOutSplit(), ShortRows()
        self._first: dict[str, str] = {}  # how the first text with a remark begins
        self._distinct: set[tuple] = set()
        self._contains = settings.contains.casefold()

    @property
    def is_past_slice(self) -> bool:
        """Whether all further records lie behind the slice."""
        return bool(self.settings.end_row) and self.total >= self.settings.end_row

    def add(self, record: Record) -> None:
        """Add a record. Raises PlaygroundError if the slice grows too large."""
        self.records, self.short.line = self.records + 1, record.short_line
        held_out = self.split.is_held_out(record.values)
        if not held_out:
            self.total += 1
            if self.total < self.settings.start_row or (self.settings.end_row and self.total > self.settings.end_row):
                return
            self.in_slice += 1
        try:
            if record.unusable:
                raise UnusableRecord(record.unusable)
            converted = self.columns.rows(record.values, record.number)
            if record.before:
                converted.rows = [replace(row, before=record.before + row.before) for row in converted.rows]
        except UnusableRecord as error:
            self._drop(str(error), record.number)
            return
        finally:
            self.unused.add(record.values)
        for remark in converted.remarks:
            self._remark(remark, record.number)
        for reason, count in converted.dropped.items():
            self._drop(reason, record.number, count)
        self._add_rows(converted, held_out)

    def _add_rows(self, converted: Converted, held_out: bool) -> None:
        is_text = self.columns.layout == "text" or "answers_only" in converted.remarks
        for row in converted.rows:
            if self.settings.strip_citations:
                row = self._strip_citations(row)
            reason = self._drop_reason(row, is_text)
            if reason:
                self._drop(reason, row.number)
                continue
            kind = looks_like(row.output) if is_text else ""
            if kind:
                self._remark(f"looks_{kind}", row.number)
                self._first.setdefault(f"looks_{kind}", row.output[:MAX_FIRST])
            self._keep(row, held_out)

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Train and held-out rows, sampled and split.

        Raises PlaygroundError: an empty slice, a slice of a set that is held out as a whole, nothing left of it (with
        counts by reason), too few rows to split or to sample from.
        """
        settings = self.settings
        if self.records and not self.total:
            self._train_on_held_out()
        if not self.in_slice:
            raise problem(
                "error.empty_slice", first=settings.start_row, last=settings.end_row or self.total, total=self.total
            )
        if not settings.drop_empty and self.dropped["empty"]:
            raise problem("error.empty_rows", count=self.dropped["empty"], rows=self.where["empty"])
        if not self.kept:
            raise self._nothing_left()
        generator, train = random.Random(settings.seed), self.kept
        if settings.sample:
            if settings.sample > len(train):
                raise problem("error.sample", sample=settings.sample, rows=len(train))
            train = generator.sample(train, settings.sample)
        held_out = self._unseen(self.held_out, train)
        if not held_out and settings.held_out:
            train, held_out = split_held_out(train, settings.held_out, generator)
        return train, held_out

    def notes(self) -> list[Problem]:
        """What was dropped, and oddities of the rows that were kept, with the numbers of the first of them."""
        notes = [Problem("note.dropped", {"dropped": dict(self.dropped)})] if self.dropped else []
        for name, count in self.remarked.items():
            if name == "asked_marks":
                continue
            values: dict[str, Any] = {"count": count, "rows": self.where[name]}
            if name in self._first:
                values["first"] = " ".join(self._first[name].split())
            if name == "marks":
                values["asked"] = self.remarked["asked_marks"]
            notes.append(Problem(f"note.{name}", values))
        return notes + self.short.notes()

    def _train_on_held_out(self) -> None:
        """Take the rows of a set that marks all of them as held out, as a file of its test rows alone does."""
        if self.settings.start_row > 1 or self.settings.end_row:  # records outside of it were counted as dropped
            columns, values = list(self.split.columns), list(self.split.values)
            raise problem("error.all_held_out", count=self.records, column=columns, values=values)
        rows, self.held_out = self.held_out, []
        self.total, self.in_slice, self.chars = self.records, self.records, 0
        self.split.are_trained_on = True
        for row in rows:
            self._keep(row, False)

    def _unseen(self, held_out: list[Row], train: list[Row]) -> list[Row]:
        """Drop the set's own held-out rows whose question is trained on."""
        if not held_out:
            return held_out
        train_questions = {_question(row) for row in train}
        unseen = []
        for row in held_out:
            if _question(row) in train_questions:
                self._drop("taught", row.number)
            else:
                unseen.append(row)
        return unseen

    def _drop_reason(self, row: Row, is_text: bool) -> str:
        """Why a row is filtered out, or "". is_text: whether it needs no question."""
        settings = self.settings
        self.categories[row.category] += 1
        if not has_visible_text(row.output) or not (is_text or has_visible_text(row.instruction)):
            return "empty"
        if settings.category and row.category != settings.category:
            return "category"
        texts = (row.instruction, row.input, row.output)
        if self._contains and not any(self._contains in text.casefold() for text in texts):
            return "contains"
        length = sum(map(len, texts))
        if length < settings.min_chars:
            return "shortest"
        if settings.max_chars and length > settings.max_chars:
            return "longest"
        return ""

    def _keep(self, row: Row, held_out: bool) -> None:
        texts = (row.instruction, row.input, row.output)
        if self.settings.drop_duplicates and not held_out:
            content = (row.system, row.before, *texts)
            if content in self._distinct:
                self._drop("duplicate", row.number)
                return
            self._distinct.add(content)
        length = sum(map(len, texts))
        if length > LONG_ROW:
            self._remark("long", row.number)
        if any(map(has_hidden_characters, texts)):
            self._remark("hidden", row.number)
        self.chars += length
        (self.held_out if held_out else self.kept).append(row)
        if len(self.kept) > MAX_ROWS or self.chars > MAX_CHARS:
            raise problem(
                "error.large_slice",
                rows=len(self.kept),
                most=MAX_ROWS,
                characters=self.chars,
                most_characters=MAX_CHARS,
            )

    def _strip_citations(self, row: Row) -> Row:
        """The row without citation marks like [3]."""
        stripped = {
            name: CITATION.sub("", text)
            for name in ("instruction", "input", "output", "system")
            if "[" in (text := getattr(row, name))
        }
        changed: dict[str, Any] = {name: text for name, text in stripped.items() if text != getattr(row, name)}
        before = tuple((CITATION.sub("", question), CITATION.sub("", answer)) for question, answer in row.before)
        if not changed and before == row.before:
            return row
        self._remark("marks" if {"input", "output"} & set(changed) else "asked_marks", row.number)
        return replace(row, before=before, **changed)

    def _drop(self, reason: str, number: int, count: int = 1) -> None:
        reason = self.short.reason(reason) if self.settings.drop_empty else reason
        if reason not in self.dropped and len(self.dropped) >= MAX_REASONS:
            reason = "messages"
        self.dropped[reason] += count
        self._add_number(reason, number)

    def _remark(self, name: str, number: int) -> None:
        self.remarked[name] += 1
        self._add_number(name, number)

    def _add_number(self, name: str, number: int) -> None:
        numbers = self.where.setdefault(name, [])
        if len(numbers) < MAX_NUMBERS:
            numbers.append(number)

    def _nothing_left(self) -> PlaygroundError:
        count = sum(self.dropped.values())
        problems = [Problem("error.nothing_left", {"count": count, "dropped": dict(self.dropped)})]
        if self.dropped["category"]:
            categories = [name for name, _ in self.categories.most_common(MAX_CATEGORIES) if name]
            key = "error.category" if categories else "error.no_category"
            problems.append(Problem(key, {"category": self.settings.category, "found": categories}))
        return PlaygroundError(*problems)


def split_held_out(rows: list[Row], share: float, generator: random.Random) -> tuple[list[Row], list[Row]]:
    """Split rows into train and held-out rows, at least one question on either side.

    No question is on both sides: rows with the same question stay together, as do those of one conversation. Raises
    PlaygroundError if all rows have the same question.
    """
    by_question: dict[tuple, list[Row]] = {}
    for row in rows:
        by_question.setdefault(_question(row), []).append(row)
    groups = list(by_question.values())
    if len(groups) < 2:
        raise problem("error.too_few", rows=len(rows))
    generator.shuffle(groups)
    count = min(max(1, round(len(groups) * share)), len(groups) - 1)
    held_out = {id(row) for group in groups[:count] for row in group}
    return [row for row in rows if id(row) not in held_out], [row for row in rows if id(row) in held_out]


def _question(row: Row) -> tuple[str, str]:
    """A row's question, but for case, blanks and width: its conversation's first; for a text alone, the text."""
    if row.before:
        return same_text(row.before[0][0]), ""
    return (same_text(row.instruction), same_text(row.input)) if row.instruction else ("", same_text(row.output))
