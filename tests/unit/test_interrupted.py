"""Which fine-tune is offered to be resumed, and the notice that offers it."""

import pytest

from playground import runs
from playground.engine.client import Engine
from playground.i18n import translate
from playground.runs.lock import locked
from playground.settings import Settings
from playground.ui import build, interrupted_notice

DONE = {"kind": "done", "job": "tune"}
ENDS = {
    "killed with its program": (None, True),
    "ended by a signal": ({**DONE, "result": {"stopped": True, "ended_by": "SIGTERM"}}, True),
    "its engine was killed": ({"kind": "error", "job": "tune", "problems": [{"key": "error.engine_killed"}]}, True),
    "stopped by a person": ({**DONE, "result": {"stopped": True}}, False),
    "failed by itself": ({"kind": "error", "job": "tune", "problems": [{"key": "error.diverged"}]}, False),
    "done": ({**DONE, "result": {"stopped": False}}, False),
}


def fine_tune(root, end: dict | None, job: str = "tune") -> runs.Run:
    run = runs.create(root, job, Settings())
    run.append("step", step=7, steps=20, loss=1.0, tokens=9, lr=1e-3, tokens_per_s=1.0, left_s=1.0)
    (run.folder / "checkpoint.pt").touch()
    if end:
        run.append(**end)
    return run


@pytest.mark.parametrize("name", ENDS)
def test_what_was_cut_off_is_offered_and_nothing_else(tmp_path, name):
    end, is_offered = ENDS[name]
    run = fine_tune(tmp_path, end)
    found = runs.interrupted(tmp_path)
    assert (found.id if found else None) == (run.id if is_offered else None)


def test_only_the_newest_fine_tune_is_offered_and_none_that_is_under_way(tmp_path):
    assert runs.interrupted(tmp_path) is None
    fine_tune(tmp_path, None)
    newest = fine_tune(tmp_path, None)
    runs.create(tmp_path, "load", Settings())
    assert runs.interrupted(tmp_path).id == newest.id
    with locked(newest):
        assert runs.interrupted(tmp_path) is None


def test_one_click_on_the_notice_resumes_the_run(tmp_path, monkeypatch):
    run = fine_tune(tmp_path, None)
    resumed = []
    monkeypatch.setattr(Engine, "start", lambda self: None)
    monkeypatch.setattr(Engine, "resume", lambda self, run_id: resumed.append(run_id))
    monkeypatch.setattr(interrupted_notice, "wait_until_opened", lambda job: None)
    for private in (True, False):
        app = build.build_app(tmp_path, "en", private)
        handlers = [one.fn for one in app.fns.values() if one.fn and "interrupted_notice" in str(one.fn.__module__)]
        named = {handler.__name__: handler for handler in handlers}
        if not private:
            assert not {"refresh", "resume"} & named.keys()  # a stranger's page doesn't offer another person's run
            continue
        text, button = named["refresh"]()
        assert (
            translate("ja", "interrupted.offer", name="", step=7, steps=20)[-30:] in text["value"] and button["visible"]
        )
        named["resume"]()
        assert resumed == [run.id]
