"""Read files as people have them: newlines, delimiters, broken lines, archives and large files."""

import csv
import gzip
import io
import json
import re
import zipfile

import pytest
from data_files import note_keys, pairs, problem_keys, read_error, read_rows
from toys import PROJECT

from playground.data import json_stream, parquet
from playground.data.source import Row, preview
from playground.settings import Data

DATA = PROJECT.parent / "shared" / "data"
SENTENCES = DATA / "ud_japanese_gsd.test.txt"


@pytest.mark.parametrize("newlines", ["\r\n", "\r", "mixed"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_all_kinds_of_newlines_separate_lines(tmp_path, newlines, name):
    lines = {
        "a.csv": ["instruction,output", "a,b", "c,d", "e,f"],
        "a.txt": ["b", "d", "f"],
        "a.jsonl": [json.dumps({"instruction": a, "output": b}) for a, b in ("ab", "cd", "ef")],
    }[name]
    ends = [newlines] * len(lines) if newlines != "mixed" else ["\r\n", "\n", "\r", "\n"]
    (tmp_path / name).write_bytes("".join(line + end for line, end in zip(lines, ends)).encode())
    assert [row.output for row in read_rows(tmp_path / name).train] == ["b", "d", "f"]


def test_unicode_line_separators_separate_no_lines(tmp_path):
    row = {"instruction": "a\u2028b", "output": "c\x85d\x0b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "a.csv").write_text(f"instruction,output\n{row['instruction']},{row['output']}\n", encoding="utf-8")
    for name in ("a.jsonl", "a.csv"):
        assert pairs(read_rows(tmp_path / name)) == [(row["instruction"], row["output"])]


@pytest.mark.parametrize("delimiter,name", [("\t", "a.tsv"), ("\t", "a.csv"), (";", "a.csv")])
def test_tables_with_other_delimiters(tmp_path, delimiter, name):
    with open(tmp_path / name, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["question", "answer"], ["a, b", 'x "y"\nz'], ["c", "d"]])
    rows = read_rows(tmp_path / name)
    assert pairs(rows) == [("a, b", 'x "y"\nz'), ("c", "d")]
    assert ("note.delimiter" in note_keys(rows)) == (name == "a.csv")


def test_a_table_row_with_too_many_fields_is_dropped_and_numbered(tmp_path):
    (tmp_path / "a.csv").write_text("instruction,output\na,b\nHello, you,c\nd,e,\nf\n")
    rows = read_rows(tmp_path / "a.csv")
    assert pairs(rows) == [("a", "b"), ("d", "e")]
    assert rows.dropped == {"fields": 1, "short": 1} and rows.where == {"fields": [2], "short": [4]} and rows.total == 4


@pytest.mark.parametrize(
    "text,expected,lines",
    [
        ("question,answer\nHow?,Press it\nand hold it\nThen go\nb,c\n", [("How?", "Press it"), ("b", "c")], [3, 4]),
        ('question,answer\nq1,a1\n"q2,a2\nq3,a3"\nq4,a4\n', [("q1", "a1"), ("q4", "a4")], [3]),
        ('sep=,\n# today\nquestion,answer\nq1,a1\n"q2,a2\nq3,a3"\nq4,a4\n', [("q1", "a1"), ("q4", "a4")], [5]),
        ('question\tanswer\n"q1\ta1\nq2\ta2"\nq4\ta4\n', [("q4", "a4")], [2]),
        ('question;answer;id\nq1;a1;1\nq2;"a2;2\nq3;a3;3"\nq4;a4;4\n', [("q1", "a1"), ("q4", "a4")], [3]),
        ("question,answer,note\nq1,a1\nq2,\nq3,a3,n\nq4\n", [("q1", "a1"), ("q3", "a3")], [3, 5]),
    ],
)
def test_a_row_with_too_few_values_is_named_by_its_line(tmp_path, text, expected, lines):
    (tmp_path / "a.csv").write_text(text)
    rows = read_rows(tmp_path / "a.csv")
    note = next(note for note in rows.notes if note.key == "note.short_rows")
    assert pairs(rows) == expected and rows.dropped == {"short": len(lines)}
    assert note.values == {"count": len(lines), "lines": lines} and str(lines[0]) in note.text("en")
    assert [n.values for n in preview(Data(source=str(tmp_path / "a.csv"))).notes if n == note] == [note.values]


def test_rows_whose_last_empty_cells_are_left_out_and_blank_lines_are_no_short_rows(tmp_path):
    (tmp_path / "a.csv").write_text(
        'question,answer,note,x\nq,a\n \nr,"one, two, 2\nthree, four, five",n\n,\n,,,\ns,t,,\n'
    )
    rows = read_rows(tmp_path / "a.csv")
    assert pairs(rows) == [("q", "a"), ("r", "one, two, 2\nthree, four, five"), ("s", "t")]
    assert rows.dropped == {"empty": 3} and "note.short_rows" not in note_keys(rows)
    (tmp_path / "b.csv").write_text("question,answer\nq,a\nr\n")
    assert problem_keys(read_error(tmp_path / "b.csv", drop_empty=False)) == ["error.empty_rows"]


def test_unnamed_and_repeated_columns_are_kept(tmp_path):
    (tmp_path / "a.csv").write_text("question,,answer,answer\na,b,c,d\n")
    seen = preview(Data(source=str(tmp_path / "a.csv")))
    assert seen.records == [{"question": "a", "column 2": "b", "answer": "c", "answer (4)": "d"}]
    (tmp_path / "b.csv").write_text("x (3),x,x,answer\na,b,c,d\n")
    assert list(preview(Data(source=str(tmp_path / "b.csv"))).records[0].values()) == ["a", "b", "c", "d"]


def test_an_unclosed_quote_names_the_line_where_its_row_begins(tmp_path):
    (tmp_path / "a.csv").write_text('instruction,output\na,b\nc,"d\n' + "e,f\n" * 5000)
    error = read_error(tmp_path / "a.csv")
    assert problem_keys(error) == ["error.csv_quote"] and "line 3" in str(error)
    seen = preview(Data(source=str(tmp_path / "a.csv")))
    assert [r["instruction"] for r in seen.records] == ["a"] and [p.key for p in seen.problems] == ["error.csv_quote"]


def test_several_broken_lines_are_reported_at_once(tmp_path):
    lines = ['{"instruction": "a", "output": "b"}'] * 9
    lines[2], lines[5], lines[6] = '{"instruction": ', "[1]", "nonsense"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    error = read_error(tmp_path / "a.jsonl")
    assert problem_keys(error) == ["error.json", "error.not_object", "error.json"]
    assert "line 3" in str(error) and "row 6" in str(error) and "line 7" in str(error)
    seen = preview(Data(source=str(tmp_path / "a.jsonl")))
    assert len(seen.records) == 6 and [p.key for p in seen.problems] == problem_keys(error)


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
def test_a_json_list_is_read_in_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    rows = [{"instruction": f'é\\ "{n}"\n', "output": "x" * n, "n": [n, -1.5e3, None, True]} for n in range(1, 40)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    assert pairs(read_rows(tmp_path / "a.json")) == [(r["instruction"], r["output"]) for r in rows]
    for broken, line in (
        ('[\n{"a": 1},\n{"a" 2}]', 3),
        ('[{"a": 1}\n{"a": 2}]', 2),
        ('[\n\n{"a": 1},', 3),
        ('[\n{"a": tru', 2),
        ('[{"a": 1}]\n]', 2),
        ('[{"a": 1},\n,]', 2),
    ):
        (tmp_path / "b.json").write_text(broken)
        error = read_error(tmp_path / "b.json")
        assert problem_keys(error)[-1] == "error.json" and f"line {line}:" in str(error), broken


def test_a_number_split_between_two_chunks_stays_whole(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 1)
    assert list(json_stream.iter_list("[", io.StringIO("12, 345]"), "a.json")) == [12, 345]


def test_one_object_that_contains_lists(tmp_path):
    one = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "one.json").write_text(json.dumps(one, indent=1))
    assert pairs(read_rows(tmp_path / "one.json")) == [("a", "b")]
    (tmp_path / "two.json").write_text(
        json.dumps({"train": [{"question": "a", "answer": "b"}], "test": [{"question": "c", "answer": "d"}]})
    )
    rows = read_rows(tmp_path / "two.json")
    assert pairs(rows) == [("a", "b")] and rows.notes[0].values == {"lists": ["test"]}


def test_json_and_json_lines_are_read_under_either_suffix(tmp_path):
    rows = [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]
    for text in (
        json.dumps(rows),
        json.dumps(rows, indent=2),
        "\n".join(map(json.dumps, rows)),
        "\n\n".join(map(json.dumps, rows)) + "\n",
        json.dumps({"rows": rows}, indent=2),
    ):
        for name in ("a.json", "a.jsonl"):
            (tmp_path / name).write_text(text)
            assert pairs(read_rows(tmp_path / name)) == [("a", "b"), ("c", "d")], (name, text)


def test_plain_text_is_split_into_paragraphs_or_lines(tmp_path):
    (tmp_path / "a.txt").write_text("\n\none\ntwo\n \nthree\n\n\nfour")
    rows = read_rows(tmp_path / "a.txt")
    assert [(r.instruction, r.output, r.number) for r in rows.train] == [
        ("", "one\ntwo", 1),
        ("", "three", 2),
        ("", "four", 3),
    ] and note_keys(rows) == ["note.paragraphs"]
    (tmp_path / "b.txt").write_text("one\ntwo\nthree\n")
    rows = read_rows(tmp_path / "b.txt")
    assert [r.output for r in rows.train] == ["one", "two", "three"] and note_keys(rows) == ["note.lines"]


@pytest.mark.skipif(not SENTENCES.is_file(), reason="ud_japanese_gsd.test.txt is not in ../shared/data")
def test_real_plain_text_files():
    assert read_rows(SENTENCES, drop_duplicates=False).total == 543
    rows = read_rows(DATA / "wikitext-2-raw.test.txt", drop_duplicates=False)
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", (DATA / "wikitext-2-raw.test.txt").read_text(encoding="utf-8"))
    assert [r.output.strip() for r in rows.train] == [p.strip() for p in paragraphs if p.strip()] and rows.notes[
        0
    ].key == "note.paragraphs"


def test_a_text_with_a_very_long_line_is_read_fast(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 3_000_000 + "\nsecond")
    assert [len(r.output) for r in read_rows(tmp_path / "a.txt").train] == [
        3_000_000,
        6,
    ]  # a search that looks on from each character would take hours


def test_archives_are_named_and_not_unpacked(tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jsonl", b"0" * 2**24)
    for name, data, kind in (
        ("a.zip", bomb.getvalue(), "zip"),
        ("a.jsonl", bomb.getvalue(), "zip"),
        ("b.tgz", gzip.compress(b"{}"), "tar"),
        ("b.7z", b"7z\xbc\xaf\x27\x1c", "7z"),
        ("c.zip", b"", "zip"),
    ):
        (tmp_path / name).write_bytes(data)
        error = read_error(tmp_path / name)
        assert problem_keys(error) == ["error.packed"] and kind in str(error)


def test_a_parquet_file_too_large_when_unpacked_is_rejected(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"instruction": ["q" * 10**6] * 3, "output": ["a" * 10**6, "b" * 10**6, "c" * 10**6]}),
        path,
        compression="zstd",
    )
    assert path.stat().st_size < 10**5 and len(read_rows(path).train) == 3
    monkeypatch.setattr(parquet, "MAX_UNPACKED_BYTES", 10**6)
    error = read_error(path)
    assert problem_keys(error) == ["error.unpacked"] and "MiB" in str(error)


def test_a_value_shared_by_many_parquet_rows_is_unpacked_in_batches(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays([0] * 1000, ["x" * 10**6])}),
        path,
        compression="zstd",
    )
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 2**25)
    taken = []
    iter_batches = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "iter_batches",
        lambda self, batch_size: taken.append(batch_size) or iter_batches(self, batch_size=batch_size),
    )
    assert len(preview(Data(source=str(path), drop_duplicates=False)).rows) == 20
    assert 1 < taken[0] and taken[0] * 10**6 <= parquet.MAX_BATCH_BYTES


