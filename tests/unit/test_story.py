"""The guided demo, over an engine that is a stand-in: the order of its jobs, its answers, its end."""

import threading

import pytest

from playground.engine.client import Job
from playground.errors import PlaygroundError, problem
from playground.settings import Settings
from playground.ui.story import STEPS, Story


class StandInEngine:
    """Accepts jobs and ends each at once, as a test has prepared it."""

    def __init__(self, failing="", stopped=""):
        self.jobs, self.state, self.failing, self.stopped = [], "ready", failing, stopped
        self.go_on = threading.Event()
        self.go_on.set()

    def load(self, settings):
        return self._job("load")

    def tune(self, settings):
        return self._job("tune")

    def chat(self, settings, adapter, sides, generation):
        job = self._job("chat", adapter, sides)
        return job

    def _job(self, do, adapter=None, sides=None):
        self.go_on.wait(10)
        self.jobs.append((do, adapter, sides))
        job = Job(do)
        job.add({"kind": "opened", "run": f"run-{len(self.jobs)}"})
        if sides:
            job.add({"kind": "answer", **{one: f"{one} says so" for one in sides}})
        job.add({"kind": "done", "result": {"stopped": do == self.stopped}})
        job.end(problem("error.busy") if do == self.failing else None)
        return job


def told(engine, questions=("Where?", "When?")):
    story = Story(engine)
    story.start(Settings(), questions)
    for _ in story.changes():
        pass
    return story


def test_it_loads_asks_the_base_fine_tunes_and_asks_both():
    engine = StandInEngine()
    story = told(engine)
    assert [do for do, _, _ in engine.jobs] == ["load", "chat", "chat", "tune", "chat", "chat"]
    assert [sorted(sides) for do, _, sides in engine.jobs if do == "chat"] == [["base"]] * 2 + [["base", "tuned"]] * 2
    assert [step.state for step in story.steps] == ["done"] * len(STEPS)
    assert not story.running and story.error is None


def test_both_are_asked_with_the_adapter_that_was_just_trained():
    engine = StandInEngine()
    story = told(engine)
    assert [adapter for do, adapter, _ in engine.jobs if do == "chat"] == [None, None, "run-4", "run-4"]
    assert story.adapter == "run-4"


def test_its_answers_are_those_of_the_last_step():
    story = told(StandInEngine())
    assert story.answers["base"] == [("Where?", "base says so"), ("When?", "base says so")]
    assert story.answers["tuned"] == [("Where?", "tuned says so"), ("When?", "tuned says so")]


@pytest.mark.parametrize(("do", "states"), [("load", ["failed"]), ("tune", ["done", "done", "failed"])])
def test_a_step_that_fails_ends_it_with_the_reason(do, states):
    story = told(StandInEngine(failing=do))
    assert [step.state for step in story.steps] == states + ["waiting"] * (len(STEPS) - len(states))
    assert isinstance(story.error, PlaygroundError)


def test_a_step_that_was_stopped_ends_it_without_an_error():
    story = told(StandInEngine(stopped="tune"))
    assert [step.state for step in story.steps] == ["done", "done", "stopped", "waiting"]
    assert story.error is None


def test_a_second_start_is_refused_while_it_runs():
    engine = StandInEngine()
    engine.go_on.clear()
    story = Story(engine)
    story.start(Settings(), ["Where?"])
    with pytest.raises(PlaygroundError, match="busy"):
        story.start(Settings(), ["Where?"])
    engine.go_on.set()
    assert list(story.changes())[-1][-1].state == "done"


def test_it_isnt_started_while_the_engine_works():
    engine = StandInEngine()
    engine.state = "busy"
    with pytest.raises(PlaygroundError, match="busy"):
        Story(engine).start(Settings(), ["Where?"])
    assert engine.jobs == []


def test_a_page_that_comes_later_sees_the_steps_so_far():
    engine = StandInEngine()
    story = told(engine)
    assert [step.name for step in next(story.changes())] == list(STEPS)
