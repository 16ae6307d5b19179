"""Read the kinds of files and folders that people have, and refuse the others by their kind."""

import bz2
import datetime
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from data_files import note_keys, pairs, problem_keys, read_error, read_rows, write_jsonl

from playground.data import arrow, excel, parquet, readers
from playground.data.file_kind import KINDS
from playground.data.source import is_remote, preview
from playground.errors import PlaygroundError
from playground.settings import Data

ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in (1, 2)]
EXPECTED = [("q1", "a1"), ("q2", "a2")]


def _workbook(path: Path, **sheets: list) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def _table():
    import pyarrow

    return pyarrow.Table.from_pylist(ROWS)


def test_a_workbook_is_read_and_its_sheet_can_be_chosen(tmp_path):
    first = [["質問", "回答", None], ["港は？", "駅の裏", None], [None, None, None], ["何年？", 2026.0, None]]
    path = _workbook(tmp_path / "faq.xlsx", FAQ=first, Other=[["question", "answer"], ["q", "a"], ["x", "y", "z"]])
    rows = read_rows(path)
    assert pairs(rows) == [("港は？", "駅の裏"), ("何年？", "2026")] and [row.number for row in rows.train] == [1, 2]
    [note] = [note for note in rows.notes if note.key == "note.sheet"]
    assert note.values == {"sheet": "FAQ", "others": ["Other"]}
    rows = read_rows(path, part="Other")
    assert pairs(rows) == [("q", "a")] and rows.where == {"fields": [2]} and "note.sheet" not in note_keys(rows)
    error = read_error(path, part="None")
    assert problem_keys(error) == ["error.part_absent"] and "FAQ, Other" in str(error)
    assert preview(Data(source=str(path))).parts == ["FAQ", "Other"] and preview(Data(source=str(path))).kind == "excel"


@pytest.mark.parametrize(
    "value,number_format,shown",
    [
        (datetime.date(2024, 5, 1), "yyyy/m/d", "2024-05-01"),
        (datetime.datetime(2024, 5, 1), '[$-411]ggge"年"m"月"d"日"', "2024-05-01"),
        (datetime.datetime(2024, 5, 1, 9, 30), "yyyy/m/d h:mm", "2024-05-01 09:30:00"),
        (datetime.time(9, 30), "h:mm", "09:30:00"),
        (0.125, "0.0%", "12.5%"),
        (0.125, "0%", "13%"),
        (-0.07, '[Red]-0.00%;"x"', "-7.00%"),
        (0.5, "0.##%", "50%"),
        (0.12345, "0.0#%", "12.35%"),
        (1, "0 %", "100%"),
        (12.5, "#,##0.0%", "1250.0%"),
        (0.125, '0.000" of 100%"', "0.125"),
        (0.125, "General", "0.125"),
        (3.0, "0", "3"),
        (True, "0%", "true"),
        ("12%", "0%", "12%"),
    ],
)
def test_dates_and_percentages_of_a_workbook_are_read_as_shown(tmp_path, value, number_format, shown):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["question", "answer"])
    book.active.append(["q", value])
    book.active["B2"].number_format = number_format
    book.save(tmp_path / "a.xlsx")
    assert pairs(read_rows(tmp_path / "a.xlsx")) == [("q", shown)]
    assert preview(Data(source=str(tmp_path / "a.xlsx"))).records == [{"question": "q", "answer": shown}]


def test_a_date_in_a_parquet_file_has_no_time(tmp_path):
    import pyarrow.parquet

    dates = [datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, 9)]
    pyarrow.parquet.write_table(pyarrow.table({"question": ["q", "r"], "answer": dates}), tmp_path / "a.parquet")
    assert pairs(read_rows(tmp_path / "a.parquet")) == [("q", "2024-05-01"), ("r", "2024-05-01 09:00:00")]


