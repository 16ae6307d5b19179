"""What is taken home and can't be written: a sentence that names the file, nothing new, and nothing lost."""

import errno
import os
import time

import pytest
from filelock import FileLock
from malformed_runs import make
from toys import keys

from playground.__main__ import main
from playground.errors import PlaygroundError, as_playground_error
from playground.export import destination as places
from playground.share import files

CODES = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(code, os.strerror(code)) for code in CODES),
        Exception(f"Disk quota exceeded (os error {errno.EDQUOT})"),  # as tokenizers (Rust) says it
    ],
)
def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path, error):
    with pytest.raises(OSError) as caught, places.destination(tmp_path, "model.gguf"):
        raise error
    [found] = as_playground_error(caught.value).problems
    assert (found.key, found.values["path"]) == ("error.disk_full", str(tmp_path / "model.gguf"))
    assert left(tmp_path) == []


def test_a_disk_that_fails_is_named_with_the_file_and_no_defect_of_the_program(tmp_path):
    with pytest.raises(OSError) as caught, places.destination(tmp_path, "merged"):
        raise OSError(errno.EIO, "Input/output error")
    [found] = as_playground_error(caught.value).problems
    assert found.key == "error.file" and found.values["path"] == str(tmp_path / "merged")


def test_a_full_disk_without_a_name_is_a_whole_sentence():
    text = as_playground_error(OSError(errno.ENOSPC, "full")).text("en")
    assert "a file couldn't be written" in text and "  " not in text


@pytest.mark.parametrize("code", [*CODES, errno.EIO])
@pytest.mark.parametrize("failing", ["second", "third"])
def test_files_that_belong_together_are_all_written_or_none(tmp_path, monkeypatch, code, failing):
    texts = {tmp_path / name: f"new {name}" for name in ("first", "second", "third")}
    for path in texts:
        path.write_text("old")
    write = type(tmp_path).write_text

    def limited(path, *arguments, **options):
        if path.name.startswith(failing):
            write(path, "ne")
            raise OSError(code, os.strerror(code))
        return write(path, *arguments, **options)

    monkeypatch.setattr(type(tmp_path), "write_text", limited)
    with pytest.raises((PlaygroundError, OSError)) as caught:
        files.write_together(texts)
    assert failing in as_playground_error(caught.value).text("en")
    assert left(tmp_path) == ["first", "second", "third"]
    assert {path.read_text() for path in texts} == {"old"}


def test_a_folder_in_a_files_place_keeps_the_others_from_being_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(PlaygroundError) as caught:
        files.write_together({tmp_path / "a": "x", tmp_path / "b": "y"})
    assert keys(caught) == ["error.write_file"] and left(tmp_path) == ["a"]


def test_a_recording_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, capsys):
    run, path = make(tmp_path / "runs"), tmp_path / "talk.jsonl"
    path.write_text("before")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    assert main(["record", run.id, str(path), "--runs", str(tmp_path / "runs")]) == 1
    monkeypatch.undo()
    assert path.read_text() == "before" and left(tmp_path) == ["runs", "talk.jsonl"]
    assert f"The disk is full: {path}" in capsys.readouterr().out.replace("\\", "")


def test_an_export_under_way_stays_whatever_the_clock_and_the_process_ids_say(tmp_path, monkeypatch):
    other = tmp_path / f"model.0123abcd-{os.getpid()}.partial"  # as of another container on the same folder
    other.mkdir()
    os.utime(other, (time.time() - 10**6,) * 2)  # begun before the clock was set forward
    with FileLock(places._lock_of(other), thread_local=False):
        with places.destination(tmp_path, "model") as path:
            path.write_text("mine")
        assert other.is_dir()
    places.remove_leftovers(tmp_path)
    assert left(tmp_path) == ["model"]


def test_an_export_leaves_no_lock(tmp_path):
    with places.destination(tmp_path, "model") as path:
        assert len([name for name in left(tmp_path) if name.endswith(".lock")]) == 1
        path.write_text("x")
    assert left(tmp_path) == ["model"]
