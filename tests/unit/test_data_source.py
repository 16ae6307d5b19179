"""Read rows from files of all kinds and from pasted text."""

import csv
import json

import pytest
from data_files import pairs, problem_keys, read_error, read_rows, write_jsonl

from playground.data import source
from playground.data.source import Row, save_pasted
from playground.errors import PlaygroundError

ROWS = [{"instruction": f"Q{n}", "input": "", "output": f"A{n}"} for n in range(1, 21)]


def test_all_file_kinds_give_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [*ROWS, {"instruction": 'Say "a,b"\nand more', "input": "青い", "output": "<b>{x}</b> & <script>"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8-sig")
    write_jsonl(tmp_path / "lines.json", rows)
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "crlf.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    targets = [Row(r["instruction"], r["output"], r["input"]) for r in rows]
    for name in ("a.json", "wrapped.json", "lines.json", "a.jsonl", "crlf.jsonl", "a.csv", "a.parquet"):
        assert read_rows(tmp_path / name).train == targets, name


@pytest.mark.parametrize(
    "columns", [("question", "context", "answer"), ("Prompt", "Input", "Completion"), (" query ", "input", "response")]
)
def test_common_column_names_are_known(tmp_path, columns):
    row = dict(zip(columns, ("q", "given", "a")))
    assert read_rows(write_jsonl(tmp_path / "a.jsonl", [row])).train == [Row("q", "a", "given")]


def test_numbers_become_text(tmp_path):
    assert read_rows(
        write_jsonl(tmp_path / "a.jsonl", [{"instruction": "6*7?", "output": 42, "input": None}])
    ).train == [Row("6*7?", "42")]


def test_broken_json_names_its_line(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS[:3])
    path.write_text(path.read_text() + '{"instruction": "x", \n' + json.dumps(ROWS[4]) + "\n")
    error = read_error(path)
    assert problem_keys(error) == ["error.json"] and "line 4" in str(error)
    (tmp_path / "b.json").write_text('[{"instruction": "x"},\n {"instruction" "y"}]')
    error = read_error(tmp_path / "b.json")
    assert problem_keys(error) == ["error.json"] and "line 2" in str(error)


def test_unknown_columns_error_lists_existing_columns(tmp_path):
    error = read_error(write_jsonl(tmp_path / "a.jsonl", [{"frage": "q", "antwort": "a"}]))
    assert problem_keys(error) == ["error.columns"] and "frage, antwort" in str(error)


def test_empty_rows_are_numbered_as_in_the_file(tmp_path):
    rows = [dict(r) for r in ROWS]
    rows[2]["output"], rows[8]["instruction"] = "", "  "
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    error = read_error(path, drop_empty=False)
    assert problem_keys(error) == ["error.empty_rows"] and "rows 3, 9" in str(error) and str(error).startswith("2 ")
    left = read_rows(path)
    assert (len(left.train), left.total, left.dropped, left.where) == (18, 20, {"empty": 2}, {"empty": [3, 9]})


def test_empty_rows_are_numbered_as_in_the_file_after_held_out_rows(tmp_path):
    rows = [{**ROWS[0], "split": "held-out"}, ROWS[1], {**ROWS[2], "output": ""}]
    error = read_error(write_jsonl(tmp_path / "a.jsonl", rows), drop_empty=False)
    assert problem_keys(error) == ["error.empty_rows"] and "row 3" in str(error)


@pytest.mark.parametrize(
    "name,content,key",
    [
        ("a.jsonl", "", "error.no_rows"),
        ("a.json", "[]", "error.no_rows"),
        ("a.csv", "", "error.no_rows"),
        ("a.csv", "instruction,output\n", "error.no_rows"),
        ("a.jsonl", "[1, 2]\n", "error.not_object"),
        ("a.json", '["x"]', "error.not_object"),
        ("a.json", "3", "error.not_object"),
        ("a.docx", "x", "error.file_kind"),
        ("a.txt", " \n", "error.no_rows"),
        ("a.parquet", "no parquet", "error.parquet"),
        ("a.csv", 'instruction,output\n"x,y\n', "error.csv_quote"),
        ("a.csv", 'instruction,output\n"x"y,z\n', "error.csv"),
    ],
)
def test_an_unusable_file_raises_a_specific_problem(tmp_path, name, content, key):
    (tmp_path / name).write_text(content)
    assert set(problem_keys(read_error(tmp_path / name))) == {key}


def test_a_file_over_100_mib_is_rejected_unread(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.truncate(source.MAX_FILE_BYTES + 1)
    error = read_error(tmp_path / "a.jsonl")
    assert problem_keys(error) == ["error.large_file"] and "100.0 MiB" in str(error)


def test_deeply_nested_json_is_reported_rather_than_crashing(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200_000)
    assert problem_keys(read_error(tmp_path / "a.json")) == ["error.json"]


@pytest.mark.parametrize("name", ["/nowhere/a.jsonl", "missing.csv", "a/b/c", "helpdesk.fr", "http://x/y"])
def test_a_missing_file_is_reported(name):
    assert problem_keys(read_error(name)) == ["error.no_file"]


def test_html_in_a_row_is_unchanged(tmp_path):
    row = {"instruction": "<img src=x onerror=alert(1)>", "output": "&amp; <b>"}
    assert read_rows(write_jsonl(tmp_path / "a.jsonl", [row])).train == [Row(row["instruction"], row["output"])]


@pytest.mark.parametrize(
    "text,kind,expected",
    [
        ('[{"question": "a", "answer": "b"}]', "json", [("a", "b")]),
        ('{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"}\n', "jsonl", [("a", "b"), ("c", "d")]),
        ('{"question": "a",\n "answer": "b"}', "json", [("a", "b")]),
        ("question\tanswer\na\tb, c\n", "tsv", [("a", "b, c")]),
        ("質問,回答\nか,き\n", "csv", [("か", "き")]),
        ("question;answer\na;b\n", "csv", [("a", "b")]),
        ("one,two\nthree,four", "txt", [("", "one,two"), ("", "three,four")]),
        ("Hello, world.\nBye, world.\n", "txt", [("", "Hello, world."), ("", "Bye, world.")]),
        ("[1] a note\n\nand more", "txt", [("", "[1] a note"), ("", "and more")]),
        ("今日は晴れ、明日は雨。", "txt", [("", "今日は晴れ、明日は雨。")]),
    ],
)
def test_a_pasted_text_is_saved_as_a_file_of_its_kind(tmp_path, text, kind, expected):
    path = save_pasted(text, tmp_path / "pasted")
    assert path.suffix == f".{kind}" and pairs(read_rows(path)) == expected
    assert save_pasted(text, tmp_path / "pasted") == path


def test_an_empty_paste_is_reported(tmp_path):
    with pytest.raises(PlaygroundError) as caught:
        save_pasted(" \n", tmp_path)
    assert problem_keys(caught.value) == ["error.pasted_empty"] and list(tmp_path.iterdir()) == []
