"""Data files for tests: write records, read them as rows, or expect an error."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from playground.data.source import SelectedRows, read
from playground.errors import PlaygroundError
from playground.settings import Data


def write_jsonl(path: Path, records: Iterable[dict]) -> Path:
    """Write records as JSON Lines."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def read_rows(source: Path | str, **settings) -> SelectedRows:
    """Read a source with these data settings; without held-out rows unless the settings ask for them."""
    return read(Data(source=str(source), **{"held_out": 0.0, **settings}))


def read_error(source: Path | str, **settings) -> PlaygroundError:
    """The error that reading a source raises, which has a text in both languages."""
    with pytest.raises(PlaygroundError) as caught:
        read_rows(source, **settings)
    assert caught.value.text("en") and caught.value.text("ja")
    return caught.value


def problem_keys(error: PlaygroundError) -> list[str]:
    return [problem.key for problem in error.problems]


def note_keys(rows: SelectedRows) -> list[str]:
    return [note.key for note in rows.notes]


def pairs(rows: SelectedRows) -> list[tuple[str, str]]:
    """(instruction, output) of the rows to train on."""
    return [(row.instruction, row.output) for row in rows.train]


def messages(*texts: str, roles: tuple = ("user", "assistant"), names: tuple = ("role", "content")) -> list[dict]:
    """A conversation as chat data sets store it: the texts in turn of both roles."""
    return [dict(zip(names, (roles[n % 2], text))) for n, text in enumerate(texts)]
