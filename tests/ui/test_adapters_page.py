"""Adapters answer on the page: one from elsewhere beside its base, and those of several runs at once."""

import time

import pytest
import torch
import toys
from actions import (
    LONG,
    choose_toy,
    limit_answers,
    notices,
    open_tab,
    press,
    run_row,
    unfold,
    wait_until_answered,
    wait_until_idle,
)
from peft import LoraConfig, get_peft_model
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM

from playground import runs
from playground.i18n import translate
from playground.settings import Settings
from playground.ui.comparison import PENDING

DIFFERENT = """
count => new Set([...document.querySelectorAll('#adapters-answers .text')].map(text => text.innerText)).size === count
"""


def plain_adapter(base, folder, r=4):
    """An adapter for the model of a folder, saved by PEFT alone."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=r, target_modules=["q_proj"]))
    torch.manual_seed(r)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(folder)
    return folder


def test_a_folder_from_elsewhere_answers_beside_its_base_and_is_refused_for_another(shared_page, app, toy, tmp_path):
    adapter, page = plain_adapter(app.model, tmp_path / "my-lora"), shared_page
    choose_toy(page, app)
    open_tab(page, "tab.chat")
    field = page.locator("#elsewhere textarea, #elsewhere input").first
    field.fill("/no/such/adapter")
    field.press("Enter")
    expect(notices(page)).to_contain_text("/no/such/adapter", timeout=LONG)
    field.fill(str(adapter))
    field.press("Enter")
    facts = translate("en", "chat.elsewhere.facts", r=4, layers=2, trained_on=app.model.name)
    expect(notices(page, "good").filter(has_text=facts)).to_be_visible(timeout=LONG)
    choice = translate("en", "chat.elsewhere.choice", name="my-lora")
    expect(page.get_by_label(translate("en", "chat.adapter"), exact=True)).to_have_value(choice)
    expect(page.locator(".prose.compare-heads")).to_contain_text("adapter my-lora")
    limit_answers(page, 3)
    page.locator("#question textarea").fill("What is it?")
    page.locator("#question textarea").press("Enter")
    wait_until_answered(page)
    for side in ("base", "tuned"):
        expect(page.locator(f".side-{side} .facts")).to_contain_text("tokens/s")
    choose_toy(page, app, toy(hidden_size=32))
    open_tab(page, "tab.chat")
    expect(page.get_by_label(translate("en", "chat.adapter"), exact=True)).to_have_value(choice)
    field.fill(str(adapter))
    field.press("Enter")
    expect(notices(page).filter(has_text="4 × 64")).to_contain_text("4 × 32", timeout=LONG)


def test_an_adapter_is_checked_though_another_is_just_being_checked(shared_page, app, tmp_path):
    adapter, page = plain_adapter(app.model, tmp_path / "second"), shared_page
    choose_toy(page, app)
    open_tab(page, "tab.chat")
    field = page.locator("#elsewhere textarea, #elsewhere input").first
    for name in ("/no/such/adapter", str(adapter)):
        field.fill(name)
        field.press("Enter")
    expect(notices(page, "good").filter(has_text="LoRA")).to_be_visible(timeout=LONG)


@pytest.fixture
def tuned_runs(app, tmp_path):
    """Fine-tunes of a toy at two ranks, and one of another model: the folders of their runs.

    The toy's answers last long enough to be stopped on a busy machine too.
    """
    toy = toys.save(tmp_path / "toy-long", chat=True, max_position_embeddings=4096)
    made = []
    for r, base in ((2, toy), (8, toy), (4, "somebody/else")):
        settings = Settings().with_values({"load": {"model": str(base), "bits": 32}, "lora": {"r": r}})
        run = runs.create(app.runs, "tune", settings)
        plain_adapter(toy, run.adapter, r)
        run.append("done", job="tune", result={"template": "alpaca"})
        made.append(run)
    yield made
    for run in made:
        runs.delete(app.runs, run.id)


@pytest.fixture
def late_answers(shared_page):
    """As on a slow connection: what a handler yields is there before the answer to its call (whole_updates.py)."""

    def answer_late(route):
        answer = route.fetch()
        time.sleep(0.3)
        route.fulfill(response=answer)

    shared_page.route("**/queue/join*", answer_late)
    yield
    shared_page.unroute_all(behavior="wait")


@pytest.mark.usefixtures("late_answers")
def test_one_question_goes_to_the_base_and_to_each_chosen_run(shared_page, app, tuned_runs):
    page, (low, high, foreign) = shared_page, tuned_runs
    wait_until_idle(page)
    open_tab(page, "tab.chat")
    limit_answers(page, 4000)
    open_tab(page, "tab.runs")
    unfold(page, "adapters.title")
    question, answers = page.locator("#adapters-question textarea"), page.locator("#adapters-answers .answer")
    problem, stop = notices(page).last, page.locator("#adapters-stop")

    def tick(run):
        run_row(page, run.id).get_by_label(translate("en", "overlay.choose")).check()

    tick(low)
    press(page, "adapters.ask")
    expect(problem).to_contain_text(translate("en", "adapters.error.count", count=1, least=2, most=4))
    expect(problem).to_contain_text(translate("en", "chat.empty_question"))

    question.fill("Tell me <b>everything</b>.")
    for run in (foreign, high):
        tick(run)
    press(page, "adapters.ask")
    expect(problem).to_contain_text("Model is toy-long in toy-long · 32 bits · Help desk (English)")
    expect(problem).to_contain_text("but else in else · 32 bits")
    expect(problem).not_to_contain_text(foreign.id)

    run_row(page, foreign.id).get_by_label(translate("en", "overlay.choose")).uncheck()
    press(page, "adapters.ask")
    expect(answers.last.locator(".text")).not_to_have_text(PENDING, timeout=LONG)
    expect(problem).to_be_hidden()
    page.wait_for_function(DIFFERENT, arg=3)
    send = page.get_by_role("button", name=translate("en", "adapters.ask"), exact=True)
    expect(send).to_have_css("pointer-events", "none")
    stop.click()
    expect(send).to_have_css("pointer-events", "auto")
    expect(answers.last.locator(".cut")).to_contain_text("Stopped")
    expect(answers.locator(".who").first).to_have_text(translate("en", "adapters.base"))
    expect(answers.locator(".detail")).to_have_text(["r 2", "r 8"])
    expect(page.locator("#adapters-answers .asked")).to_have_text("Tell me <b>everything</b>.")
    expect(answers.locator(".facts")).to_contain_text(["tokens/s"] * 3)
    expect(page.locator("#adapters-answers .status")).to_contain_text("3")
