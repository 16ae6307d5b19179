"""Which adapter is selected, and that an update on its way doesn't undo what a person chose meanwhile."""

from types import SimpleNamespace

import pytest

from playground.errors import problem
from playground.settings import Settings
from playground.ui import adapter_choice
from playground.ui.adapter_choice import adapter_update
from playground.ui.compare_heads import notice_updates
from playground.ui.foreign_adapter import base_of
from playground.ui.page import Page
from playground.ui.workspaces import Workspace

NOTHING = "nothing is selected by the update"


@pytest.fixture
def selected(monkeypatch):
    """`selected(kept, adapter, seen, tuned="")`: what an update selects among the runs "new" and "old" and none."""

    def select(kept, adapter, seen, tuned="", private=True):
        monkeypatch.setattr(
            adapter_choice, "adapter_choices", lambda page: [(name, name) for name in ("new", "old", "")]
        )
        monkeypatch.setattr(adapter_choice, "latest_tuned_run", lambda page: tuned)
        page = SimpleNamespace(private=private, translate=lambda key, **values: key)
        return adapter_update(page, kept, adapter, seen).get("value", NOTHING)

    return select


def test_the_newest_is_selected_as_the_page_opens_and_then_what_is_selected_stays(selected):
    seen = {}
    assert selected("", None, seen) == "new"
    assert selected("", "new", seen) == NOTHING
    assert selected("", "old", seen) == NOTHING
    assert selected("", None, seen) == NOTHING  # asked before the first answer was there


def test_a_run_that_is_gone_gives_way_to_the_newest(selected):
    assert selected("", "gone", {"begun": True}) == "new"


def test_a_new_fine_tune_is_selected_once(selected):
    seen = {"begun": True}
    assert selected("", "old", seen, tuned="new") == "new"
    assert selected("", "old", seen, tuned="new") == NOTHING  # "none" or another was chosen since


def test_what_was_selected_before_a_reload_comes_first(selected):
    seen = {}
    assert selected("old", None, seen, tuned="new") == "old"
    assert selected("", "old", seen, tuned="new") == NOTHING
    assert selected("gone", None, {}) == "new"


@pytest.mark.parametrize("here", [True, False])
def test_the_notice_of_another_model_outlives_a_switch_of_language_and_a_restart(tmp_path, here):
    asked = []

    def ask(do, adapter, model):
        asked.append(adapter)
        if not here:
            raise problem("error.busy")
        return {"base": "its-model"}

    def pages(planner):
        workspace = Workspace("", tmp_path, None, planner)
        return [Page(lang, lambda: workspace, Settings(), private=True) for lang in ("en", "ja")]

    for _ in range(2):  # of the program
        for page in pages(SimpleNamespace(ask=ask)):
            notice, use, _ = notice_updates(page, "own/er", "the/forms")
            assert notice["visible"] == use["visible"] == here and ("its-model" in notice["value"]) == here
    assert asked == ["own/er"] * 2  # not once more at each change of the form
    stranger = Page("en", lambda: Workspace("ada", tmp_path, None, SimpleNamespace(ask=ask)), Settings())
    assert base_of(stranger, "/etc/adapter") == "" and len(asked) == 2


def test_a_stranger_keeps_no_adapter_by_a_path(selected):
    assert selected("/etc/adapter", None, {}) == "/etc/adapter"
    assert selected("/etc/adapter", None, {}, private=False) == "new"
