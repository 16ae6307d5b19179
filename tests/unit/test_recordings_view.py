"""The Runs tab's part on recordings: who may open a file, and why a run can't be saved as one."""

from functools import partial
from types import SimpleNamespace

import gradio as gr
import pytest

from playground import runs
from playground.i18n import translate
from playground.settings import Settings
from playground.ui import recordings_view


def _page(private, root=None):
    return SimpleNamespace(private=private, lang="en", root=root, translate=partial(translate, "en"))


@pytest.mark.parametrize("private", [True, False])
def test_only_the_owner_of_a_page_can_open_a_recording(private):
    page = _page(private)
    with gr.Blocks() as blocks:
        view = recordings_view.build(page)
        recordings_view.connect(page, view, gr.HTML())
    events = {event for listener in blocks.fns.values() for _, event in listener.targets}
    assert ("upload" in events) == private and "click" in events


def test_the_page_says_why_the_shown_run_cannot_be_saved(tmp_path):
    run = runs.create(tmp_path, "tune", Settings())
    page = _page(True, tmp_path)
    button, reason = recordings_view._save_button(page, f'{{"run": "{run.id}"}}')
    assert not button["interactive"] and translate("en", "error.record_open").split("'")[0] in reason["value"]
    button, reason = recordings_view._save_button(page, "{}")
    assert not button["interactive"] and not reason["visible"]
