"""Curves of a run: thinned without losing a peak, whatever its file went through."""

import json
import random
from pathlib import Path

import pytest
from toys import PROJECT, keys

from playground.errors import PlaygroundError
from playground.runs import series, store
from playground.runs.series import MOST_POINTS, read_series
from playground.runs.thinning import thin_line

OLD_RUNS = PROJECT / "tests" / "data" / "runs-schema-1"
START = {"kind": "run_started", "job": "tune", "settings": {}, "versions": {"torch": "2.13.0"}}


def written(root: Path, *events: dict | str, name: str = "a") -> series.RunSeries:
    """The curves of a run of these events, each at its second; texts are lines as they stand."""
    folder = root / name
    folder.mkdir(exist_ok=True)
    lines = [
        event if isinstance(event, str) else json.dumps({"t": 0, **event}, separators=(",", ":")) for event in events
    ]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_series(root, name)


def memory(t, size, **more):
    return {"t": t, "kind": "memory", "rss": size, **more}


def step(number, loss=2.0, t=0.0):
    return {"t": t, "kind": "step", "step": number, "loss": loss}


def test_a_thinned_line_keeps_its_ends_and_every_extreme():
    rng = random.Random(0)
    for count in (6, 399, 400, 401, 5_000):
        points = [(float(x), rng.random()) for x in range(count)]
        points[count // 2] = (count // 2, 9.0)
        points[count // 3] = (count // 3, -9.0)
        kept = thin_line(points, 400)
        assert len(kept) <= 400 and set(kept) <= set(points) and kept == sorted(kept)
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert {9.0, -9.0} <= {y for _, y in kept}
        assert count > 400 or kept == points
    assert len(thin_line([(5.0, 1.0)] * 1000, 10)) <= 10  # a clock that stood still


def test_100_000_memory_lines_are_thinned_unparsed_and_their_peak_stays(tmp_path, monkeypatch):
    parsed = []
    read = store.parse_event
    monkeypatch.setattr(store, "parse_event", lambda line: parsed.append(line) or read(line))
    lines = [f'{{"t":{n / 10},"kind":"memory","rss":{1000 + n % 7},"parts":{{"weights":5}}}}' for n in range(100_000)]
    lines[61_234] = '{"t":6123.4,"kind":"memory","rss":99000,"parts":{"weights":5}}'
    found = written(tmp_path, START, *lines, {"t": 10_000, "kind": "done", "job": "tune"})
    assert len(found.memory) <= MOST_POINTS and (6123.4, 99000.0) in found.memory
    assert found.memory[0] == (0.0, 1000.0) and found.memory[-1][0] == 9999.9
    assert len(parsed) == 2


def test_the_gpus_memory_counts_before_the_programs_in_whatever_way_it_is_written(tmp_path):
    found = written(
        tmp_path,
        START,
        memory(1, 10, device_used=70),
        '{"kind": "memory", "t": 2.0, "device_used": 80, "rss": 10}',
        '{"t":3.0,"kind":"memory","device":90,"rss":10}',  # schema 1
    )
    assert found.memory == ((1.0, 70), (2.0, 80), (3.0, 90))


def test_steps_repeated_from_a_checkpoint_count_once_and_the_pause_is_shortened(tmp_path):
    found = written(
        tmp_path,
        START,
        step(1, 3.0, 1),
        memory(1, 5),
        step(2, 2.5, 2),
        step(3, 2.0, 3),
        {"t": 3, "kind": "eval", "when": "during", "step": 3, "loss": 1.8},
        {"t": 3, "kind": "done", "job": "tune", "result": {"stopped": True}},
        memory(1003, 6),
        step(2, 2.4, 1004),
        {"t": 1004, "kind": "eval", "when": "during", "step": 2, "loss": 2.2},
        step(3, float("nan"), 1005),
        memory(1006, 7),
    )
    assert found.losses == ((1, 3.0), (2, 2.4)) and found.not_finite == 3
    assert found.memory == ((1.0, 5), (4.0, 6), (7.0, 7)) and found.held_out == ((2, 2.2),)


def test_held_out_losses_stand_at_their_steps_and_the_last_where_its_weights_are_from(tmp_path):
    evals = [{"kind": "eval", "when": "during", "step": at, "loss": loss} for at, loss in ((2, 2.0), (4, 2.5))]
    before, after = ({"kind": "eval", "when": when, "loss": loss} for when, loss in (("before", 4.0), ("after", 1.9)))
    kept = {"kind": "note", "key": "note.best_kept", "values": {"step": 2}}
    assert written(tmp_path, START, before, step(4), *evals, after).held_out == ((0, 4.0), (2, 2.0), (4, 1.9))
    best = written(tmp_path, START, before, step(4), *evals, kept, after, name="b")
    assert best.held_out == ((0, 4.0), (2, 1.9), (4, 2.5))


def test_a_chat_that_continues_in_a_run_is_not_drawn_and_the_prediction_lasts_its_phase(tmp_path):
    found = written(
        tmp_path,
        START,
        memory(1, 5),
        {"t": 2, "kind": "memory_predicted", "phase": "tune", "rss": 50},
        {"t": 4, "kind": "memory_measured", "phase": "tune", "peak": {"rss": 40}},
        memory(4, 40),
        {"t": 5, "kind": "done", "job": "tune"},
        {"t": 6, "kind": "memory_predicted", "phase": "chat", "rss": 500},
        memory(7, 400),
        {"t": 8, "kind": "done", "job": "chat"},
    )
    assert found.predicted == (2.0, 4.0, 50) and max(size for _, size in found.memory) == 40


@pytest.mark.parametrize("line", ["", "{", "[1]", '{"t":"x","kind":"step"}', '{"t":1,"kind":"__init__"}', '{"t":1,"ki'])
def test_what_cannot_be_read_is_passed_over(tmp_path, line):
    odd = [{"kind": kind, "phase": [1], "step": "x", "loss": [], "values": 3} for kind in sorted(series.HANDLED)]
    found = written(tmp_path, START, line, *odd, memory(-9, 5), step(1, 3.0), line)
    assert found.losses == ((1, 3.0),) and [size for _, size in found.memory] == [5]


def test_runs_of_schema_1_have_curves():
    found = [read_series(OLD_RUNS, folder.name) for folder in OLD_RUNS.iterdir() if (folder / "events.jsonl").is_file()]
    assert any(one.losses and one.memory and one.held_out and one.predicted for one in found)


def test_an_unknown_run_is_refused_and_a_changed_one_read_again(tmp_path):
    with pytest.raises(PlaygroundError) as caught:
        read_series(tmp_path, "../a")
    assert keys(caught) == ["error.no_run"]
    assert written(tmp_path, START).losses == () and written(tmp_path, START, step(1)).losses == ((1, 2.0),)
