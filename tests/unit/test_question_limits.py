"""Questions about data and memory are answered outside the page, within limits of memory and time."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from playground.data.preview_values import from_dict, to_dict
from playground.data.source import preview, read
from playground.errors import PlaygroundError
from playground.planning.client import Worker
from playground.settings import Data, Settings


def _keys(error) -> list[str]:
    return [problem.key for problem in error.value.problems]


@pytest.mark.parametrize("source", ["helpdesk.en", "helpdesk.ja"])
def test_a_preview_comes_back_whole_from_its_process(source):
    found = preview(Data(source=source))
    assert from_dict(json.loads(json.dumps(to_dict(found)))) == found


def test_a_question_that_takes_too_much_memory_or_time_is_stopped(tmp_path, monkeypatch):
    stub = """
import sys, json, time
for line in sys.stdin:
    r = json.loads(line)
    if r["do"] == "grow":
        kept = [bytes(bytearray(b"x") * 2**20) for _ in range(400)]
    if r["do"] != "quick":
        time.sleep(600)
    print(json.dumps({"id": r["id"], "result": 1}), flush=True)
"""
    worker = Worker(tmp_path / "log", (sys.executable, "-c", stub), 200 * 2**20)
    with pytest.raises(PlaygroundError) as error:
        worker.ask("grow", {}, None)
    assert _keys(error) == ["error.planner_memory"]
    monkeypatch.setattr("playground.planning.client.MAX_SILENT_SECONDS", 1.0)
    with pytest.raises(PlaygroundError) as error:
        worker.ask("wait", {}, None)
    assert _keys(error) == ["error.planner_slow"]
    assert worker.ask("quick", {}, None) == 1
    worker.close()


def test_a_question_that_goes_on_with_progress_ends_at_its_limit_of_time_and_memory(tmp_path):
    """Each word of progress is a sign of life; it must not put the limits off for ever."""
    stub = """
import sys, json, time
kept = []
for line in sys.stdin:
    r = json.loads(line)
    while True:
        print(json.dumps({"id": r["id"], "event": {"done": 1, "total": 2, "unit": "rows"}}), flush=True)
        kept += [bytes(bytearray(b"x") * 2**20) for _ in range(8 if r["do"] == "grow" else 0)]
        time.sleep(0.01)
"""
    worker = Worker(tmp_path / "log", (sys.executable, "-c", stub), 200 * 2**20, most_seconds=1.5)
    for do, key in (("wait", "error.planner_slow"), ("grow", "error.planner_memory")):
        with pytest.raises(PlaygroundError) as error:
            worker.ask(do, {}, lambda *progress: None)
        assert _keys(error) == [key]
    worker.close()


def test_a_text_that_is_stored_once_and_stands_in_every_row_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("playground.data.parquet.MAX_CHARACTERS", 10_000_000)
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000), pyarrow.array(["x" * 100_000]))
    table = pyarrow.table({"question": rows, "answer": [str(n) for n in range(1000)]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", compression="zstd")
    with pyarrow.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    for name in ("x.parquet", "x.arrow"):
        with pytest.raises(PlaygroundError) as error:
            read(Data(source=str(tmp_path / name)))
        assert _keys(error) == ["error.unpacked"]


@pytest.mark.slow
def test_a_tiny_parquet_file_that_unpacks_to_gigabytes_takes_no_memory_of_the_page(tmp_path):
    import numpy

    from playground.planning.client import Planner

    count = 60_000_000
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array(numpy.zeros(count, numpy.int8)), ["instruction " * 9])
    lists = pyarrow.LargeListArray.from_arrays(pyarrow.array([0, count], pyarrow.int64()), texts)
    pyarrow.parquet.write_table(pyarrow.table({"messages": lists}), tmp_path / "x.parquet", compression="zstd")
    del texts, lists
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    planner = Planner(tmp_path)
    asked = Settings().with_values({"data": {"source": str(tmp_path / "x.parquet")}}).to_dict()
    with pytest.raises(PlaygroundError) as error:
        planner.ask("preview", settings=asked, rows=20)
    assert _keys(error)[0] in ("error.planner_memory", "error.unpacked")
    good = Settings().with_values({"data": {"source": "helpdesk.en"}}).to_dict()
    assert len(planner.ask("preview", settings=good, rows=20)["rows"]) == 20
    planner.close()
