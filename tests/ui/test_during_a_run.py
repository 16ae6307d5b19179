"""While a fine-tune is at work: the live view, the strip, what is refused; then stop, resume, and a killed process."""

import json
import os
import signal

import psutil
import pytest
from actions import (
    LONG,
    drawn_points,
    load_toy,
    newest_run,
    notices,
    open_tab,
    press,
    row_button,
    run_row,
    start_fine_tune,
    wait_for_new_points,
    wait_until_idle,
    wait_until_training,
)
from playwright.sync_api import expect

from playground.i18n import translate

STOPPED = translate("en", "chart.outcome.stopped")


@pytest.fixture(scope="module")
def page(shared_page, app):
    wait_until_idle(shared_page)
    yield shared_page
    if shared_page.locator("#stop").is_enabled():
        press(shared_page, "strip.stop")
        wait_until_idle(shared_page)


@pytest.fixture
def run(page, app):
    """A fine-tune at work: the one before if it still is."""
    if not page.locator("#stop").is_enabled():
        start_fine_tune(page, app, "400")
    open_tab(page, "tab.tune")
    wait_until_training(page)
    return newest_run(app)


def test_the_live_view_follows_it_over_a_reload_and_on_a_second_page(run, page, app, browser):
    before = wait_for_new_points(page, 0)
    page.reload()
    wait_until_training(page)
    assert wait_for_new_points(page, before) > before
    second = browser.new_page()
    second.goto(app.url + "/ja")
    expect(second.locator(".live .facts")).to_contain_text("トークン/秒", timeout=LONG)
    second.close()


def test_it_cannot_be_deleted(run, page):
    open_tab(page, "tab.runs")
    expect(run_row(page, run.name)).to_contain_text(translate("en", "state.running"))
    row_button(page, run.name, "runs.delete").click()
    expect(notices(page).first).to_have_text(translate("en", "error.run_in_use"))
    assert run.is_dir()


def test_a_question_is_answered_by_a_sentence_and_nothing_is_stopped(run, page):
    open_tab(page, "tab.chat")
    question = page.locator("#question textarea")
    question.fill("Are you there?")
    question.press("Enter")
    expect(notices(page)).to_have_text(translate("en", "chat.busy_tune"))
    expect(question).to_have_value("Are you there?")
    expect(page.locator(".turn")).to_have_count(0)
    press(page, "chat.clear")
    open_tab(page, "tab.tune")  # which shows the chart
    wait_for_new_points(page, 0)
    expect(page.locator(".live .phase")).to_have_text(translate("en", "phase.train"))


def test_the_strip_follows_it_and_its_stop_says_what_was_kept(run, page):
    strip = page.locator(".strip")
    expect(strip.locator(".model")).to_contain_text("toy-llama")
    for tab in ("tab.plan", "tab.data", "tab.chat"):  # whatever is open
        open_tab(page, tab)
        expect(page.locator("#stop")).to_be_visible()
    expect(strip.locator(".memory b")).to_contain_text("iB")
    page.locator("#stop").click()
    expect(page.locator("#stop")).to_have_text(translate("en", "strip.stopping"))
    wait_until_idle(page)
    expect(page.locator("#stop")).to_have_text(translate("en", "strip.stop"))
    open_tab(page, "tab.tune")
    expect(notices(page, "good")).to_contain_text(translate("en", "tune.stopped")[:7])
    assert (run / "adapter" / "adapter_config.json").is_file()


def test_it_resumes_after_a_stop_and_its_live_view_continues(run, page):
    press(page, "strip.stop")
    expect(page.locator(".live .phase")).to_have_text(STOPPED, timeout=LONG)
    assert (run / "checkpoint.pt").is_file()
    wait_until_idle(page)
    open_tab(page, "tab.runs")
    resume = row_button(page, run.name, "runs.resume")
    expect(resume).to_be_enabled()
    before = drawn_points(page)
    resume.click()
    wait_until_training(page)
    expect(resume).to_be_disabled()
    assert wait_for_new_points(page, before) > before
    open_tab(page, "tab.tune")
    press(page, "strip.stop")
    expect(page.locator(".live .phase")).to_have_text(STOPPED, timeout=LONG)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in events].count("run_started") == 1 and [e["kind"] for e in events].count("done") == 2
    losses = "document.querySelector('.live .loss .plot').data[0].x"
    last = max(e["step"] for e in events if e["kind"] == "step")
    page.wait_for_function(f"last => {losses}.at(-1) === last", arg=last, timeout=LONG)  # a busy machine draws later
    drawn = page.evaluate(f"() => [...{losses}]")
    assert drawn == sorted(set(drawn))
    wait_until_idle(page)


def test_a_killed_engine_is_reported_and_the_next_click_starts_another(run, page, app):
    wait_for_new_points(page, 0)
    engine = next(
        p
        for p in psutil.Process(app.process.pid).children(recursive=True)
        if "playground.engine.process" in " ".join(p.cmdline())
    )
    os.kill(engine.pid, signal.SIGKILL)
    expect(page.locator(".live .failure")).to_contain_text("signal 9", timeout=LONG)
    assert '"error"' in (run / "events.jsonl").read_text()
    load_toy(page, app)
