"""The guided demo, over an engine that is a stand-in: the order of its jobs, its answers, its end."""

import threading

import pytest

from playground.errors import PlaygroundError, problem
from playground.job import Job
from playground.settings import Settings
from playground.ui.comparison import Answer, Turn
from playground.ui.story import STEPS, Story


class StandInEngine:
    """Accepts jobs and ends each at once, as a test has prepared it."""

    def __init__(self, failing="", stopped="", error="error.busy"):
        self.jobs, self.state, self.failing, self.stopped, self.error = [], "ready", failing, stopped, error
        self.go_on = threading.Event()
        self.go_on.set()

    def load(self, settings):
        return self._job("load")

    def tune(self, settings):
        return self._job("tune")

    def _job(self, do):
        self.go_on.wait(10)
        self.jobs.append(do)
        job = Job(do)
        job.add({"kind": "opened", "run": f"run-{len(self.jobs)}"})
        job.add({"kind": "done", "result": {"stopped": do == self.stopped}})
        job.end(problem(self.error) if do == self.failing else None)
        return job


def told(engine, finish="end"):
    story, asked = Story(engine), []

    def ask(adapter):
        for question in ("Where?", "When?"):
            asked.append((question, adapter))
            yield Turn(question, {"base": Answer("There.", finish)}, adapter)

    story.start(Settings(), ask)
    for _ in story.changes():
        pass
    return story, asked


def test_it_loads_asks_the_base_fine_tunes_and_asks_with_the_new_adapter():
    engine = StandInEngine()
    story, asked = told(engine)
    assert engine.jobs == ["load", "tune"]
    assert asked == [("Where?", ""), ("When?", ""), ("Where?", "run-2"), ("When?", "run-2")]
    assert [step.state for step in story.steps] == ["done"] * len(STEPS)
    assert not story.running and story.error is None


def test_its_turns_are_those_of_the_last_step():
    story, _ = told(StandInEngine())
    assert [(turn.question, turn.adapter) for turn in story.turns] == [("Where?", "run-2"), ("When?", "run-2")]


@pytest.mark.parametrize(("do", "states"), [("load", ["failed"]), ("tune", ["done", "done", "failed"])])
def test_a_step_that_fails_ends_it_with_the_reason(do, states):
    story, _ = told(StandInEngine(failing=do))
    assert [step.state for step in story.steps] == states + ["waiting"] * (len(STEPS) - len(states))
    assert isinstance(story.error, PlaygroundError)


def test_a_step_that_was_stopped_ends_it_without_an_error():
    story, _ = told(StandInEngine(stopped="tune"))
    assert [step.state for step in story.steps] == ["done", "done", "stopped", "waiting"]
    assert story.error is None


def test_a_step_that_was_stopped_before_its_turn_ends_it_without_an_error():
    story, _ = told(StandInEngine(failing="tune", error="shared.left_line"))
    assert [step.state for step in story.steps] == ["done", "done", "stopped", "waiting"]
    assert story.error is None


def test_an_answer_that_was_stopped_ends_it():
    story, _ = told(StandInEngine(), finish="stopped")
    assert [step.state for step in story.steps] == ["done", "stopped", "waiting", "waiting"]


def test_a_second_start_is_refused_while_it_runs():
    engine = StandInEngine()
    engine.go_on.clear()
    story = Story(engine)
    story.start(Settings(), lambda adapter: [])
    with pytest.raises(PlaygroundError, match="busy"):
        story.start(Settings(), lambda adapter: [])
    engine.go_on.set()
    assert list(story.changes())[-1][-1].state == "done"


def test_it_isnt_started_while_the_engine_works():
    engine = StandInEngine()
    engine.state = "busy"
    with pytest.raises(PlaygroundError, match="busy"):
        Story(engine).start(Settings(), lambda adapter: [])
    assert engine.jobs == []


def test_a_page_that_comes_later_sees_the_steps_so_far():
    engine = StandInEngine()
    story, _ = told(engine)
    assert [step.name for step in next(story.changes())] == list(STEPS)
