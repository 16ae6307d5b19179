"""Uploads of a private page outlive Gradio's temporary folder, as long as a run or a queued job may read them again."""

import os
import shutil

import pytest
from pages import page_over

from playground import runs
from playground.data import source, uploads
from playground.jobs import store
from playground.jobs.store import QueuedJob
from playground.settings import Settings
from playground.ui import private_uploads
from playground.ui.access import was_uploaded
from playground.ui.source_names import source_name

TEXT = "question,answer\na,b\n"


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return page_over(tmp_path / "runs", private=True)


@pytest.fixture
def upload(page, tmp_path):
    """`upload(text, name)`: the data set's name after Gradio's own copy is gone, and it was uploaded at that moment."""
    moment = iter(range(10**9, 10**10))

    def kept(text=TEXT, name="my rows.csv") -> str:
        file = tmp_path / "gradio" / "0a1b" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        path = page.keep_upload(str(file))
        shutil.rmtree(tmp_path / "gradio")
        os.utime(os.path.dirname(path), (now := next(moment), now))
        return path

    return kept


def _settings(path: str) -> Settings:
    return Settings().with_values({"data": {"source": path}})


def test_a_run_reads_its_upload_again_after_the_temporary_folder_is_gone(page, upload):
    path = upload()
    run = runs.create(page.root, "tune", _settings(path))
    data = Settings().with_values({"data": {"source": run.settings().data.source, "held_out": 0}}).data
    assert [row.output for row in source.read(data).train] == ["b"]
    assert was_uploaded(path) and source_name(page, path) == "my rows.csv"


@pytest.mark.parametrize("links", [True, False])
def test_the_same_content_is_kept_once_under_each_name(page, upload, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    path = upload()
    assert upload() == path and open(path).read() == TEXT
    other = upload(name="again.csv")
    assert os.path.dirname(other) == os.path.dirname(path) and upload(TEXT + "c,d\n") != path
    assert sorted(os.listdir(os.path.dirname(path))) == ["again.csv", "my rows.csv"]


def test_only_what_no_run_and_no_job_names_is_removed_beyond_the_limits(page, upload, monkeypatch):
    named = [upload(f"{TEXT}{number},x\n") for number in range(3)]
    runs.create(page.root, "tune", _settings(named[0]))
    deleted = runs.create(page.root, "tune", _settings(named[1]))
    runs.delete(page.root, deleted.id)
    store.add(page.root, [QueuedJob("tune", _settings(named[2]).to_dict())])
    monkeypatch.setattr(private_uploads, "MOST_UNUSED", 2)
    unused = [upload(f"{TEXT}y,{number}\n") for number in range(4)]
    assert [os.path.exists(path) for path in named] == [True] * 3
    assert [os.path.exists(path) for path in unused] == [False, False, True, True]
    monkeypatch.setattr(private_uploads, "MOST_UNUSED_BYTES", 30)
    last = upload(f"{TEXT}a much longer row\n")  # alone larger than the limit, and the one that is used next
    assert [os.path.exists(path) for path in (*named, *unused[2:], last)] == [True, True, True, False, False, True]


def test_uploads_of_another_folder_of_runs_stay(page, upload, monkeypatch, tmp_path):
    monkeypatch.setattr(private_uploads, "MOST_UNUSED", 1)
    path, other = upload(), page_over(tmp_path / "others", private=True)
    for number in range(3):
        (file := tmp_path / "rows.csv").write_text(f"{TEXT}{number},x\n")
        other.keep_upload(str(file))
    assert os.path.exists(path)


def test_a_pasted_text_stays_where_it_is_and_a_full_disk_leaves_the_upload_usable(page, tmp_path, monkeypatch):
    pasted = source.save_pasted(TEXT, tmp_path / "cache" / "pasted")
    assert page.keep_upload(str(pasted)) == str(pasted)
    (file := tmp_path / "rows.csv").write_text(TEXT)
    monkeypatch.setattr(private_uploads.Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    assert page.keep_upload(str(file)) == str(file)


def test_visitors_of_a_shared_page_have_no_part_in_them(page, upload):
    upload()
    assert uploads.owners() == set() and uploads.bytes_of_all() == 0