def test_a_row_of_ten_megabytes_is_read_and_noted(tmp_path):
    long = "長" * (10 * 2**20 // 3)
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"instruction": "q", "output": long}, ensure_ascii=False)
        + "\n"
        + json.dumps({"instruction": "q2", "output": "a"}),
        encoding="utf-8",
    )
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["instruction", "output"], ["q", long], ["q2", "a"]])
    for name in ("a.jsonl", "a.csv"):
        rows = read_rows(tmp_path / name)
        assert pairs(rows) == [("q", long), ("q2", "a")]
        assert [(n.key, n.values["rows"]) for n in rows.notes] == [("note.long", [1])]
        assert len(preview(Data(source=str(tmp_path / name))).records[0]["output"]) == 2000


def test_parquet_under_another_name_is_detected_by_its_first_bytes(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": "a", "answer": "b"}]), tmp_path / "a.csv")
    assert pairs(read_rows(tmp_path / "a.csv")) == [("a", "b")]
    pyarrow.parquet.write_table(pyarrow.table({"question": [], "answer": []}), tmp_path / "b.parquet")
    assert problem_keys(read_error(tmp_path / "b.parquet")) == ["error.no_rows"]


def test_lone_surrogates_are_replaced_and_all_else_is_unchanged(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "x\\ud800y \\ud83d\\ude00", "output": "<script>\\u0000\\u202e\\u200b</script>"}'
    )
    rows = read_rows(tmp_path / "a.jsonl")
    assert rows.train == [Row("x\ufffdy 😀", "<script>\0\u202e\u200b</script>")]
    assert [(n.key, n.values) for n in rows.notes] == [("note.hidden", {"count": 1, "rows": [1]})]
