"""The recorded runs that ship with the program, and the tool that makes them."""

import json
import re

import pytest
import record_run

from playground import catalog, runs
from playground.i18n import LANGUAGES
from playground.settings import Settings

RECORDINGS = sorted(record_run.FOLDER.glob("*.jsonl"))


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_shipped_recording_is_a_whole_run_without_anything_private(file):
    text = file.read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.splitlines()]
    assert file.stat().st_size <= record_run.MAX_BYTES and not record_run.ABSOLUTE_PATH.search(text)
    first, last = events[0], events[-1]
    assert first["kind"] == "run_started" and re.fullmatch(r"20\d\d-\d\d-\d\d", first["recorded"])
    assert first["hardware"]["name"] and first["hardware"]["capacity"] > 0 and first["versions"]["torch"]
    for group, values in catalog.presets()[file.stem]["settings"].items():
        assert values.items() <= first["settings"][group].items()
    assert last["kind"] == "done" and not last["result"]["stopped"] and not {"run", "adapter"} & set(last["result"])
    times = [event["t"] for event in events]
    assert times == sorted(times)
    assert {"phase", "memory", "memory_predicted", "memory_measured", "step", "sample", "eval", "done"} <= {
        event["kind"] for event in events
    }
    assert sum(event["kind"] == "memory" for event in events) <= 400
    steps = [event for event in events if event["kind"] == "step"]
    assert [step["step"] for step in steps] == [*range(1, steps[-1]["steps"] + 1)]
    assert last["result"]["recall"]["tuned"] > last["result"]["recall"]["base"]


def test_the_demo_of_each_language_has_a_recording():
    assert {f"demo-{lang}" for lang in LANGUAGES} <= {file.stem for file in RECORDINGS}


@pytest.fixture
def events(tmp_path) -> list[dict]:
    run = runs.create(tmp_path, "tune", Settings(), hardware={"name": "a processor"})
    for n in range(1000):
        run.append("memory", rss=n)
    run.append("done", job="tune", result={"run": run.id, "stopped": False, "adapter": str(run.adapter), "steps": 3})
    return list(run.events())


def test_recording_has_fewer_memory_events_and_no_ids(events):
    recorded = [json.loads(line) for line in record_run.record(events).splitlines()]
    assert sum(event["kind"] == "memory" for event in recorded) <= 400
    assert max(event["rss"] for event in recorded if event["kind"] == "memory") == 999
    assert recorded[-1]["result"] == {"stopped": False, "steps": 3} and "began" not in recorded[0]


@pytest.mark.parametrize("path", ["/home/someone/model", "read from /tmp/x/y.jsonl", "C:\\Users\\someone", "~/models"])
def test_path_of_the_machine_is_refused(events, path):
    events.insert(1, {"t": 0.0, "kind": "note", "key": "note.x", "values": {"detail": path}})
    with pytest.raises(ValueError, match="path"):
        record_run.record(events)


@pytest.mark.parametrize("text", ["tokens/s", "https://example.org/a/b", "指示/入力", "and/or", "<b>x</b>"])
def test_slash_in_a_text_is_no_path(events, text):
    events.insert(1, {"t": 0.0, "kind": "sample", "text": text})
    assert text in record_run.record(events)


def test_unfinished_run_is_refused(events):
    with pytest.raises(ValueError, match="completed"):
        record_run.record(events[:-1])
