"""Runs have names that a person can read and tell apart."""

import json
from datetime import datetime
from types import SimpleNamespace

import pytest

from playground import runs
from playground.i18n import format_duration, translate
from playground.runs import RunSummary
from playground.settings import Settings
from playground.ui.run_names import data_name, display_name, short_display_name
from playground.ui.runs_table import table_value

BEGAN = datetime(datetime.now().year, 11, 25, 14, 2).timestamp()


def _summary(**fields):
    defaults = {"id": "a", "began": BEGAN, "job": "tune", "model": "smollm2-135m-instruct", "bits": 16}
    return RunSummary(
        **{
            **defaults,
            "data": "helpdesk.en",
            "state": "done",
            "has_adapter": True,
            "seconds": 1.0,
            "result": {},
            **fields,
        }
    )


def test_a_fine_tune_is_named_by_model_bits_data_set_and_beginning():
    assert display_name(_summary(), "en") == "SmolLM2 135M Instruct · 16 bits · Help desk (English) · Nov 25, 14:02"
    assert display_name(_summary(), "ja") == "SmolLM2 135M Instruct · 16 ビット · 案内所（英語） · 11月25日 14:02"


def test_a_run_of_another_year_has_its_year():
    began = datetime(2020, 1, 5, 9, 7).timestamp()
    assert display_name(_summary(began=began), "en").endswith(" · Jan 5, 2020, 09:07")
    assert display_name(_summary(began=began), "ja").endswith(" · 2020年1月5日 09:07")


def test_loads_and_chats_are_named_by_their_job_without_a_data_set():
    assert short_display_name(_summary(job="load"), "en") == "Load · SmolLM2 135M Instruct · 16 bits"
    assert short_display_name(_summary(job="chat"), "ja") == "チャット · SmolLM2 135M Instruct · 16 ビット"
    assert short_display_name(_summary(job="from the future"), "en").startswith("Run · ")


@pytest.mark.parametrize(
    "source,name",
    [
        ("/tmp/gradio/0a1b2c/my questions.csv", "my questions.csv"),
        ("~/sets/rows.jsonl", "rows.jsonl"),
        ("~/.cache/lora-playground/pasted/pasted-0123456789ab.jsonl", "pasted rows"),
        ("someone/some-set:config@train", "someone/some-set:config@train"),
        ("dolly-15k", "Dolly 15k (English)"),
        ("", ""),
    ],
)
def test_a_data_set_is_named_without_its_path(source, name):
    assert data_name(source, "en") == name


@pytest.mark.parametrize(
    "seconds,text", [(0.4, "0:00"), (9.6, "0:10"), (118, "1:58"), (3599.7, "1:00:00"), (4000, "1:06:40")]
)
def test_durations_are_written_as_a_clock(seconds, text):
    assert format_duration(seconds) == text


def test_the_table_lists_runs_with_their_figures_and_what_can_be_done(tmp_path):
    page = SimpleNamespace(lang="en", root=tmp_path, engine=SimpleNamespace(run=None, state="ready"))
    tune = runs.create(tmp_path, "tune", Settings().with_values({"load": {"model": "/x/<b>toy", "bits": 4}}))
    result = {"loss": {"before": 3.0, "after": 1.5}, "recall": {"base": 0.0, "tuned": 0.91}, "stopped": True}
    tune.append("done", job="tune", result=result)
    (tune.folder / "checkpoint.pt").write_bytes(b"")
    odd = runs.create(tmp_path, "tune", Settings())
    odd.append("done", job="tune", result={"loss": [3, 1], "recall": {"base": None, "tuned": 1.0}})
    load = runs.create(tmp_path, "load", Settings())
    value = json.loads(table_value(page, tune.id))
    rows = {row["id"]: row for row in value["runs"]}
    assert (value["shown"], value["live"]) == (tune.id, False)
    assert rows[tune.id]["name"].startswith("<b>toy · 4 bits")  # as text: the browser's script never parses it
    figures = [rows[tune.id][key] for key in ("tune", "loss", "facts", "status", "resume")]
    assert figures == [True, ["3.000", "1.500"], ["0%", "91%"], translate("en", "state.stopped"), "ready"]
    assert (rows[odd.id]["loss"], rows[odd.id]["facts"], rows[odd.id]["resume"]) == (None, None, "")
    assert (rows[load.id]["tune"], rows[load.id]["status"]) == (False, translate("en", "state.open"))


def test_the_table_knows_the_run_at_work_and_those_in_the_trash(tmp_path):
    working, gone = (runs.create(tmp_path, "tune", Settings()) for _ in range(2))
    for run in (working, gone):
        (run.folder / "checkpoint.pt").write_bytes(b"")
    runs.delete(tmp_path, gone.id)
    page = SimpleNamespace(lang="en", root=tmp_path, engine=SimpleNamespace(run=working.id, state="busy"))
    value = json.loads(table_value(page, "another"))
    rows = {row["id"]: row for row in value["runs"]}
    assert value["live"]
    assert (rows[working.id]["state"], rows[working.id]["resume"], rows[working.id]["deleted"]) == (
        "running",
        "busy",
        False,
    )
    assert (rows[gone.id]["state"], rows[gone.id]["resume"], rows[gone.id]["deleted"]) == ("open", "", True)
