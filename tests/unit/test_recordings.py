"""Recordings: those that ship with the program, how one is made of a run, and how one becomes a run again."""

import json
import re
from types import SimpleNamespace

import pytest
from toys import keys

from playground import ASSETS, catalog, runs
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES
from playground.runs import accuracy, lab_points, measured, race, recordings
from playground.runs.private_text import without_paths, without_private_text
from playground.settings import Settings
from playground.share.card import card_of
from playground.share.card_drawing import card_svg
from playground.ui.run_names import display_name
from playground.ui.runs_table import Query, table_page

MAX_SHIPPED = 150_000  # bytes
RECORDINGS = sorted(recordings.FOLDER.glob("*.jsonl"))
DEMOS = [file for file in RECORDINGS if file.stem.startswith("demo-")]
OF_7B = [file for file in RECORDINGS if file.stem.startswith("calm-7b-")]


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_shipped_recording_holds_nothing_private_and_says_when_and_on_what_it_was_made(file):
    text = file.read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.splitlines()]
    assert file.stat().st_size <= MAX_SHIPPED and without_private_text(events) == events
    first, last = events[0], events[-1]
    assert first["kind"] == "run_started" and re.fullmatch(r"20\d\d-\d\d-\d\d", first["recorded"])
    assert first["hardware"]["name"] and first["hardware"]["capacity"] > 0 and first["versions"]["torch"]
    times = [event["t"] for event in events]
    assert times == sorted(times) and sum(event["kind"] == "memory" for event in events) <= 400
    assert last["kind"] in ("done", "error") and not {"run", "adapter"} & set(last.get("result", {}))


@pytest.mark.parametrize("file", OF_7B, ids=lambda file: file.stem)
def test_a_recording_of_random_weights_says_so_and_shows_no_answers(file):
    first, *others = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert first["shape"] == first["settings"]["load"]["model"] == "cyberagent/open-calm-7b"
    assert "H100" in first["hardware"]["name"] and not {"sample", "eval"} & {event["kind"] for event in others}


def test_the_7b_shape_was_recorded_at_each_width_with_lora_and_without_and_two_run_out_of_memory():
    jobs = {f"calm-7b-{job}-{bits}" for job in ("load", "lora") for bits in (32, 16, 8, 4)}
    too_large = {"calm-7b-lora-32-on-24-gib", "calm-7b-full-16-on-24-gib"}
    assert {file.stem for file in OF_7B} == jobs | too_large
    for file in OF_7B:
        last = recordings.read_recording(file.stem)[-1]
        assert (last["kind"] == "error") == (file.stem in too_large)
        if file.stem in too_large:
            full, failed = last["problems"]
            assert full["key"] == "error.out_of_memory" and full["values"]["capacity_bytes"] == 24 * 2**30
            assert full["values"]["used_bytes"] + failed["values"]["asked_bytes"] > 24 * 2**30 - 2**28


@pytest.mark.parametrize("file", DEMOS, ids=lambda file: file.stem)
def test_the_demo_was_recorded_as_a_whole_run(file):
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    first, last = events[0], events[-1]
    for group, values in catalog.presets()[file.stem]["settings"].items():
        assert values.items() <= first["settings"][group].items()
    assert last["kind"] == "done" and not last["result"]["stopped"]
    assert {"phase", "memory", "memory_predicted", "memory_measured", "step", "sample", "eval", "done"} <= {
        event["kind"] for event in events
    }
    steps = [event for event in events if event["kind"] == "step"]
    assert [step["step"] for step in steps] == [*range(1, steps[-1]["steps"] + 1)]
    assert last["result"]["recall"]["tuned"] > last["result"]["recall"]["base"]


def test_the_demo_of_each_language_has_a_recording():
    assert {f"demo-{lang}" for lang in LANGUAGES} <= {file.stem for file in RECORDINGS}


