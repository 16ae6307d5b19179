"""The adapter of a run: the prompt format that it was trained with."""

import pytest

from playground import runs
from playground.engine.model_slot import adapter_of
from playground.settings import Settings


@pytest.mark.parametrize(
    "saved,expected", [("alpaca", "alpaca"), (None, "chat"), ("no such format", "chat"), (7, "chat")]
)
def test_without_the_trained_prompt_format_the_one_that_was_asked_for_is_used(tmp_path, saved, expected):
    run = runs.create(tmp_path, "tune", Settings().with_values({"data": {"prompt_format": "chat"}}))
    if saved is not None:  # a run that was killed has no last event
        run.append("done", job="tune", result={"template": saved})
    assert adapter_of(run).template == expected