def test_a_broken_or_huge_workbook_is_reported(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04 cut")
    for name in ("a.xlsx", "b.xlsx"):
        error = read_error(tmp_path / name)
        assert problem_keys(error) == ["error.excel"] and "CSV" in str(error) and "npack" not in str(error)
    _workbook(tmp_path / "c.xlsx", S=[["question", "answer"], ["q" * 30000, "a"]])
    monkeypatch.setattr(excel, "MAX_UNPACKED_BYTES", 10_000)
    assert problem_keys(read_error(tmp_path / "c.xlsx")) == ["error.unpacked"]


def _zstd(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": _zstd}


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_are_read_and_their_copy_removed(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, text in (("a.jsonl", lines), ("a.csv", "question,answer\nq1,a1\nq2,a2\n"), ("a", lines)):
        (tmp_path / (name + suffix)).write_bytes(PACKERS[suffix](text.encode()))
        assert pairs(read_rows(tmp_path / (name + suffix))) == EXPECTED
        assert len(preview(Data(source=str(tmp_path / (name + suffix)), held_out=0.0)).rows) == 2
    (tmp_path / "plain.csv").write_bytes(PACKERS[suffix](b"question,answer\nq1,a1\nq2,a2\n"))
    assert pairs(read_rows(tmp_path / "plain.csv")) == EXPECTED
    (tmp_path / f"bad.jsonl{suffix}").write_bytes(PACKERS[suffix](lines.encode())[:-8])
    assert problem_keys(read_error(tmp_path / f"bad.jsonl{suffix}")) == ["error.packed_damaged"]
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_file_that_unpacks_to_too_much_is_rejected_early(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 2**22)
    path = tmp_path / f"bomb.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](b"0" * 2**25))
    error = read_error(path)
    assert problem_keys(error) == ["error.unpacked_over"] and "4.0 MiB" in str(error)


@pytest.mark.parametrize("form", ["file", "stream", "feather"])
def test_arrow_files_are_read(tmp_path, form):
    import pyarrow
    import pyarrow.feather

    path = tmp_path / "a.arrow"
    if form == "feather":
        path = tmp_path / "a.feather"
        pyarrow.feather.write_feather(_table(), path)  # compressed
    else:
        with (pyarrow.ipc.new_file if form == "file" else pyarrow.ipc.new_stream)(str(path), _table().schema) as writer:
            writer.write_table(_table())
    assert pairs(read_rows(path)) == EXPECTED


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_an_arrow_file_that_unpacks_to_too_much_is_rejected(tmp_path, monkeypatch, codec):
    import pyarrow

    table = pyarrow.table({"question": ["q" * 10**6] * 4, "answer": ["a"] * 4}).cast(
        pyarrow.schema({"question": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), "answer": pyarrow.string()})
    )
    for name, columns in (("a.arrow", table), ("b.arrow", pyarrow.table({"text": ["x" * 10**6] * 3}))):
        options = pyarrow.ipc.IpcWriteOptions(compression=codec)
        with pyarrow.ipc.new_file(str(tmp_path / name), columns.schema, options=options) as writer:
            writer.write_table(columns)
        assert (tmp_path / name).stat().st_size < 10**5 and len(read_rows(tmp_path / name, drop_duplicates=False).train)
        with monkeypatch.context() as patch:
            patch.setattr(arrow, "MAX_UNPACKED_BYTES", 10**5)
            assert problem_keys(read_error(tmp_path / name)) == ["error.unpacked"]


def test_a_file_that_is_no_arrow_is_reported(tmp_path):
    for data in (b"", b"nothing", arrow.FILE_SIGNATURE + b"\xff\xff\xff\xff\x10\0\0\0" + b"\7" * 40):
        (tmp_path / "a.arrow").write_bytes(data)
        assert problem_keys(read_error(tmp_path / "a.arrow"))[0] in ("error.arrow", "error.no_rows")


def test_damaged_files_are_reported_or_read_and_never_end_the_process(tmp_path):
    import random

    import pyarrow.feather

    pyarrow.feather.write_feather(_table(), tmp_path / "a.arrow")
    pyarrow.feather.write_feather(_table(), tmp_path / "b.arrow", compression="uncompressed")
    _workbook(tmp_path / "c.xlsx", S=[["question", "answer"], ["q", "a"]])
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "e.jsonl.zst").write_bytes(_zstd(lines))
    generator = random.Random(0)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(generator.randint(1, 6)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            path.write_bytes(damaged[: generator.randrange(len(damaged))] if generator.random() < 0.2 else damaged)
            try:
                read_rows(path)
            except PlaygroundError as error:
                assert error.text("en") and error.text("ja")


def test_folders_of_save_to_disk_are_read(tmp_path):
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    assert pairs(read_rows(tmp_path / "one")) == EXPECTED and not is_remote(str(tmp_path / "one"))
    datasets.DatasetDict(test=table.select([1]), train=table).save_to_disk(tmp_path / "two")
    rows = read_rows(tmp_path / "two")
    assert pairs(rows) == EXPECTED and "note.split" in note_keys(rows)
    assert pairs(read_rows(tmp_path / "two", part="test")) == EXPECTED[1:]
    error = read_error(tmp_path / "two", part="dev")
    assert problem_keys(error) == ["error.part_absent"] and "train" in str(error)
    assert preview(Data(source=str(tmp_path / "two"), held_out=0.0)).kind == "folder"


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_folders_of_parquet_and_arrow_files_are_read(tmp_path, monkeypatch, suffix):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "set" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        path = tmp_path / "set" / "data" / f"{split}-00000-of-00001.{suffix}"
        if suffix == "parquet":
            pyarrow.parquet.write_table(_table(), path)
        else:
            with pyarrow.ipc.new_stream(str(path), _table().schema) as writer:
                writer.write_table(_table())
    rows = read_rows(tmp_path / "set")
    assert pairs(rows) == EXPECTED and pairs(read_rows(tmp_path / "set", part="test")) == EXPECTED
    if suffix == "parquet":
        monkeypatch.setattr(parquet, "MAX_UNPACKED_BYTES", 10)
        assert problem_keys(read_error(tmp_path / "set")) == ["error.unpacked"]


def _folder(path: Path, **rows: str) -> Path:
    """A folder with Parquet files of one row each: {name: its question}, "/" written as "__"."""
    import pyarrow
    import pyarrow.parquet

    for name, question in rows.items():
        file = path / f"{name.replace('__', '/')}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": question, "answer": "a"}]), file)
    return path