def test_a_recording_of_random_weights_leaves_out_what_the_model_says(events):
    said = [{"t": 0.0, "kind": "sample", "text": "An answer"}, {"t": 0.0, "kind": "eval", "loss": 1.0}]
    text = recordings.record([*events[:-1], *said, events[-1]], shape="cyberagent/open-calm-7b")
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["shape"] == lines[0]["settings"]["load"]["model"] == "cyberagent/open-calm-7b"
    assert {line["kind"] for line in lines} == {"run_started", "memory", "done"}


def test_a_run_whose_clock_was_set_back_makes_a_recording_that_can_be_replayed(events, tmp_path):
    events[-1]["t"] = -3600.0
    file = tmp_path / "recording.jsonl"
    file.write_text(recordings.record(events), encoding="utf-8")
    assert recordings.replay(file, tmp_path / "runs").folder.is_dir()


@pytest.mark.parametrize("name", ["../talk/steps", "nothing", "", "demo-en.jsonl", "../recordings/demo-en"])
def test_only_a_shipped_recording_is_read(name):
    assert recordings.read_recording(name) == []


@pytest.fixture
def events(tmp_path) -> list[dict]:
    run = runs.create(tmp_path, "tune", Settings(), hardware={"name": "a processor"})
    for n in range(1000):
        run.append("memory", rss=n)
    run.append("done", job="tune", result={"run": run.id, "stopped": False, "adapter": str(run.adapter), "steps": 3})
    return list(run.events())


def test_recording_has_fewer_memory_events_and_no_ids(events):
    recorded = [json.loads(line) for line in recordings.record(events).splitlines()]
    assert sum(event["kind"] == "memory" for event in recorded) <= 400
    assert max(event["rss"] for event in recorded if event["kind"] == "memory") == 999
    assert recorded[-1]["result"] == {"stopped": False, "steps": 3} and "began" not in recorded[0]


@pytest.mark.parametrize(
    "private",
    [
        "/home/someone/model",
        "/home/someone",
        "/home/some one/a model.jsonl",
        "C:\\Users\\someone",
        "C:/Users/someone/x",
        "C:\\Users\\some one\\x",
        "~/someone",
        "~someone/models",
        "file:///home/someone/x",
        "\\\\server\\someone\\x",
        "20261127-204500-tune",
        "hf_someoneSOMEONEsomeone0123456789",
        "sk-proj-someoneSOMEONEsomeone",
    ],
)
def test_a_path_a_key_or_an_id_of_a_run_in_a_text_is_left_out(private):
    for before in ("", "read from ", "first line\n", "a\ttab\t", "model=", "error:", "'"):
        text = without_private_text({"values": [f"{before}{private}, and more"]})["values"][0]
        assert text.startswith(before + "…") and text.endswith("more")
        assert "one" not in text and "20261127" not in text


def test_a_private_text_of_any_event_is_left_out_of_a_recording(events):
    events.insert(1, {"t": 0.0, "kind": "note", "key": "note.x", "values": {"detail": "in\n/home/someone/x"}})
    assert "someone" not in recordings.record(events)


def test_a_source_is_its_last_part_also_where_its_path_is_relative():
    def sources(model, data):
        settings = without_paths({"load": {"model": model}, "data": {"source": data}})
        return settings["load"]["model"], settings["data"]["source"]

    assert sources("../models/toy", "private/rows.jsonl") == ("toy", "rows.jsonl")
    assert sources("./toy", "a/b/c") == ("toy", "c") and sources("C:\\x\\toy", "~/rows.csv") == ("toy", "rows.csv")
    assert sources("owner/name", "https://example.org/a/rows.csv") == ("owner/name", "https://example.org/a/rows.csv")
    assert sources("tests/unit", "plain-qa.ja")[1] == "plain-qa.ja"


def test_no_event_names_another_run(events):
    point = {"t": 0.0, "kind": "lab_point", "format": "nf4", "loss": 2.0}
    point["run"] = "20260101-000000-lab"
    text = recordings.record([events[0], point, *events[1:]])
    assert set(json.loads(text.splitlines()[1])) == {"t", "kind", "format", "loss"}


