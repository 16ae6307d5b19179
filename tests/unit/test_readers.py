"""Files as people have them: encodings, newlines, broken lines, packed and large files, pasted texts."""

import csv
import gzip
import io
import json
import re
import zipfile

import pytest
from toys import PROJECT, keys

from playground.data import encodings, parquet, readers
from playground.data.source import Row, preview, read, save_pasted
from playground.errors import PlaygroundError
from playground.settings import Data, Settings, problems

DATA = PROJECT.parent / "shared" / "data"
SENTENCES = DATA / "ud_japanese_gsd.test.txt"
TABLE = "instruction,output\n船はいつ出ますか？,毎朝七時です。\n港はどこですか,駅の裏です\n"
TAUGHT = [("船はいつ出ますか？", "毎朝七時です。"), ("港はどこですか", "駅の裏です")]


def _read(path, **values):
    return read(Data(source=str(path), **{"held_out": 0.0, **values}))


def _pairs(rows) -> list[tuple[str, str]]:
    return [(row.instruction, row.output) for row in rows.train]


def _told(path, **values) -> PlaygroundError:
    with pytest.raises(PlaygroundError) as caught:
        _read(path, **values)
    assert caught.value.text("ja")
    return caught.value


def _notes(rows) -> list[str]:
    return [note.key for note in rows.notes]


# --- encodings ---


@pytest.mark.parametrize(
    "encoding,guessed",
    [
        ("utf-8", False),
        ("utf-8-sig", False),
        ("utf-16", False),
        ("utf-32", False),
        ("cp932", True),
        ("euc_jp", True),
        ("iso2022_jp", True),
    ],
)
def test_a_text_is_read_in_its_own_encoding_and_a_guess_is_told(tmp_path, encoding, guessed):
    path = tmp_path / "a.csv"
    path.write_bytes(TABLE.encode(encoding))
    rows, seen = _read(path), preview(Data(source=str(path)))
    assert _pairs(rows) == TAUGHT
    assert ("note.encoding_guessed" in _notes(rows), seen.encoding_guessed) == (guessed, guessed)
    assert seen.encoding == encoding and _pairs(_read(path, encoding=encoding)) == TAUGHT


def test_western_text_from_a_spreadsheet_is_guessed(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,answer\nWhere’s the café?,“Naïve” rue 9 – 10 €\n".encode("cp1252"))
    assert _pairs(_read(tmp_path / "a.csv")) == [("Where’s the café?", "“Naïve” rue 9 – 10 €")]


@pytest.mark.skipif(not SENTENCES.is_file(), reason="ud_japanese_gsd.test.txt is not in ../shared/data")
@pytest.mark.parametrize("encoding", ["cp932", "euc_jp"])
def test_a_japanese_sentence_is_enough_to_tell_its_encoding(tmp_path, encoding):
    path, wrong = tmp_path / "a.txt", []
    for sentence in filter(lambda text: not text.isascii(), SENTENCES.read_text(encoding="utf-8").splitlines()[::4]):
        try:
            path.write_bytes(sentence[:24].encode(encoding))
        except UnicodeEncodeError:
            continue
        if encodings.detect(path).name != encoding:
            wrong.append(sentence[:24])
    assert wrong == []


def test_bytes_of_no_encoding_are_told_with_their_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"instruction": "a", "output": "b"}\n{"instruction": "\xff\x00\x81", "output": "b"}\n'
    )
    error = _told(tmp_path / "a.jsonl")
    assert keys_of(error) == ["error.encoding"] and "line 2, byte 53" in str(error)


def test_a_wrong_choice_of_encoding_is_told_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(TABLE.encode("cp932"))
    error = _told(tmp_path / "a.csv", encoding="utf-8")
    assert keys_of(error) == ["error.encoding_chosen"] and "line 2 (byte 19)" in str(error)
    for name in ("klingon", "zlib", "hex", "undefined", "a\0b"):
        assert keys_of(_told(tmp_path / "a.csv", encoding=name)) == ["error.encoding_unknown"]
        assert [p.key for p in problems(Settings(data=Data(encoding=name)))] == ["error.encoding_unknown"]


