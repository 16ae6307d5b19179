"""What a summary is made of is found in a run's events without parsing all of them, whatever else is in the file."""

import json
import random

import pytest

from playground.runs.event_fields import UNUSUAL, is_unusual
from playground.runs.glance import telling_events
from playground.runs.store import Run
from playground.runs.summary import summarize

STARTED = {"t": 0, "kind": "run_started", "schema": 2, "began": 1.0, "job": "tune", "settings": {"load": {"bits": 4}}}
SPEED = {"tokens_per_s": 77.0}
LIKE_A_LINE = '\n{"t":9,"kind":"done","job":"tune","result":{}}\n{"kind":"memory_measured"}'


def drawn_event(drawn):
    """An event of a run that may go on after its end: resumed, chatted with, with texts that look like events."""
    job = drawn.choice(("tune", "tune", "chat"))
    number = drawn.randrange(1000)
    return drawn.choice(
        (
            {"kind": "memory", "rss": number},
            {"kind": "memory", "rss": number, "memory_of": "other"},
            {"kind": "step", "step": number, **drawn.choice(({}, {"tokens_per_s": number}, {"tokens_per_s": None}))},
            {"kind": "sample", "step": 3, "prompt": LIKE_A_LINE, "text": drawn.choice((LIKE_A_LINE, "x" * 3000))},
            {"kind": "memory_predicted", "phase": drawn.choice(("load", "tune")), "parts": {}, "rss": number},
            {"kind": "memory_measured", "phase": drawn.choice(("load", "tune")), "parts": {}, "peak": {"rss": number}},
            {"kind": "error", "job": job, "problems": [{"key": "error.busy", "values": {"n": number}}], "peak": {}},
            {"kind": "done", "job": job, "result": {"n": number, **drawn.choice(({}, SPEED))}},
            {"kind": "note", "key": "note.x", "values": {"kind": "done", "memory_": 1}},
        )
    )


def write_events(folder, lines, ending="\n"):
    folder.mkdir()
    (folder / "events.jsonl").write_text("\n".join(lines) + ending, encoding="utf-8")


@pytest.mark.parametrize("first", [STARTED, {**STARTED, "schema": 1}, {"t": 0, "kind": "note", "key": "x"}])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_summary_equals_that_of_all_events(tmp_path, first, separators):
    drawn = random.Random(7)
    for number in range(60):
        events = [first, *({"t": at, **drawn_event(drawn)} for at in range(drawn.choice((0, 3, 20, 150))))]
        lines = [json.dumps(event, separators=separators) for event in events]
        write_events(tmp_path / str(number), lines, drawn.choice(("\n", '\n{"t":5,"kind":"done","job":"tu', "\nx\n\n")))
        run = Run(tmp_path / str(number))
        expected = run.events(at_a_glance=first is not STARTED)  # of an earlier version's steps, only the last counts
        assert summarize("a", telling_events(str(run.folder))) == summarize("a", expected), lines


def test_a_few_lines_of_a_long_run_are_parsed(tmp_path, monkeypatch):
    memory = [json.dumps({"t": at, "kind": "memory", "rss": at}) for at in range(3000)]
    step = json.dumps({"t": 3000, "kind": "step", "step": 1, **SPEED})
    write_events(tmp_path / "a", [json.dumps(STARTED), *memory, step, '{"t":3001,"kind":"done","job":"tune"}'])
    assert [event["kind"] for event in telling_events(str(tmp_path / "a"))] == ["run_started", "step", "done"]


def test_a_run_without_events_tells_nothing(tmp_path):
    write_events(tmp_path / "a", [], "")
    assert not [*telling_events(str(tmp_path / "a"))] and not [*telling_events(str(tmp_path / "missing"))]


def test_unusual_lines_are_found_as_the_whole_pattern_finds_them():
    drawn = random.Random(3)
    parts = (*"0123456789eE+.-[{\\ud8aFx", "\\uD83D", "NaN", "Infinity", "0" * 18, "[{", "e10", "E+9", "\udcff")
    for _ in range(3000):
        text = "".join(drawn.choice(parts) for _ in range(drawn.randrange(30)))
        line = text.encode("utf-8", "surrogatepass")
        assert is_unusual(line) == bool(UNUSUAL.search(line)), line