@pytest.mark.parametrize(
    "files,read,parts,unread",
    [
        ({"train": "1", "test": "2"}, "1", ["train", "test"], []),
        ({"test": "2", "dev": "3", "training_ja": "1"}, "1", ["train", "validation", "test"], []),
        ({"train_ja": "1", "train_en": "2", "extra": "3"}, "21", ["train"], ["extra.parquet"]),
        ({"part1": "1", "test_log": "2"}, "1", ["train", "test"], []),
        ({"contest": "1", "latest": "2"}, "12", ["train"], []),
        ({"en__train": "1", "ja__train": "2"}, "12", ["train"], []),
        ({"train__a": "1", "test__a": "2", "b": "3"}, "1", ["train", "test"], ["b.parquet"]),
        (
            {"data__train_sft-00000-of-00001": "1", "data__test_sft-00000-of-00001": "2"},
            "1",
            ["train_sft", "test_sft"],
            [],
        ),
        ({"x-1-of-2": "1", "x-2-of-2": "2"}, "12", ["train"], []),
        ({"test-00000-of-00002": "2", "train": "1"}, "1", ["train", "test"], []),
        ({".cache__train": "2", "a[1] *": "1"}, "1", ["train"], []),
    ],
)
def test_every_file_of_a_folder_is_read_or_named(tmp_path, files, read, parts, unread):
    folder = _folder(tmp_path / "set [x]", **files)
    rows = read_rows(folder)
    assert "".join(row.instruction for row in rows.train) == read
    found = preview(Data(source=str(folder), held_out=0.0)).parts
    assert found == parts
    notes = [note for note in rows.notes if note.key == "note.files_unread"]
    assert [note.values for note in notes] == ([{"count": len(unread), "files": unread}] if unread else [])
    assert all(unread[0] in note.text(lang) for note in notes for lang in ("en", "ja"))


def test_files_of_other_kinds_beside_those_of_a_folder_are_named(tmp_path):
    folder = _folder(tmp_path / "set", a="1", b="2")
    (folder / "more.csv").write_text("question,answer\n3,a\n")
    (folder / "more2.csv").write_text("question,answer\n4,a\n")
    (folder / "more3.csv").write_text("question,answer\n4,a\n")
    (folder / "README.md").write_text("About it.")
    (folder / "dataset_infos.json").write_text("{}")
    with pyarrow_stream(folder / "c.arrow") as writer:
        writer.write_table(_table())
    rows = read_rows(folder)
    assert [row.instruction for row in rows.train] == ["1", "2"]
    values = {"count": 4, "files": ["c.arrow", "more.csv", "more2.csv", "more3.csv"]}
    assert [note.values for note in rows.notes if note.key == "note.files_unread"] == [values]


def pyarrow_stream(path: Path):
    import pyarrow

    return pyarrow.ipc.new_stream(str(path), _table().schema)