def test_a_character_cut_between_two_reads_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "CHUNK", 5)
    for encoding in ("utf-8", "cp932", "euc_jp", "utf-16"):
        (tmp_path / "a.csv").write_bytes(TABLE.encode(encoding))
        assert encodings.detect(tmp_path / "a.csv", encoding).name == encoding
    (tmp_path / "b.txt").write_bytes("船は\n港の".encode() + b"\xff")
    with pytest.raises(PlaygroundError) as caught:
        encodings.detect(tmp_path / "b.txt", "utf-8")
    assert "line 2 (byte 13)" in str(caught.value)


def test_a_preview_finds_the_same_encoding_as_reading_where_the_last_character_is_cut(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"plain words\nand the end\xc2")
    seen = preview(Data(source=str(tmp_path / "a.txt")))
    assert (seen.encoding, seen.encoding_guessed) == ("cp1252", True) and [r.output for r in seen.rows] == [
        r.output for r in _read(tmp_path / "a.txt").train
    ]


def keys_of(error: PlaygroundError) -> list[str]:
    return [problem.key for problem in error.problems]


# --- forms ---


@pytest.mark.parametrize("newlines", ["\r\n", "\r", "mixed"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_all_kinds_of_newlines_part_lines(tmp_path, newlines, name):
    lines = {
        "a.csv": ["instruction,output", "a,b", "c,d", "e,f"],
        "a.txt": ["b", "d", "f"],
        "a.jsonl": [json.dumps({"instruction": a, "output": b}) for a, b in ("ab", "cd", "ef")],
    }[name]
    ends = [newlines] * len(lines) if newlines != "mixed" else ["\r\n", "\n", "\r", "\n"]
    (tmp_path / name).write_bytes("".join(line + end for line, end in zip(lines, ends)).encode())
    assert [row.output for row in _read(tmp_path / name).train] == ["b", "d", "f"]


def test_separators_of_unicode_part_no_lines(tmp_path):
    row = {"instruction": "a\u2028b", "output": "c\x85d\x0b"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "a.csv").write_text(f"instruction,output\n{row['instruction']},{row['output']}\n", encoding="utf-8")
    for name in ("a.jsonl", "a.csv"):
        assert _pairs(_read(tmp_path / name)) == [(row["instruction"], row["output"])]


@pytest.mark.parametrize("delimiter,name", [("\t", "a.tsv"), ("\t", "a.csv"), (";", "a.csv")])
def test_tables_parted_otherwise(tmp_path, delimiter, name):
    with open(tmp_path / name, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["question", "answer"], ["a, b", 'x "y"\nz'], ["c", "d"]])
    rows = _read(tmp_path / name)
    assert _pairs(rows) == [("a, b", 'x "y"\nz'), ("c", "d")]
    assert ("note.delimiter" in _notes(rows)) == (name == "a.csv")


def test_a_table_row_with_too_many_fields_is_left_out_and_numbered(tmp_path):
    (tmp_path / "a.csv").write_text("instruction,output\na,b\nHello, you,c\nd,e,\nf\n")
    rows = _read(tmp_path / "a.csv")
    assert _pairs(rows) == [("a", "b"), ("d", "e")]
    assert rows.dropped == {"fields": 1, "empty": 1} and rows.where == {"fields": [2], "empty": [4]} and rows.total == 4


def test_columns_of_a_table_without_a_name_or_with_the_same_one_stay(tmp_path):
    (tmp_path / "a.csv").write_text("question,,answer,answer\na,b,c,d\n")
    seen = preview(Data(source=str(tmp_path / "a.csv")))
    assert seen.records == [{"question": "a", "column 2": "b", "answer": "c", "answer (4)": "d"}]
    (tmp_path / "b.csv").write_text("x (3),x,x,answer\na,b,c,d\n")
    assert list(preview(Data(source=str(tmp_path / "b.csv"))).records[0].values()) == ["a", "b", "c", "d"]


def test_an_unclosed_quote_names_the_line_where_its_row_begins(tmp_path):
    (tmp_path / "a.csv").write_text('instruction,output\na,b\nc,"d\n' + "e,f\n" * 5000)
    error = _told(tmp_path / "a.csv")
    assert keys_of(error) == ["error.csv_quote"] and "line 3" in str(error)
    seen = preview(Data(source=str(tmp_path / "a.csv")))
    assert [r["instruction"] for r in seen.records] == ["a"] and [p.key for p in seen.problems] == ["error.csv_quote"]


def test_several_broken_lines_are_told_at_once(tmp_path):
    lines = ['{"instruction": "a", "output": "b"}'] * 9
    lines[2], lines[5], lines[6] = '{"instruction": ', "[1]", "nonsense"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    error = _told(tmp_path / "a.jsonl")
    assert keys_of(error) == ["error.json", "error.not_object", "error.json"]
    assert "line 3" in str(error) and "row 6" in str(error) and "line 7" in str(error)
    seen = preview(Data(source=str(tmp_path / "a.jsonl")))
    assert len(seen.records) == 6 and [p.key for p in seen.problems] == keys_of(error)


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
def test_a_json_list_is_read_piece_by_piece(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(readers.json_stream, "CHUNK", chunk)
    rows = [{"instruction": f'é\\ "{n}"\n', "output": "x" * n, "n": [n, -1.5e3, None, True]} for n in range(1, 40)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    assert _pairs(_read(tmp_path / "a.json")) == [(r["instruction"], r["output"]) for r in rows]
    for broken, line in (
        ('[\n{"a": 1},\n{"a" 2}]', 3),
        ('[{"a": 1}\n{"a": 2}]', 2),
        ('[\n\n{"a": 1},', 3),
        ('[\n{"a": tru', 2),
        ('[{"a": 1}]\n]', 2),
        ('[{"a": 1},\n]', 2),
    ):
        (tmp_path / "b.json").write_text(broken)
        error = _told(tmp_path / "b.json")
        assert keys_of(error)[-1] == "error.json" and f"line {line}:" in str(error), broken


def test_one_object_that_holds_lists(tmp_path):
    one = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "one.json").write_text(json.dumps(one, indent=1))
    assert _pairs(_read(tmp_path / "one.json")) == [("a", "b")]
    (tmp_path / "two.json").write_text(
        json.dumps({"train": [{"question": "a", "answer": "b"}], "test": [{"question": "c", "answer": "d"}]})
    )
    rows = _read(tmp_path / "two.json")
    assert _pairs(rows) == [("a", "b")] and rows.notes[0].values == {"lists": ["test"]}


def test_json_is_read_for_what_it_is_under_either_name(tmp_path):
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
            assert _pairs(_read(tmp_path / name)) == [("a", "b"), ("c", "d")], (name, text)


def test_plain_text_is_a_row_a_paragraph_or_a_row_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("\n\none\ntwo\n \nthree\n\n\nfour")
    rows = _read(tmp_path / "a.txt")
    assert [(r.instruction, r.output, r.number) for r in rows.train] == [
        ("", "one\ntwo", 1),
        ("", "three", 2),
        ("", "four", 3),
    ] and _notes(rows) == ["note.paragraphs"]
    (tmp_path / "b.txt").write_text("one\ntwo\nthree\n")
    rows = _read(tmp_path / "b.txt")
    assert [r.output for r in rows.train] == ["one", "two", "three"] and _notes(rows) == ["note.lines"]


@pytest.mark.skipif(not SENTENCES.is_file(), reason="ud_japanese_gsd.test.txt is not in ../shared/data")
def test_real_plain_text():
    assert _read(SENTENCES, drop_duplicates=False).total == 543
    rows = _read(DATA / "wikitext-2-raw.test.txt", drop_duplicates=False)
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", (DATA / "wikitext-2-raw.test.txt").read_text(encoding="utf-8"))
    assert [r.output.strip() for r in rows.train] == [p.strip() for p in paragraphs if p.strip()] and rows.notes[
        0
    ].key == "note.paragraphs"


def test_a_text_of_one_long_line_is_read_in_no_time(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 3_000_000 + "\nsecond")
    assert [len(r.output) for r in _read(tmp_path / "a.txt").train] == [
        3_000_000,
        6,
    ]  # a search that looks on from each character would take hours


# --- what is packed or large ---


def test_packed_files_are_named_and_left_packed(tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jsonl", b"0" * 2**24)
    for name, data, kind in (
        ("a.zip", bomb.getvalue(), "zip"),
        ("a.jsonl", bomb.getvalue(), "zip"),
        ("a.jsonl.gz", gzip.compress(b"{}"), "gzip"),
        ("b.csv", gzip.compress(b"{}"), "gzip"),
        ("c.zip", b"", "zip"),
    ):
        (tmp_path / name).write_bytes(data)
        error = _told(tmp_path / name)
        assert keys_of(error) == ["error.packed"] and kind in str(error)


def test_a_parquet_file_that_grows_when_unpacked_is_refused_by_its_size(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"instruction": ["q" * 10**6] * 3, "output": ["a" * 10**6, "b" * 10**6, "c" * 10**6]}),
        path,
        compression="zstd",
    )
    assert path.stat().st_size < 10**5 and len(_read(path).train) == 3
    monkeypatch.setattr(parquet, "MOST_UNPACKED", 10**6)
    error = _told(path)
    assert keys_of(error) == ["error.unpacked"] and "MiB" in str(error)


def test_a_value_that_stands_for_many_parquet_rows_is_not_unpacked_all_at_once(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays([0] * 1000, ["x" * 10**6])}),
        path,
        compression="zstd",
    )
    monkeypatch.setattr(parquet, "AT_ONCE", 2**25)
    taken = []
    iter_batches = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "iter_batches",
        lambda self, batch_size: taken.append(batch_size) or iter_batches(self, batch_size=batch_size),
    )
    assert len(preview(Data(source=str(path), drop_duplicates=False)).rows) == 20
    assert 1 < taken[0] and taken[0] * 10**6 <= parquet.AT_ONCE


