"""A fine-tune with two processes, started and stopped on the page."""

import json

import pytest
from actions import (
    check_radio,
    choose,
    choose_toy,
    expand,
    fill,
    notices,
    open_tab,
    press,
    press_for_run,
    wait_until_idle,
    wait_until_training,
    wait_until_tuned,
)

from playground.i18n import translate

pytestmark = pytest.mark.slow


def choose_two(page, app, epochs: str) -> None:
    """A fine-tune of the toy model, with its weights split over two processes."""
    choose_toy(page, app)
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), epochs)
    expand(page, "tune.memory")
    choose(page, translate("en", "train.num_processes"), "2")
    check_radio(page, translate("en", "choice.train.parallel.fsdp2"))


def test_two_processes_are_chosen_and_stopped_on_the_page(page, app):
    choose_two(page, app, "100")
    run = press_for_run(page, app, "tune.go")
    train = json.loads((run / "settings.json").read_text())["train"]
    assert (train["num_processes"], train["parallel"]) == (2, "fsdp2")
    wait_until_training(page)
    press(page, "strip.stop")
    wait_until_idle(page)
    last = json.loads((run / "events.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "done" and last["result"]["stopped"]
    assert notices(page).all_inner_texts() == []


def test_the_result_of_two_processes_is_shown_as_that_of_one(page, app):
    choose_two(page, app, "0.2")
    run = press_for_run(page, app, "tune.go")
    wait_until_tuned(page)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
