"""What a person types, drags or chooses while an earlier one is answered is answered too; Gradio ignores it."""

import pytest

from playground.ui.build import build_app


@pytest.fixture(scope="module")
def listeners(tmp_path_factory):
    """(component's type, event, trigger mode) of every listener that calls the program."""
    app = build_app(tmp_path_factory.mktemp("page") / "runs", private=True)
    found = [
        (type(app.blocks[target]).__name__, event, listener.trigger_mode)
        for listener in app.fns.values()
        if listener.fn
        for target, event in listener.targets
        if target in app.blocks
    ]
    assert len(found) > 100
    return found


def test_of_inputs_in_quick_succession_the_last_is_answered(listeners):
    modes = {mode for _, event, mode in listeners if event in ("input", "release", "change")}
    assert modes == {"always_last"}


def test_each_choice_in_a_picture_or_table_is_answered(listeners):
    modes = {mode for kind, event, mode in listeners if event == "select" and kind == "HTML"}
    assert modes == {"multiple"}