def test_a_folder_whose_readme_names_its_files_is_read_as_it_says(tmp_path):
    folder = _folder(tmp_path / "set", x="1", y="2", z="3")
    head = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: y.parquet\n---\n"
    (folder / "README.md").write_text(head + "# About\n")
    rows = read_rows(folder)
    assert [row.instruction for row in rows.train] == ["2"] and "note.files_unread" not in note_keys(rows)


@pytest.mark.parametrize(
    "files,missing",
    [
        (["train-00000-of-00002"], "train-00001-of-00002.parquet"),
        (["train-00001-of-00003"], "train-00000-of-00003.parquet, train-00002-of-00003.parquet"),
        (["data__train-00000-of-00002-0a1b2c"], "data/train-00001-of-00002.parquet"),
        (["part-2-of-2"], "part-1-of-2.parquet"),
        (["train-00000-of-99999"], "train-00008-of-99999.parquet"),
    ],
)
def test_a_folder_that_lacks_one_of_its_numbered_files_is_refused(tmp_path, files, missing):
    error = read_error(_folder(tmp_path / "set", **dict.fromkeys(files, "q")))
    assert problem_keys(error) == ["error.folder_shards"] and missing in str(error) and len(str(error)) < 600


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    assert problem_keys(read_error(tmp_path / "notes")) == ["error.folder"]
    (tmp_path / "notes" / "dataset_info.json").write_text("{}")
    assert problem_keys(read_error(tmp_path / "notes")) == ["error.folder_broken"]


def _zip(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return data.getvalue()


def _gzip(data: bytes) -> bytes:
    """Compressed, without the time of day: processes that share the tests must find the same ones."""
    return gzip.compress(data, mtime=0)


def _tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.jsonl"))
    return data.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.mark.parametrize(
    "name,data,key",
    [
        *((f"a{suffix}", POINTER, "error.lfs_pointer") for suffix in (*KINDS, ".html", "")),
        ("a.zip", _zip("a.jsonl"), "error.packed"),
        ("a.tar.gz", _gzip(_tar()), "error.packed"),
        ("a.tgz", _gzip(_tar()), "error.packed"),
        ("a.jsonl.gz.gz", _gzip(_gzip(b"{}")), "error.packed"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "error.file_excel_old"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "error.file_office_old"),
        ("a.docx", _zip("word/document.xml"), "error.file_word"),
        ("a.csv", _zip("word/document.xml"), "error.file_word"),
        ("a.pptx", _zip("ppt/slides/slide1.xml"), "error.file_slides"),
        ("a.ods", _zip("mimetype", "content.xml"), "error.file_open_document"),
        ("a.pdf", b"%PDF-1.7", "error.file_pdf"),
        ("a.txt", b"%PDF-1.7", "error.file_pdf"),
        ("a.png", b"\x89PNG\r\n", "error.file_media"),
        ("a.db", b"SQLite format 3\0", "error.file_database"),
        ("a.gguf", b"GGUF", "error.file_model"),
        ("a.safetensors", b"x", "error.file_model"),
        ("a.json", b"<!DOCTYPE html><html>", "error.file_web_page"),
        ("a.csv", b"\n <HTML lang=ja>", "error.file_web_page"),
        ("a.html", b"<p>x</p>", "error.file_web_page"),
        ("a.jsonl", b"<?xml version='1.0'?>", "error.file_xml"),
        ("a.xml", b"<a/>", "error.file_xml"),
        ("a.pkl", b"\x80\4", "error.file_pickle"),
        ("a.docx", b"x", "error.file_kind"),
    ],
)
def test_everything_else_is_refused_by_its_kind(tmp_path, name, data, key):
    (tmp_path / name).write_bytes(data)
    assert problem_keys(read_error(tmp_path / name)) == [key]


def test_a_web_page_saved_as_text_is_read_with_a_warning(tmp_path):
    (tmp_path / "a.txt").write_text("<!DOCTYPE html>\n<p>Log in</p>\n")
    assert "note.looks_markup" in note_keys(read_rows(tmp_path / "a.txt"))


def test_nested_columns_are_on_offer(tmp_path):
    record = {"q": "x", "a": {"value": "y", "list": ["z"]}, "messages": [{"role": "user", "content": "u"}], "n": [1, 2]}
    found = preview(Data(source=str(write_jsonl(tmp_path / "a.jsonl", [record]))))
    assert found.nested == ["a.value", "a.list.0", "n.0", "n.1"]
