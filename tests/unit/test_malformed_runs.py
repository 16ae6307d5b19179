"""A malformed run folder harms nothing but itself: lists, live view, overlay, Compare, queue and take-home go on."""

import json
import os
import shutil
from types import SimpleNamespace

import orjson
import pytest
from malformed_runs import MALFORMED, make

from playground import runs
from playground.errors import PlaygroundError
from playground.runs import accuracy, lab_points, measured, race
from playground.runs.query import Query
from playground.settings import Settings
from playground.ui import adapter_choice, card_view, export_view, queue_view, runs_overlay, runs_tab, take_home_tab
from playground.ui.api import Endpoints
from playground.ui.live_view import live_view
from playground.ui.page import Page
from playground.ui.runs_table import table_page


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """A live view over one folder of runs, since building one takes Gradio a quarter of a second."""
    import gradio as gr

    now = {"run": None, "busy": False, "engine": "ready", "loaded": None, "memory": None}
    root = tmp_path_factory.mktemp("malformed") / "runs"
    with gr.Blocks():
        made = live_view("en", lambda: root, lambda: now)
    return root, made


@pytest.fixture
def page(view):
    """A page over the same folder, which is empty."""
    root, _ = view
    shutil.rmtree(root, ignore_errors=True)
    engine = SimpleNamespace(run=None, state="ready", job=None, last=None, last_tune=None, writes_to=lambda run: False)
    jobs = SimpleNamespace(going=False, error=None, has_worked=False)
    mine = {"engine": engine, "planner": None, "story": None, "queue": None, "jobs": jobs}
    workspace = SimpleNamespace(visitor="", root=root, **mine)
    return Page("en", lambda: workspace, Settings(), True, None)


def _show_everything(page, view, good, bad):
    """Everything that reads runs; what is sent to a browser is encoded as Gradio does."""
    for lang in ("en", "ja"):
        page.lang = lang
        for query in (Query(), Query(text="mine"), Query(sort="loss"), Query(sort="name", reverse=True)):
            orjson.dumps(table_page(page, good.id, query, {}))
        choices = [*adapter_choice.adapter_choices(page), *take_home_tab._choices(page)]
        assert good.id in [run_id for _, run_id in choices]
        runs_tab._record(page)
    polled = None
    for run_id in (bad.name, good.id):
        polled, cursor = view.since({"follow": run_id, "run": "", "cursor": 0}), 0
        orjson.dumps(polled)
        while polled["more"]:
            polled = view.since({"follow": run_id, "run": run_id, "cursor": polled["cursor"]})
            assert polled["cursor"] > cursor
            cursor = polled["cursor"]
        orjson.dumps(view.all_events({"run": run_id}))
        runs_tab._accuracy(page, run_id)
        card_view._draw(page, run_id, None)
        export_view._size(page, run_id, ["adapter"])
        export_view._kept_files(page, run_id)
    assert polled["run"] == good.id and polled["cursor"] == (good.folder / "events.jsonl").stat().st_size
    picture = runs_overlay.picture(page, [good.id, bad.name])
    assert picture
    accuracy.all_totals(page.root)
    race.lanes(page.root, good.settings(), list(race.KINDS))
    lab_points.all_points(page.root, "")
    measured.latest_measurements(page.root, "smollm2-135m-instruct", "tune", {"device": "cpu", "name": "CPU"})
    json.dumps(queue_view.state(page))
    endpoints = Endpoints(page)
    assert good.id in [row["id"] for row in endpoints.runs()]
    orjson.dumps(endpoints.run(good.id))


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_run_harms_no_other(page, view, name):
    good, bad = make(page.root), make(page.root).folder
    MALFORMED[name](bad)
    runs.history(page.root)
    _show_everything(page, view[1], good, bad)


@pytest.mark.parametrize("name", ["no events.jsonl", "events.jsonl is a folder", "events.jsonl links nowhere"])
def test_a_run_without_events_is_listed_with_why_and_can_be_deleted(page, name, monkeypatch):
    monkeypatch.setattr("playground.runs.listing.SETTLED_SECONDS", -1)
    good, bad = make(page.root), make(page.root).folder
    MALFORMED[name](bad)
    [row] = [row for row in table_page(page, "", Query(), {})["runs"] if row["id"] == bad.name]
    assert row["state"] == "failed" and "events.jsonl" in row["why"]
    runs.delete(page.root, bad.name)
    assert [run.id for run in runs.history(page.root)] == [good.id]
    runs.restore(page.root, bad.name)
    assert len(runs.history(page.root)) == 2


@pytest.mark.parametrize("kind", ["pipe", "endless", "itself", "folder", "huge"])
def test_an_index_that_is_no_file_of_lines_is_made_again(page, view, kind, monkeypatch):
    good, file = make(page.root), page.root / ".index.jsonl"
    file.unlink(missing_ok=True)
    if kind == "folder":
        file.mkdir()
    elif kind == "huge":
        with open(file, "wb") as sparse:
            sparse.truncate(2**40)
    else:
        os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero" if kind == "endless" else file.name)
    for _ in range(2):
        assert [run.id for run in runs.history(page.root)] == [good.id]
    assert kind == "folder" or file.stat().st_size < 10_000


def test_whatever_lies_in_the_trash_is_removed(page):
    trash, kept = page.root / ".deleted", page.root.parent / "kept"
    trash.mkdir(parents=True)
    kept.mkdir(exist_ok=True)
    os.mkfifo(trash / "pipe")
    (trash / "link").symlink_to(kept)
    (trash / "file").write_text("x")
    runs.empty_trash(page.root)
    assert list(trash.iterdir()) == [] and kept.is_dir()


def test_a_run_without_its_first_event_says_so(page):
    bad = make(page.root).folder
    MALFORMED["events.jsonl is nested"](bad)
    [row] = table_page(page, "", Query(), {})["runs"]
    assert "first event" in row["why"]


@pytest.mark.parametrize("name", [name for name in MALFORMED if name.startswith("settings.json ")])
def test_malformed_settings_are_a_sentence(page, name):
    bad = make(page.root)
    MALFORMED[name](bad.folder)
    with pytest.raises(PlaygroundError, match=r"settings\.json"):
        bad.settings()


def test_an_event_beyond_the_limit_is_passed_over_and_the_next_is_read(page):
    run = make(page.root)
    MALFORMED["an event of 20 MB"](run.folder)
    run.append("note", key="x", values={})
    kinds = [event["kind"] for event in run.events()]
    assert kinds.count("note") == 1 and len(kinds) == 13
    MALFORMED["an event of 5 MB"](run.folder)
    assert [event["kind"] for event in run.events()].count("note") == 2


def test_of_the_buffers_only_lists_of_numbers_are_read(page):
    run = make(page.root)
    run.append("memory", rss=1, buffers={"ready": [3, "x", None, 2**60], "copying": 7, "future": []})
    assert list(run.events())[-1]["buffers"] == {"ready": [3], "future": []}
