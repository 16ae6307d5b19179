"""Answers of the Compare tab: what keeps a question from being asked, and how a stopped one ends in each column."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from toys import keys

from playground import job
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, table
from playground.settings import Generation, Settings
from playground.ui import adapters_chat_view, compare_answers
from playground.ui.compare_answers import Request, answer
from playground.ui.comparison import Answer, Turn
from playground.ui.page import Page


class OneJob:
    """An engine with one job; it is under way where `busy` says so."""

    def __init__(self, kind, busy=False):
        self.last = job.Job(kind)
        self.job = self.last if busy else None

    def chat(self, *question):
        return self.last

    def stop_job(self, stopped):
        """Nothing: it has ended."""


class EndlessService:
    """A service that has written a word and goes on writing."""

    ended, error, text = False, None, "word"

    def __init__(self, *question):
        self.stopped = self.looks = 0

    def stop(self):
        self.stopped += 1

    def wait(self, seconds):
        self.looks += 1
        assert self.looks < 5, "the service is still waited for"


def page_with(engine, root):
    """A private page over this engine."""
    return Page("en", lambda: SimpleNamespace(engine=engine, root=root), Settings(), private=True)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", job.KINDS)
def test_whatever_the_engine_does_a_question_is_refused_with_what_it_is(tmp_path, kind, lang):
    page, plain = page_with(OneJob(kind, busy=True), tmp_path), Generation()
    request = Request(Turn("Sky?", {}), Settings(), plain, None)
    for ask in (
        lambda: next(answer(page, request, [])),
        lambda: adapters_chat_view._parse(page, "Sky?", ["one", "two"], list(asdict(plain).values())),
    ):
        with pytest.raises(PlaygroundError) as caught:
            ask()
        assert keys(caught) == [f"chat.busy_{kind}"] and caught.value.text(lang) == table(lang)[f"chat.busy_{kind}"]


@pytest.mark.parametrize("text", ["word", ""])
def test_a_stopped_question_is_stopped_in_the_services_column_too(tmp_path, monkeypatch, text):
    services = []
    monkeypatch.setattr(EndlessService, "text", text)

    def ask_service(*question):
        services.append(EndlessService(*question))
        return services[0]

    monkeypatch.setattr(compare_answers, "PendingAnswer", ask_service)
    engine = OneJob("chat")
    engine.last.stopping = True
    engine.last.add({"kind": "done", "result": {"sides": {"base": {"finish": "stopped", "tokens": 3}}}})
    engine.last.end(None)
    turn = Turn("Sky?", {})
    for _ in answer(page_with(engine, tmp_path), Request(turn, Settings(), Generation(), SimpleNamespace()), []):
        pass
    assert turn.answers["service"] == Answer(text, "stopped") and turn.answers["base"].finish == "stopped"
    assert services[0].stopped
