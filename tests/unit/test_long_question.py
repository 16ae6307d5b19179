"""Long questions to the planner: whose they are, and that they end with the page."""

import contextvars
import threading
from pathlib import Path

from playground.errors import PlaygroundError
from playground.settings import Settings
from playground.ui import long_question
from playground.ui.page import Page
from playground.ui.workspaces import VisitorPlanner, Workspace

VISITOR: contextvars.ContextVar[str] = contextvars.ContextVar("visitor", default="nobody")


class SlowPlanner:
    """A planner that counts until the test lets it go."""

    def __init__(self):
        self.asker, self.begun, self.free, self.ended = None, threading.Event(), threading.Event(), threading.Event()

    def ask(self, do, on_progress=None, asker=None, **arguments):
        self.asker = asker
        try:
            self.begun.set()
            while not self.free.wait(0.01):
                on_progress(1, 2, "rows")
            return {"rows": 2}
        finally:
            self.ended.set()

    def stop(self, do, asker=None):
        if asker is self.asker:
            self.free.set()


def visitors_page() -> tuple[Page, SlowPlanner]:
    """A page that finds its visitor by the context of a request, as `current_visitor` does."""
    planner = SlowPlanner()
    spaces = {name: Workspace(name, Path("."), None, VisitorPlanner(planner)) for name in ("ada", "eve", "nobody")}
    return Page("en", lambda: spaces[VISITOR.get()], Settings()), planner


def as_visitor(name, call):
    """What `call` returns in the context of a request of that visitor."""

    def run():
        VISITOR.set(name)
        return call()

    return contextvars.copy_context().run(run)


def test_a_visitor_stops_their_own_question_and_no_other_does(monkeypatch):
    monkeypatch.setattr(long_question, "POLL_SECONDS", 0.01)
    page, planner = visitors_page()
    asking = as_visitor("ada", lambda: page.ask_with_progress("count_rows"))
    as_visitor("ada", lambda: next(asking))
    assert planner.begun.wait(5)
    as_visitor("eve", lambda: page.planner.stop("count_rows"))
    assert not planner.free.is_set()
    as_visitor("ada", lambda: page.planner.stop("count_rows"))
    assert planner.free.is_set() and planner.ended.wait(5)


def test_a_question_ends_once_nobody_waits_for_it(monkeypatch):
    monkeypatch.setattr(long_question, "POLL_SECONDS", 0.01)
    page, planner = visitors_page()
    asking = page.ask_with_progress("count_rows")
    next(asking)
    asking.close()
    assert planner.ended.wait(5) and not planner.free.is_set()


def test_an_answer_and_an_error_are_passed_on():
    page, planner = visitors_page()
    planner.free.set()
    asking = page.ask_with_progress("count_rows")
    try:
        while True:
            next(asking)
    except StopIteration as end:
        assert end.value == {"rows": 2}
    planner.ask = lambda *_, **__: (_ for _ in ()).throw(PlaygroundError())
    try:
        list(page.ask_with_progress("count_rows"))
        raise AssertionError("no error")
    except PlaygroundError:
        pass
