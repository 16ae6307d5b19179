"""The planning processes seen from the page: started late, asked once, replaced when they die, their errors raised."""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from test_operations import SPEEDS
from toys import keys

from playground.errors import PlaygroundError
from playground.planning.client import Planner, this_machine
from playground.speed.rates import keep_rates

WAIT = 60  # seconds at most, for any state

STUB = """
import os, time
from playground.errors import problem
from playground.jsonl_server import Server

asked = []

def answer(do, arguments, emit):
    if do == "count":
        asked.append(do)
        time.sleep(0.2)
        return {"asked": len(asked)}
    if do == "die":
        os._exit(3)
    if do == "refuse":
        raise problem("problem.r", r=0)
    if do == "cutoff_cost":
        for done in (1, 2):
            emit({"kind": "progress", "done": done, "total": 2, "unit": "rows"})
        if arguments.get("long"):
            time.sleep(600)
    return {"pid": os.getpid(), "cuda": os.environ["CUDA_VISIBLE_DEVICES"], **arguments}

Server().serve(answer)
"""


@pytest.fixture
def planner(tmp_path):
    planner = Planner(tmp_path / "runs", (sys.executable, "-c", STUB))
    yield planner
    planner.close()


def test_process_starts_with_the_first_question_and_sees_no_gpu(planner):
    assert planner.pid("forecast") is None
    assert planner.ask("forecast", context=5) == {"pid": planner.pid("forecast"), "cuda": "", "context": 5}


def test_same_question_is_answered_from_memory(planner):
    first = planner.ask("forecast", context=5, settings={"load": {"bits": 4}})
    planner.close()
    assert planner.ask("forecast", settings={"load": {"bits": 4}}, context=5) is first
    assert planner.ask("forecast", context=6)["pid"] != first["pid"]


def test_questions_about_a_folder_are_asked_anew_once_its_model_is_another_one(planner, tmp_path):
    model = tmp_path / "merged"
    model.mkdir()
    question = {"settings": {"load": {"model": str(model)}}, "context": 5}
    for name in ("config.json", "adapter_config.json", "adapter_model.safetensors"):
        before = planner.ask("waterfall", **question)
        assert planner.ask("waterfall", **question) is before
        (model / name).write_text("{}")
        after = planner.ask("waterfall", **question)
        assert after is not before and planner.ask("waterfall", **question) is after
        (model / name).write_text('{"other": 1}')
        assert planner.ask("waterfall", **question) is not after
    question["settings"]["load"]["model"] = str(tmp_path / "one.gguf")
    before = planner.ask("waterfall", **question)
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    assert planner.ask("waterfall", **question) is not before


@pytest.mark.parametrize("model", [3, None, "~nobody-here/model", "a\0b", "x" * 9999])
def test_a_model_that_no_path_can_name_is_left_to_the_process(planner, model):
    assert planner.ask("forecast", settings={"load": {"model": model}})["pid"]
    assert planner.ask("forecast", settings=model)["pid"]


def test_pictures_of_weights_are_not_remembered_since_their_files_may_change(planner):
    assert planner.ask("weight_picture", model="a") is not planner.ask("weight_picture", model="a")


