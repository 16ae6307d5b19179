"""The page in a real browser: load, fine-tune and compare, with two kinds of model, and wrong input."""

import json

import pytest
import toys
from actions import (
    choose_toy,
    fill,
    limit_answers,
    load_toy,
    notices,
    open_tab,
    press,
    start_fine_tune,
    visible_field,
    wait_until_answered,
    wait_until_idle,
    wait_until_tuned,
)
from playwright.sync_api import expect

from playground.i18n import translate
from playground.settings import Lora


@pytest.fixture
def page(shared_page):
    return shared_page


def test_load_tune_and_compare(page, app):
    load_toy(page, app)
    run = start_fine_tune(page, app, "0.1")
    wait_until_tuned(page)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    expect(page.locator(".live .measures tbody tr")).to_have_count(11)
    expect(page.locator(".live .samples dt")).to_have_count(3)
    open_tab(page, "tab.chat")
    expect(page.locator(".head-tuned")).to_contain_text("toy-llama")
    limit_answers(page, 16)
    page.get_by_label(translate("en", "chat.ask")).fill("What is the Wi-Fi password?")
    page.keyboard.press("Enter")
    wait_until_answered(page)
    open_tab(page, "tab.chat")
    for side in ("side-base", "side-tuned"):
        expect(page.locator(f".{side} .facts")).to_contain_text("tokens/s")
    kinds = {json.loads(line)["kind"] for line in (run / "events.jsonl").read_text().splitlines()}
    assert {"run_started", "phase", "memory", "step", "eval", "sample", "note", "done"} <= kinds


def test_a_model_with_an_encoder_goes_through_the_same_tabs(page, app, tmp_path):
    wait_until_idle(page)
    run = start_fine_tune(page, app, "0.05", toys.save(tmp_path / "toy-t5", "t5"))
    wait_until_tuned(page)
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    open_tab(page, "tab.chat")
    expect(page.locator(".head-tuned")).to_contain_text("toy-t5")
    limit_answers(page, 16)
    page.get_by_label(translate("en", "chat.ask")).fill("What is the Wi-Fi password?")
    page.keyboard.press("Enter")
    wait_until_answered(page)


def test_all_problems_of_a_form_are_reported_at_once_and_its_values_stay(page, app):
    wait_until_idle(page)
    choose_toy(page, app)
    open_tab(page, "tab.tune")
    fill(page, translate("en", "lora.r"), "0")
    fill(page, translate("en", "train.epochs"), "0")
    press(page, "tune.go")
    notice = notices(page).first
    expect(notice).to_contain_text("rank r")
    expect(notice).to_contain_text("epochs is 0")
    assert visible_field(page, translate("en", "lora.r")).input_value() == "0"
    fill(page, translate("en", "lora.r"), str(Lora().r))
    fill(page, translate("en", "train.epochs"), "1")


def test_unknown_model_is_reported_in_one_sentence(page, app):
    wait_until_idle(page)
    field = visible_field(page, translate("en", "load.model"))
    field.fill("nobody/no-such-model")
    field.press("Enter")
    field.blur()
    press(page, "load.go")
    expect(notices(page).first).to_contain_text("smollm2-135m-instruct", timeout=20_000)
