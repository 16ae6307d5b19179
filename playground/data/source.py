"""Rows of a data set: bundled, a file (JSON, JSONL, CSV, Parquet), or a hub id. No torch in here.

Every row becomes a `Row`; recognized column names are instruction/input/output and their usual cousins.
"""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from playground import ASSETS, catalog
from playground.errors import problem
from playground.settings import Data

MOST_BYTES = 100 * 2**20
COLUMNS = {
    "instruction": ("instruction", "question", "prompt", "query"),
    "input": ("input", "context"),
    "output": ("output", "answer", "response", "completion"),
}


@dataclass(frozen=True)
class Row:
    """One thing to learn: an answer (`output`) to a question (`instruction`, with an `input` to it), or a text alone, which is all answer.

    `key`: strings of which a right answer holds one (the bundled help desk has them). `before`: what was said earlier in a
    conversation, (question, answer) each. `number`: where it stands in its source, counted from 1.
    """

    instruction: str
    output: str
    input: str = ""
    key: tuple[str, ...] = ()
    before: tuple[tuple[str, str], ...] = ()
    system: str = ""
    category: str = ""
    number: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Rows:
    """The rows to train on, and those kept apart to measure on; `total` rows were there before slicing."""

    train: list[Row]
    held_out: list[Row]
    total: int


def read(settings: Data, tell: Callable = lambda *_: None) -> Rows:
    """The chosen slice, its held-out rows kept apart.

    Raises PlaygroundError: no such file, too large, broken JSON (with its line), no known columns (with those found),
    rows without an answer, an empty slice. `tell(done, total, unit)` hears of a long download.
    """
    raw = list(_raw(settings.source, tell))
    if not raw:
        raise problem("error.no_rows", source=_short(settings.source))
    every = _as_rows(raw, settings.source)
    held_out = [row for row, record in zip(every, raw) if record.get("split") == "held-out"]
    rows = [row for row, record in zip(every, raw) if record.get("split") != "held-out"]
    chosen = rows[settings.first - 1 : settings.last or None]
    if not chosen:
        raise problem("error.empty_slice", first=settings.first, last=settings.last or len(rows), total=len(rows))
    draw = random.Random(settings.seed)
    if settings.sample:
        if settings.sample > len(chosen):
            raise problem("error.sample", sample=settings.sample, rows=len(chosen))
        chosen = draw.sample(chosen, settings.sample)
    if not held_out and settings.held_out:
        chosen, held_out = _split(chosen, settings.held_out, draw)
    return Rows(chosen, held_out, len(rows))


def is_file(source: str) -> bool:
    """Whether a source names a file on this machine."""
    return Path(source).expanduser().is_file()


def _split(rows: list[Row], share: float, draw: random.Random) -> tuple[list[Row], list[Row]]:
    """Train and held-out rows, disjoint in what they ask: rows that ask the same thing land on the same side."""
    asked: dict[tuple, list[Row]] = {}
    for row in rows:
        asked.setdefault((row.instruction, row.input), []).append(row)
    groups = list(asked.values())
    if len(groups) < 2:
        raise problem("error.too_few", rows=len(rows))
    draw.shuffle(groups)
    count = min(max(1, round(len(groups) * share)), len(groups) - 1)
    apart = {id(row) for group in groups[:count] for row in group}
    return [r for r in rows if id(r) not in apart], [r for r in rows if id(r) in apart]


def _as_rows(raw: list[dict], source: str) -> list[Row]:
    found = list(dict.fromkeys(name for record in raw[:100] for name in record))
    lower = {name.strip().lower(): name for name in found}
    names = {part: next((lower[n] for n in known if n in lower), None) for part, known in COLUMNS.items()}
    if not names["instruction"] or not names["output"]:
        raise problem("error.columns", source=_short(source), found=found[:12])
    rows, empty = [], []
    for number, record in enumerate(raw, 1):
        instruction, given, output = (_text(record.get(names[part])) if names[part] else "" for part in COLUMNS)
        if not instruction.strip() or not output.strip():
            empty.append(number)
        key = record.get("key")
        rows.append(Row(instruction, output, given, tuple(key) if isinstance(key, list) else ()))
    if empty:
        raise problem("error.empty_rows", count=len(empty), rows=empty[:8])
    return rows


def _text(value) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)


def _short(source: str) -> str:
    return Path(source).name if "\\" in source or source.startswith(("/", ".", "~")) else source


def _raw(source: str, tell: Callable):
    entry = catalog.data_sets().get(source)
    if entry and "file" in entry:
        return _from_file(ASSETS / "data" / entry["file"])
    if entry:
        return _from_hub(entry["hub"], tell)
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.is_absolute() or path.suffix or source.count("/") != 1:
        raise problem("error.no_file", source=_short(source))
    return _from_hub(source, tell)


def _from_file(path: Path) -> list[dict]:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise problem("error.large_file", file=path.name, size_bytes=size, most_bytes=MOST_BYTES)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise problem("error.file_kind", file=path.name, known=[".jsonl", ".json", ".csv", ".parquet"])
    records = reader(path)
    wrong = next((n for n, record in enumerate(records, 1) if not isinstance(record, dict)), None)
    if wrong:
        raise problem("error.not_object", file=path.name, row=wrong)
    return records


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise problem("error.encoding", file=path.name, position=error.start) from error


def _jsonl(path: Path) -> list:
    records = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise problem("error.json", file=path.name, line=number, detail=getattr(error, "msg", str(error))) from error
    return records


def _json(path: Path) -> list:
    text = _decoded(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            return _jsonl(path)  # one object a line under the name of .json is common
        raise problem("error.json", file=path.name, line=getattr(error, "lineno", 1), detail=getattr(error, "msg", str(error))) from error
    if isinstance(found, dict):
        found = next((value for value in found.values() if isinstance(value, list)), [found])
    return found if isinstance(found, list) else [found]


def _csv(path: Path) -> list[dict]:
    try:
        reader = csv.DictReader(_decoded(path).splitlines(keepends=True), strict=True)
        return [{k: v for k, v in row.items() if k is not None} for row in reader]
    except csv.Error as error:
        raise problem("error.csv", file=path.name, line=reader.line_num, detail=str(error)) from error


def _parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise problem("error.parquet", file=path.name, detail=str(error).split("\n")[0][:160]) from error


def _from_hub(repo: str, tell: Callable) -> list[dict]:
    """All rows of a hub set's train split. Asks the hub itself first, so that a dead network is noticed in seconds."""
    from playground.hub import trouble

    reason = trouble(repo, "datasets/")
    if reason:
        raise problem(f"error.data_{reason}", repo=repo, offline=[k for k, e in catalog.data_sets().items() if "file" in e])
    from datasets import load_dataset

    tell(0, 1, "rows")
    try:
        return load_dataset(repo, split="train").to_list()
    except (OSError, ValueError, RuntimeError) as error:
        raise problem("error.data_broke", repo=repo, detail=str(error).split("\n")[0][:200]) from error