def test_a_long_run_is_thinned_until_it_is_small_enough(events):
    steps = [{"t": 0.0, "kind": "step", "step": n, "steps": 20_000, "loss": 2.0} for n in range(1, 20_001)]
    recorded = [json.loads(line) for line in recordings.record([*events[:-1], *steps, events[-1]]).splitlines()]
    kept = [event["step"] for event in recorded if event["kind"] == "step"]
    assert kept[0] == 1 and kept[-1] == 20_000 and 2000 < len(kept) < 10_001
    said = {"t": 0.0, "kind": "note", "key": "note.x", "text": "x" * 600_000}
    with pytest.raises(PlaygroundError) as caught:
        recordings.record([events[0], said, *events[1:]])
    assert keys(caught) == ["error.record_large"]


@pytest.mark.parametrize("text", ["tokens/s", "https://example.org/a/b", "指示/入力", "and/or", "<b>x</b>"])
def test_slash_in_a_text_is_no_path(events, text):
    events.insert(1, {"t": 0.0, "kind": "sample", "text": text})
    assert text in recordings.record(events)


def test_unfinished_run_is_refused(events):
    with pytest.raises(PlaygroundError) as caught:
        recordings.record(events[:-1])
    assert keys(caught) == ["error.record_open"]


def test_a_recording_becomes_a_run_that_says_it_is_one(events, tmp_path):
    events[0]["settings"]["load"]["model"] = "/home/someone/models/toy"
    file = tmp_path / "toy.jsonl"
    file.write_text(recordings.record(events), encoding="utf-8")
    run = recordings.replay(file, tmp_path / "elsewhere")
    [summary] = runs.history(tmp_path / "elsewhere")
    assert (summary.id, summary.state, summary.model) == (run.id, "done", "toy")
    first, *rest = run.events()
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", first["recorded"]) and first["hardware"]["name"] == "a processor"
    assert len(rest) == len(recordings.record(events).splitlines()) - 1
    again = recordings.record(list(run.events()))
    assert json.loads(again.splitlines()[0])["recorded"] == first["recorded"]  # a copy keeps the first date


def _cut(lines):
    return lines[:-1]


