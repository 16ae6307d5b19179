"""A preview is bounded, whatever a file holds: in columns, in the lengths of names and texts, and in all it sends."""

import json
import time
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from playground.data.preview_limits import MAX_BYTES, MAX_CHARS, MAX_NAMES, MAX_TURNS
from playground.data.preview_values import to_dict
from playground.data.records import MAX_COLUMNS, MAX_NAME
from playground.data.source import preview, read
from playground.errors import PlaygroundError
from playground.planning.preview import answer
from playground.settings import Data, Settings


def _asked(path) -> dict:
    return {"settings": Settings().with_values({"data": {"source": str(path)}}).to_dict(), "rows": 20}


def _keys(error) -> list[str]:
    return [problem.key for problem in error.value.problems]


@pytest.mark.parametrize("kind", ["text", "row", "conversation", "cell"])
def test_a_row_as_long_as_its_file_is_shown_by_its_beginning(tmp_path, kind):
    path = tmp_path / ("x.txt" if kind == "text" else "x.jsonl")
    turns = [{"role": role, "content": "word"} for role in ("user", "assistant")] * 5_000
    lines = {
        "text": "word " * 1_000_000,
        "row": json.dumps({"question": "word " * 500_000, "answer": "word " * 500_000}),
        "conversation": json.dumps({"messages": turns}),
        "cell": json.dumps({"question": "a", "answer": list(range(500_000))}),
    }
    path.write_text(lines[kind] + "\n")
    found = preview(Data(source=str(path)))
    assert found.rows
    for row in found.rows:
        assert len(row.output) <= MAX_CHARS and len(row.instruction) <= MAX_CHARS and len(row.before) <= MAX_TURNS
    assert len(json.dumps(to_dict(found))) < 200_000


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "differing", "late"])
def test_columns_have_a_limit_in_every_kind_of_file(tmp_path, kind):
    names = [f"c{n}" for n in range(100_000)]
    path = tmp_path / f"x.{'jsonl' if kind in ('differing', 'late') else kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({name: ["x"] for name in names[: MAX_COLUMNS + 1]}), path)
    elif kind == "differing":
        parts = (names[start : start + 100] for start in range(0, 10_000, 100))
        path.write_text("".join(json.dumps(dict.fromkeys(part, "x")) + "\n" for part in parts))
    elif kind == "late":
        records = [{"question": f"q{n}", "answer": "a"} for n in range(150)]
        path.write_text("".join(json.dumps(record) + "\n" for record in (*records, dict.fromkeys(names, "x"))))
    else:
        records = [dict.fromkeys(names, "x")]
        path.write_text(json.dumps(records if kind == "json" else records[0]))
    begun = time.monotonic()
    if kind == "differing":  # what was read before is shown
        keys = [problem.key for problem in preview(Data(source=str(path))).problems]
    else:
        with pytest.raises(PlaygroundError) as error:
            (read if kind == "late" else preview)(Data(source=str(path)))
        keys = _keys(error)
    assert "error.csv_columns" in keys and time.monotonic() - begun < 20


def test_a_columns_name_has_a_limit(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"question": "a", "answer": "b", "n" * (MAX_NAME + 1): "x"}))
    with pytest.raises(PlaygroundError) as error:
        preview(Data(source=str(tmp_path / "x.jsonl")))
    assert _keys(error) == ["error.column_name"]


def test_categories_to_choose_from_have_a_limit(tmp_path):
    names = (f"c{n}" + "x" * (n % 300) for n in range(4000))
    lines = [json.dumps({"question": f"q{n}", "answer": "a", "category": name}) for n, name in enumerate(names)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    found = preview(Data(source=str(tmp_path / "x.jsonl"))).categories
    assert len(found) == MAX_NAMES and max(map(len, found)) <= 200


def test_a_preview_that_is_too_large_in_all_is_a_sentence(tmp_path):
    record = {"question": "q", "answer": "a"} | {f"c{n}": "x" * MAX_CHARS for n in range(1_000)}
    (tmp_path / "x.jsonl").write_text("\n".join([json.dumps(record)] * 20))
    with pytest.raises(PlaygroundError) as error:
        answer("preview", _asked(tmp_path / "x.jsonl"), print)
    assert _keys(error) == ["error.preview_large"] and str(MAX_BYTES >> 20) in str(error.value)


def test_a_sheet_whose_last_row_has_an_absurd_number_is_a_sentence(tmp_path):
    import openpyxl

    book, path = openpyxl.Workbook(), tmp_path / "x.xlsx"
    for row in (["question", "answer"], ["q", "a"]):
        book.active.append(row)
    book.save(tmp_path / "right.xlsx")
    with zipfile.ZipFile(tmp_path / "right.xlsx") as right, zipfile.ZipFile(path, "w") as wrong:
        for name in right.namelist():
            wrong.writestr(name, right.read(name).replace(b'<row r="2">', b'<row r="999999999">'))
    begun = time.monotonic()
    with pytest.raises(PlaygroundError) as error:
        read(Data(source=str(path)))
    assert _keys(error) == ["error.excel"] and time.monotonic() - begun < 30
