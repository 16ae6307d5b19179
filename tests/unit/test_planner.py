"""The planning process seen from the page: started late, asked once, replaced when it dies, its troubles told."""

import json
import sys
import threading
import time

import pytest
from toys import keys

from playground.errors import PlaygroundError
from playground.planning.client import Planner, this_machine

STUB = """
import json, os, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "die":
        os._exit(3)
    if asked["do"] == "cutoff_cost":
        for done in (1, 2):
            print(json.dumps({"id": asked["id"], "progress": [done, 2, "rows"]}), flush=True)
        if asked["values"].get("long"):
            time.sleep(60)
    if asked["do"] == "refuse":
        answer = {"error": {"problems": [{"key": "problem.r", "values": {"r": 0}}]}}
    else:
        answer = {"result": {"pid": os.getpid(), "cuda": os.environ["CUDA_VISIBLE_DEVICES"], **asked["values"]}}
    print(json.dumps({"id": asked["id"], **answer}), flush=True)
"""


@pytest.fixture
def planner(tmp_path):
    made = Planner(tmp_path / "runs", (sys.executable, "-c", STUB))
    yield made
    made.close()


def process(planner, lane: str = "quick"):
    return planner._lanes[lane].process


def test_it_starts_with_the_first_question_and_sees_no_gpu(planner):
    assert process(planner) is None
    assert planner.ask("forecast", context=5) == {"pid": process(planner).pid, "cuda": "", "context": 5}


def test_the_same_question_is_asked_once(planner):
    first = planner.ask("forecast", context=5, settings={"load": {"bits": 4}})
    planner.close()
    assert planner.ask("forecast", settings={"load": {"bits": 4}}, context=5) is first
    assert planner.ask("forecast", context=6)["pid"] != first["pid"]


def test_a_process_that_died_is_replaced(planner):
    dead = planner.ask("forecast")["pid"]
    process(planner).kill()
    assert planner.ask("forecast", context=1)["pid"] != dead


def test_a_question_that_it_dies_of_is_told_and_the_next_one_answered(planner):
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("die")
    assert keys(caught) == ["error.planner_died"] and "3" in str(caught.value)
    assert planner.ask("forecast")["pid"] and planner.ask("fastest_settings")["pid"]


def test_what_takes_long_has_processes_of_its_own(planner):
    assert len({planner.ask(do)["pid"] for do in ("forecast", "waterfall", "fastest_settings", "largest_models")}) == 3


def test_what_is_wrong_with_the_values_comes_as_its_problems_and_is_not_remembered(planner):
    for _ in range(2):
        with pytest.raises(PlaygroundError) as caught:
            planner.ask("refuse")
        assert keys(caught) == ["problem.r"]
    assert not planner._answers


def test_a_long_question_tells_how_far_it_is_and_what_rows_say_is_asked_anew(planner):
    told = []
    first = planner.ask("cutoff_cost", lambda *progress: told.append(progress), cutoff=5)
    assert (
        told == [(1, 2, "rows"), (2, 2, "rows")]
        and first["cutoff"] == 5
        and first["pid"] != planner.ask("forecast")["pid"]
    )
    assert planner.ask("cutoff_cost", cutoff=5) is not first and not any(
        "cutoff_cost" in key for key in planner._answers
    )


def test_who_hears_of_the_progress_can_break_off_by_raising(planner):
    def enough(*_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        planner.ask("cutoff_cost", enough, cutoff=1)
    assert planner.ask("cutoff_cost", cutoff=2)["cutoff"] == 2


def test_a_question_that_is_stopped_ends_quietly_and_the_next_one_is_answered(planner):
    planner.stop("cutoff_cost")  # nothing to stop
    heard, caught = threading.Event(), []

    def ask():
        with pytest.raises(PlaygroundError) as error:
            planner.ask("cutoff_cost", lambda *_: heard.set(), long=True)
        caught.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert heard.wait(20)
    planner.stop("forecast")  # another process
    assert asking.is_alive()
    planner.stop("xray")
    asking.join(20)
    assert not asking.is_alive() and keys(caught[0]) == [] and str(caught[0].value) == ""
    assert planner.ask("cutoff_cost")["pid"]


def test_it_remembers_only_so_much(planner, monkeypatch):
    monkeypatch.setattr("playground.planning.client.REMEMBERED", 3)
    for context in range(5):
        planner.ask("forecast", context=context)
    assert len(planner._answers) == 3


def test_this_machine_is_known_without_torch():
    here = this_machine()
    assert here["device"] in ("cpu", "cuda") and here["name"] and here["bytes"] > 2**28
    assert json.loads(json.dumps(here)) == here


def test_the_real_process_looks_at_rows(tmp_path, toy):
    planner, settings = (
        Planner(tmp_path),
        {"load": {"model": str(toy()), "bits": 16}, "data": {"source": "plain-qa.ja"}},
    )
    found = planner.ask("xray", settings=settings, row=2)
    assert found["states"]["trained"] and found["row"]["output"]
    told = []
    assert (
        planner.ask(
            "cutoff_cost",
            lambda *progress: told.append(progress),
            settings=settings,
            cutoff=99,
            capacity=2**34,
            card="rtx-4080",
        )["cutoff"]
        == 99
    )
    assert told[0] == (0, found["rows"], "rows")
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("xray", settings=settings | {"load": {"model": "gemma-3-270m"}}, row=1)
    assert keys(caught) == ["error.tokenizer_absent"]
    planner.close()


def test_the_real_process_answers_refuses_and_ends_with_the_page(tmp_path, toy):
    planner = Planner(tmp_path)
    settings = {
        "load": {"model": str(toy()), "bits": 16, "device": "cuda"},
        "train": {"batch_size": 2, "max_seq_length": 64},
    }
    found = planner.ask("forecast", settings=settings, context=128, capacity=2**33, device="cuda")
    assert set(found["phases"]) == {"load", "chat", "tune"} and found["bits"] == 16
    for phase in found["phases"].values():
        assert (
            sum(size for part, size in phase["parts"].items() if part != "runtime")
            == phase["allocated"]
            <= phase["device_used"]
        )
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("forecast", settings=settings | {"load": {"model": str(tmp_path / "absent")}}, context=128)
    assert len(keys(caught)) == 1
    alone = process(planner)
    alone.stdin.close()
    until = time.time() + 20
    while alone.poll() is None and time.time() < until:
        time.sleep(0.05)
    assert alone.poll() == 0