def _torn(lines):
    return [*lines[:-1], lines[-1][: len(lines[-1]) // 2]]


def _without_date(lines):
    return [lines[0].replace('"recorded"', '"recorder"'), *lines[1:]]


def _of_a_later_version(lines):
    return [lines[0].replace('"schema":2', '"schema":99'), *lines[1:]]


def _out_of_order(lines):
    return [lines[0], lines[-1], *lines[1:]]


def _first_with(**changes):
    return lambda lines: [json.dumps(json.loads(lines[0]) | changes), *lines[1:]]


def _with_line(line):
    return lambda lines: [lines[0], line, *lines[1:]]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        *((_first_with(job=job), "error.recording_none") for job in ("x/../../../../tmp/evil", "a b", "t" * 300, "")),
        *((_first_with(recorded=date), "error.recording_none") for date in ("", "today", "2026-13-01", "２-01-01")),
        (_first_with(t=-1), "error.recording_line"),
        (_first_with(t=1e15), "error.recording_line"),
        (lambda lines: [lines[0], *lines], "error.recording_line"),  # whose second beginning has no date, or another
        (_with_line('{"t":NaN,"kind":"memory"}'), "error.recording_line"),
        (_with_line('{"t":1e999,"kind":"memory"}'), "error.recording_line"),
        (_with_line('{"t":true,"kind":"memory"}'), "error.recording_line"),
        (_with_line("[" * 100_000), "error.recording_line"),
        (lambda lines: [*lines, " " * recordings.MAX_FILE_BYTES], "error.recording_file"),
        (_cut, "error.recording_short"),
        (_torn, "error.recording_line"),
        (_without_date, "error.recording_none"),
        (_of_a_later_version, "error.recording_schema"),
        (_out_of_order, "error.recording_line"),
        (lambda lines: [], "error.recording_none"),
        (lambda lines: ["[1, 2]"], "error.recording_line"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_and_leaves_no_run(events, tmp_path, change, key):
    for number, event in enumerate(events):
        event["t"] = float(number)
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(change(recordings.record(events).splitlines())), encoding="utf-8")
    with pytest.raises(PlaygroundError) as caught:
        recordings.replay(file, tmp_path / "runs")
    assert keys(caught) == [key] and runs.history(tmp_path / "runs") == []


def test_a_replayed_recording_is_marked_and_counts_nowhere_as_measured_here(tmp_path):
    chosen = Settings().with_values({"load": {"model": "toy", "bits": 16}})
    run = runs.create(tmp_path, "tune", chosen, hardware={"device": "cpu", "name": "a processor"})
    run.append("memory_predicted", phase="tune", rss=90, parts={})
    run.append("memory_measured", phase="tune", parts={}, peak={"rss": 100})
    run.append("done", job="tune", result={"stopped": True, "ended_by": "SIGTERM", "tokens_per_s": 5.0})
    lab = runs.create(tmp_path, "lab", chosen, hardware={"device": "cpu", "name": "a processor"})
    lab.append("lab_started", dtype="float32", subject="s")
    lab.append("lab_point", format="nf4", loss=2.0, bytes=5, kernel=False)
    lab.append("done", job="lab", result={})

    def counted(root):
        return [
            *measured.latest_measurements(root, "toy", "tune", {"device": "cpu", "name": "a processor"}),
            *race.lanes(root, chosen, ("16",)),
            *accuracy.all_totals(root),
            *lab_points.all_points(root, "s"),
            *filter(None, [runs.interrupted(root)]),
        ]

    there = tmp_path / "there"
    for one in (run, lab):
        file = tmp_path / f"{one.id}.jsonl"
        file.write_text(recordings.record(list(one.events())), encoding="utf-8")
        recordings.replay(file, there)
    assert len(counted(tmp_path)) == 5 and counted(there) == []
    date = json.loads(file.read_text(encoding="utf-8").splitlines()[0])["recorded"]
    for summary in runs.history(there):
        assert summary.recorded == date and f"recorded {date}" in display_name(summary, "en")
        assert not summary.is_resumable
    tuned = next(summary for summary in runs.history(there) if summary.job == "tune")
    assert f"recorded {date}" in card_svg(card_of(runs.find(there, tuned.id), "en"), "en")
    page = SimpleNamespace(root=there, lang="en", engine=SimpleNamespace(state="ready", run=None))
    assert all(f"recorded {date}" in row["settings"] for row in table_page(page, "", Query(), {})["runs"])


def test_a_line_separator_in_a_text_ends_no_line(events, tmp_path):
    said = "one\u2028two\u2029three\u0085four"
    events.insert(1, {"t": 0.0, "kind": "note", "key": "note.x", "text": said})
    file = tmp_path / "recording.jsonl"
    file.write_text(recordings.record(events), encoding="utf-8-sig")
    run = recordings.replay(file, tmp_path / "runs")
    assert [event["text"] for event in run.events() if event["kind"] == "note"] == [said]


@pytest.mark.parametrize("job", ["../evil", "a b", "x" * 300])
def test_no_run_is_created_that_could_not_be_opened(tmp_path, job):
    with pytest.raises(ValueError, match="name of a job"):
        runs.create(tmp_path / "runs", job, Settings())
    assert not (tmp_path / "runs").exists()


def test_no_script_that_draws_a_recording_writes_html():
    """A recording can be edited by hand: whatever text it has is shown as text."""
    scripts = [*ASSETS.glob("live_*.js"), ASSETS / "runs_table.js"]
    assert len(scripts) >= 5
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|new Function", text)