def test_questions_with_seconds_are_asked_anew_once_speeds_were_measured(planner, tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    before = {do: planner.ask(do, context=5) for do in ("forecast", "fastest_settings", "waterfall")}
    keep_rates(SPEEDS)
    assert {do for do in before if planner.ask(do, context=5) is not before[do]} == {"forecast", "fastest_settings"}
    between = planner.ask("forecast", context=5)
    time.sleep(0.02)  # longer than two times of change of a folder are taken for the same
    keep_rates(replace(SPEEDS, token=0.002))
    assert planner.ask("forecast", context=5) is not between


def test_the_process_plans_for_the_gpus_of_the_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    seen = "os.environ['CUDA_VISIBLE_DEVICES'], os.environ[this_machine.OF_ENGINE], this_machine._chosen()"
    code = f"""
import os
from playground.jsonl_server import Server
from playground.memory import this_machine
Server().serve(lambda do, arguments, emit: [{seen}])
"""
    planner = Planner(tmp_path / "runs", (sys.executable, "-c", code))
    assert planner.ask("forecast") == ["", "1,0", "1,0"]
    planner.close()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    planner = Planner(tmp_path / "runs", (sys.executable, "-c", code))
    assert planner.ask("forecast") == ["", "all", "all"]
    planner.close()


def test_equal_questions_at_once_are_answered_by_one_computation(planner):
    """As when a whole class opens the Plan tab."""
    with ThreadPoolExecutor(90) as crowd:
        answers = list(crowd.map(lambda _: planner.ask("count", context=5), range(90)))
    assert answers == [{"asked": 1}] * 90
    assert planner.ask("count", context=6) == {"asked": 2}


class Asker:
    """Somebody who asks."""


def test_who_asks_much_makes_nobody_wait_for_more_than_one_of_their_questions(planner):
    flood, other = Asker(), Asker()
    planner.ask("count", context=0)  # the process is there
    with ThreadPoolExecutor(12) as crowd:
        asked = [crowd.submit(planner.ask, "count", asker=flood, context=number) for number in range(1, 13)]
        time.sleep(0.1)
        assert planner.ask("count", asker=other, context=99)["asked"] <= 4
        assert sorted(one.result()["asked"] for one in asked)[-1] == 14


def test_stored_answer_needs_no_process_and_starts_that_of_forecasts(tmp_path, monkeypatch):
    asked = {"context": 5, "settings": {"load": {"bits": 4}}}
    entries = [{"id": do, "arguments": asked, "answer": {"stored": do}} for do in ("forecast", "waterfall")]
    (tmp_path / "answers.json").write_text(json.dumps(entries))
    monkeypatch.setattr("playground.planning.client.STORED_ANSWERS", tmp_path / "answers.json")
    planner = Planner(tmp_path / "runs", (sys.executable, "-c", STUB))
    assert planner.stored_answer("forecast", **asked) == {"stored": "forecast"} and planner.pid("forecast") is None
    assert planner.stored_answer("forecast", context=6) is None
    assert planner.ask("waterfall", **asked) == {"stored": "waterfall"} and planner.pid("waterfall") is None
    assert planner.ask("forecast", **asked) == {"stored": "forecast"}
    until = time.monotonic() + WAIT
    while planner.pid("forecast") is None and time.monotonic() < until:
        time.sleep(0.01)
    assert planner.pid("forecast") and planner.ask("forecast", context=6)["pid"] == planner.pid("forecast")
    planner.close()


def test_process_that_died_is_replaced(planner):
    dead = planner.ask("forecast")["pid"]
    os.kill(dead, signal.SIGKILL)
    assert planner.ask("forecast", context=1)["pid"] != dead


def test_question_that_kills_the_process_fails_and_the_next_one_is_answered(planner):
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("die")
    assert keys(caught) == ["error.planner_died"] and "3" in str(caught.value)
    assert planner.ask("forecast")["pid"] and planner.ask("fastest_settings")["pid"]


def test_long_questions_have_their_own_processes(planner):
    assert len({planner.ask(do)["pid"] for do in ("forecast", "waterfall", "fastest_settings", "largest_models")}) == 3


def test_errors_are_raised_and_not_remembered(planner):
    for _ in range(2):
        with pytest.raises(PlaygroundError) as caught:
            planner.ask("refuse")
        assert keys(caught) == ["problem.r"]
    assert not planner._answers


def test_questions_about_rows_report_progress_and_are_asked_anew(planner):
    reports = []
    first = planner.ask("cutoff_cost", lambda *progress: reports.append(progress), cutoff=5)
    assert (
        reports == [(1, 2, "rows"), (2, 2, "rows")]
        and first["cutoff"] == 5
        and first["pid"] != planner.ask("forecast")["pid"]
    )
    assert planner.ask("cutoff_cost", cutoff=5) is not first and not any(
        "cutoff_cost" in key for key in planner._answers
    )


def test_exception_of_the_progress_callback_ends_the_question(planner):
    def interrupt(*_):
        raise InterruptedError

    before = planner.ask("cutoff_cost", cutoff=0)["pid"]
    with pytest.raises(InterruptedError):
        planner.ask("cutoff_cost", interrupt, cutoff=1)
    answer = planner.ask("cutoff_cost", cutoff=2)
    assert answer["cutoff"] == 2 and answer["pid"] != before  # nobody waits for what that process was computing


def test_stopped_question_fails_without_a_problem_and_the_next_one_is_answered(planner):
    planner.stop("cutoff_cost")  # nothing to stop
    progressed, caught = threading.Event(), []

    def ask():
        with pytest.raises(PlaygroundError) as error:
            planner.ask("cutoff_cost", lambda *_: progressed.set(), long=True)
        caught.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert progressed.wait(WAIT)
    planner.stop("forecast")  # another process
    assert asking.is_alive()
    planner.stop("xray")
    asking.join(WAIT)
    assert not asking.is_alive() and keys(caught[0]) == [] and str(caught[0].value) == ""
    assert planner.ask("cutoff_cost")["pid"]


def test_oldest_answers_are_forgotten(planner, monkeypatch):
    monkeypatch.setattr("playground.planning.client.MAX_ANSWERS", 3)
    for context in range(5):
        planner.ask("forecast", context=context)
    assert len(planner._answers) == 3


def test_this_machine_is_known_without_torch():
    machine = this_machine()
    assert machine["device"] in ("cpu", "cuda") and machine["name"] and machine["bytes"] > 2**28
    assert json.loads(json.dumps(machine)) == machine


@pytest.mark.slow
def test_real_process_answers_questions_about_rows(tmp_path, toy):
    planner, settings = (
        Planner(tmp_path),
        {"load": {"model": str(toy()), "bits": 16}, "data": {"source": "plain-qa.ja"}},
    )
    xray = planner.ask("xray", settings=settings, row=2)
    assert xray["states"]["trained"] and xray["row"]["output"]
    reports = []
    assert (
        planner.ask(
            "cutoff_cost",
            lambda *progress: reports.append(progress),
            settings=settings,
            cutoff=99,
            capacity=2**34,
            card="rtx-4080",
        )["cutoff"]
        == 99
    )
    assert reports[0] == (0, xray["rows"], "rows")
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("xray", settings=settings | {"load": {"model": "gemma-3-270m"}}, row=1)
    assert keys(caught) == ["error.tokenizer_absent"]
    planner.close()


@pytest.mark.slow
def test_real_process_predicts_refuses_and_ends_with_the_page(tmp_path, toy):
    planner = Planner(tmp_path)
    settings = {
        "load": {"model": str(toy()), "bits": 16, "device": "cuda"},
        "train": {"batch_size": 2, "max_seq_length": 64},
    }
    forecast = planner.ask("forecast", settings=settings, context=128, capacity=2**33, device="cuda")
    assert set(forecast["phases"]) == {"load", "chat", "tune"} and forecast["bits"] == 16
    for phase in forecast["phases"].values():
        assert (
            sum(size for part, size in phase["parts"].items() if part != "runtime")
            == phase["allocated"]
            <= phase["device_used"]
        )
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("forecast", settings=settings | {"load": {"model": str(tmp_path / "absent")}}, context=128)
    assert len(keys(caught)) == 1
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("forecast", settings=settings | {"lora": {"r": 0, "rank": 1}}, context=128)
    assert keys(caught) == ["problem.unknown_field_known", "problem.r"]
    connection = planner._worker("forecast").connection
    connection.close_input()
    assert connection.wait(WAIT) == 0