def test_a_row_of_ten_megabytes_is_read_and_told(tmp_path):
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
        rows = _read(tmp_path / name)
        assert _pairs(rows) == [("q", long), ("q2", "a")]
        assert [(n.key, n.values["rows"]) for n in rows.notes] == [("note.long", [1])]
        assert len(preview(Data(source=str(tmp_path / name))).records[0]["output"]) == 2000


def test_a_parquet_under_another_name_is_seen_by_its_first_bytes(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": "a", "answer": "b"}]), tmp_path / "a.csv")
    assert _pairs(_read(tmp_path / "a.csv")) == [("a", "b")]
    pyarrow.parquet.write_table(pyarrow.table({"question": [], "answer": []}), tmp_path / "b.parquet")
    assert keys_of(_told(tmp_path / "b.parquet")) == ["error.no_rows"]


# --- pasted ---


@pytest.mark.parametrize(
    "text,kind,taught",
    [
        ('[{"question": "a", "answer": "b"}]', "json", [("a", "b")]),
        ('{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"}\n', "jsonl", [("a", "b"), ("c", "d")]),
        ('{"question": "a",\n "answer": "b"}', "json", [("a", "b")]),
        ("question\tanswer\na\tb, c\n", "tsv", [("a", "b, c")]),
        ("質問,回答\nか,き\n", "csv", [("か", "き")]),
        ("question;answer\na;b\n", "csv", [("a", "b")]),
        ("Hello, world.\nBye, world.\n", "txt", [("", "Hello, world."), ("", "Bye, world.")]),
        ("[1] a note\n\nand more", "txt", [("", "[1] a note"), ("", "and more")]),
        ("今日は晴れ、明日は雨。", "txt", [("", "今日は晴れ、明日は雨。")]),
    ],
)
def test_a_pasted_text_becomes_a_file_of_its_kind(tmp_path, text, kind, taught):
    path = save_pasted(text, tmp_path / "pasted")
    assert path.suffix == f".{kind}" and _pairs(_read(path)) == taught
    assert save_pasted(text, tmp_path / "pasted") == path


def test_an_empty_paste_is_told(tmp_path):
    with pytest.raises(PlaygroundError) as caught:
        save_pasted(" \n", tmp_path)
    assert keys(caught) == ["error.pasted_empty"] and list(tmp_path.iterdir()) == []


def test_half_characters_are_mended_and_all_else_stays(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "x\\ud800y \\ud83d\\ude00", "output": "<script>\\u0000\\u202e\\u200b</script>"}'
    )
    rows = _read(tmp_path / "a.jsonl")
    assert rows.train == [Row("x\ufffdy 😀", "<script>\0\u202e\u200b</script>")]
    assert [(n.key, n.values) for n in rows.notes] == [("note.hidden", {"count": 1, "rows": [1]})]
