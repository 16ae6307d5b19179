"""Questions about data and memory are answered outside the page, within limits of memory and time."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from playground.data.preview_values import from_dict, to_dict
from playground.data.source import preview
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
