"""Which rows are taught: a slice of a set, filtered, without duplicates, a share held out; what was left out is counted by reason."""

import random
import re
from collections import Counter
from dataclasses import dataclass, field

from playground.data.columns import ColumnMapping
from playground.data.readers import Record
from playground.data.row import Row, UnusableRecord, has_hidden_characters, has_visible_text
from playground.errors import PlaygroundError, Problem, problem
from playground.settings import Data

MARK = re.compile(r" ?\[[0-9]+\]")
MOST_ROWS = 1_000_000  # in a slice
MOST_TEXT = 400 * 2**20  # characters in a slice
LONG = 10**6  # characters of a row that is worth a word
NAMED = 8  # numbers of rows in a message
SHOWN = 12  # categories in a message


@dataclass(frozen=True)
class SelectedRows:
    """The rows to train on, and those kept apart to measure on; `total` records were there before slicing.

    `dropped`: rows left out, by reason (keys of the words table under `dropped.`), and `where` the first of them stand; `notes`:
    what was guessed and what is odd about the rows. `columns`: which column is what.
    """

    train: list[Row]
    held_out: list[Row]
    total: int
    dropped: dict[str, int] = field(default_factory=dict)
    where: dict[str, list[int]] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    columns: ColumnMapping | None = None


class RowSelector:
    """Takes in records one by one, and keeps of them what is to be taught.

    `total`: records so far but held-out ones; `kept` and `held_out`: rows; `dropped` and `remarked`: counts by reason.
    """

    def __init__(self, settings: Data, columns: ColumnMapping):
        self.settings, self.columns = settings, columns
        self.kept: list[Row] = []
        self.held_out: list[Row] = []
        self.total = self.seen = self.text = 0
        self.dropped: Counter = Counter()
        self.remarked: Counter = Counter()
        self.where: dict[str, list[int]] = {}
        self.categories: Counter = Counter()
        self._known: set[tuple] = set()
        self._contains = settings.contains.casefold()

    @property
    def past(self) -> bool:
        """Whether what follows lies behind the slice."""
        return bool(self.settings.end_row) and self.total >= self.settings.end_row

    def add(self, record: Record) -> None:
        """Raises PlaygroundError: more than a slice may hold."""
        apart = record.values.get("split") == "held-out"
        if not apart:
            self.total += 1
            if self.total < self.settings.start_row or (self.settings.end_row and self.total > self.settings.end_row):
                return
            self.seen += 1
        try:
            if record.unfit:
                raise UnusableRecord(record.unfit)
            rows, remarks = self.columns.rows(record.values, record.number)
        except UnusableRecord as reason:
            self._drop(str(reason), record.number)
            return
        for remark in remarks:
            self._remark(remark, record.number)
        for row in rows:
            row = self._stripped(row)
            reason = self._reason(row)
            if reason:
                self._drop(reason, row.number)
            else:
                self._keep(row, apart)

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Train and held-out rows. Raises PlaygroundError: nothing there, nothing left (with counts by reason), too few to split or to sample from."""
        settings = self.settings
        if not self.seen:
            raise problem(
                "error.empty_slice", first=settings.start_row, last=settings.end_row or self.total, total=self.total
            )
        if not settings.drop_empty and self.dropped["empty"]:
            raise problem("error.empty_rows", count=self.dropped["empty"], rows=self.where["empty"])
        if not self.kept:
            raise self._nothing()
        draw, chosen, held_out = random.Random(settings.seed), self.kept, self.held_out
        if settings.sample:
            if settings.sample > len(chosen):
                raise problem("error.sample", sample=settings.sample, rows=len(chosen))
            chosen = draw.sample(chosen, settings.sample)
        if held_out:
            taught = {_asked(row) for row in chosen}
            for row in held_out:
                if _asked(row) in taught:
                    self._drop("taught", row.number)
            held_out = [row for row in held_out if _asked(row) not in taught]
        if not held_out and settings.held_out:
            chosen, held_out = split_held_out(chosen, settings.held_out, draw)
        return chosen, held_out

    def notes(self) -> list[Problem]:
        """What was left out, and what is odd about the rows that were kept, with the numbers of the first of them."""
        found = []
        if self.dropped:
            found.append(Problem("note.dropped", {"dropped": dict(self.dropped)}))
        found += [
            Problem(f"note.{name}", {"count": count, "rows": self.where[name]})
            for name, count in self.remarked.items()
            if name != "asked_marks"
        ]
        return [
            Problem(p.key, {**p.values, "asked": self.remarked["asked_marks"]}) if p.key == "note.marks" else p
            for p in found
        ]

    def _reason(self, row: Row) -> str:
        """Why a row isn't taught, or ""."""
        settings = self.settings
        self.categories[row.category] += 1
        if not has_visible_text(row.output) or (self.columns.form != "text" and not has_visible_text(row.instruction)):
            return "empty"
        if settings.category and row.category != settings.category:
            return "category"
        if self._contains and not any(
            self._contains in text.casefold() for text in (row.instruction, row.input, row.output)
        ):
            return "contains"
        length = len(row.instruction) + len(row.input) + len(row.output)
        if length < settings.min_chars:
            return "shortest"
        if settings.max_chars and length > settings.max_chars:
            return "longest"
        return ""

    def _keep(self, row: Row, apart: bool) -> None:
        if self.settings.drop_duplicates and not apart:
            same = (row.system, row.before, row.instruction, row.input, row.output)
            if same in self._known:
                self._drop("duplicate", row.number)
                return
            self._known.add(same)
        length = len(row.instruction) + len(row.input) + len(row.output)
        if length > LONG:
            self._remark("long", row.number)
        if (
            has_hidden_characters(row.instruction)
            or has_hidden_characters(row.input)
            or has_hidden_characters(row.output)
        ):
            self._remark("hidden", row.number)
        self.text += length
        (self.held_out if apart else self.kept).append(row)
        if len(self.kept) > MOST_ROWS or self.text > MOST_TEXT:
            raise problem(
                "error.large_slice",
                rows=len(self.kept),
                most=MOST_ROWS,
                characters=self.text,
                most_characters=MOST_TEXT,
            )

    def _stripped(self, row: Row) -> Row:
        """The row without citation marks, where they're to be taken out."""
        if not self.settings.strip_citations:
            return row
        texts = {
            name: MARK.sub("", text)
            for name in ("instruction", "input", "output", "system")
            if "[" in (text := getattr(row, name))
        }
        texts = {name: text for name, text in texts.items() if text != getattr(row, name)}
        before = tuple((MARK.sub("", asked), MARK.sub("", said)) for asked, said in row.before)
        if not texts and before == row.before:
            return row
        self._remark("marks" if {"input", "output"} & set(texts) else "asked_marks", row.number)
        return Row(**{**vars(row), **texts, "before": before})

    def _drop(self, reason: str, number: int) -> None:
        self.dropped[reason] += 1
        self._note_place(reason, number)

    def _remark(self, name: str, number: int) -> None:
        self.remarked[name] += 1
        self._note_place(name, number)

    def _note_place(self, name: str, number: int) -> None:
        places = self.where.setdefault(name, [])
        if len(places) < NAMED:
            places.append(number)

    def _nothing(self) -> PlaygroundError:
        found = [Problem("error.nothing_left", {"count": sum(self.dropped.values()), "dropped": dict(self.dropped)})]
        if self.dropped["category"]:
            named = [name for name, _ in self.categories.most_common(SHOWN) if name]
            key = "error.category" if named else "error.no_category"
            found.append(Problem(key, {"category": self.settings.category, "found": named}))
        return PlaygroundError(*found)


def split_held_out(rows: list[Row], share: float, draw: random.Random) -> tuple[list[Row], list[Row]]:
    """Train and held-out rows, disjoint in what they ask: rows that ask the same thing, and those of one conversation, land on the same side.

    Raises PlaygroundError where all rows ask the same.
    """
    asked: dict[tuple, list[Row]] = {}
    for row in rows:
        asked.setdefault(_asked(row), []).append(row)
    groups = list(asked.values())
    if len(groups) < 2:
        raise problem("error.too_few", rows=len(rows))
    draw.shuffle(groups)
    count = min(max(1, round(len(groups) * share)), len(groups) - 1)
    apart = {id(row) for group in groups[:count] for row in group}
    return [r for r in rows if id(r) not in apart], [r for r in rows if id(r) in apart]


def _asked(row: Row) -> tuple:
    """What a row asks: a conversation's first question, which all of its rows share; a text alone asks for itself."""
    if row.before:
        return row.before[0][0], ""
    return (row.instruction, row.input) if row.instruction else ("", row.output)
