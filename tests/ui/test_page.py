"""The page in a real browser: load, fine-tune, watch, stop, resume, compare, reload, Japanese, wrong input."""

import json
import os
import signal
from dataclasses import fields

import psutil
import toys
from actions import (
    LONG,
    choose_toy,
    drawn_points,
    fill,
    newest_run,
    notices,
    open_tab,
    press,
    row_button,
    start_fine_tune,
    visible_field,
    wait_for_new_points,
    wait_until_answered,
    wait_until_idle,
    wait_until_training,
)
from playwright.sync_api import expect

from playground.i18n import translate
from playground.settings import Data, Lora, Train

OVERFLOWING = """() => [...document.querySelectorAll('.form > .block')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"""


def test_load_tune_and_compare(page, app):
    choose_toy(page, app)
    press(page, "load.go")
    expect(page.locator(".notice.good", has_text="toy-llama").first).to_be_visible(timeout=LONG)
    start_fine_tune(page, app, "1")
    expect(page.locator(".notice.good", has_text=translate("en", "tune.done")[:20]).first).to_be_visible(timeout=LONG)
    run = newest_run(app)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    expect(page.locator(".live .measures tbody tr")).to_have_count(9)
    expect(page.locator(".live .samples dt")).to_have_count(3)
    open_tab(page, "tab.chat")
    expect(page.locator(".head-tuned")).to_contain_text("toy-llama")
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
    choose_toy(page, app, toys.save(tmp_path / "toy-t5", "t5"))
    press(page, "load.go")
    expect(page.locator(".notice.good", has_text="toy-t5").first).to_be_visible(timeout=LONG)
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "0.2")
    press(page, "tune.go")
    expect(page.locator(".notice.good", has_text=translate("en", "tune.done")[:20]).first).to_be_visible(timeout=LONG)
    run = newest_run(app)
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    open_tab(page, "tab.chat")
    expect(page.locator(".head-tuned")).to_contain_text("toy-t5")
    page.get_by_label(translate("en", "chat.ask")).fill("What is the Wi-Fi password?")
    page.keyboard.press("Enter")
    wait_until_answered(page)


def test_live_view_follows_a_run_over_a_reload_and_on_a_second_page(page, app, browser):
    start_fine_tune(page, app, "400")
    wait_until_training(page)
    before = wait_for_new_points(page, 0)
    page.reload()
    wait_until_training(page)
    assert wait_for_new_points(page, before) > before
    second = browser.new_page()
    second.goto(app.url + "/ja")
    expect(second.locator(".live .facts")).to_contain_text("トークン/秒", timeout=LONG)
    second.close()
    open_tab(page, "tab.tune")
    press(page, "strip.stop")
    expect(page.locator(".notice.good", has_text=translate("en", "tune.stopped")[:20]).first).to_be_visible(
        timeout=LONG
    )
    assert (newest_run(app) / "adapter" / "adapter_config.json").is_file()


def test_stopped_run_resumes_and_its_live_view_continues(page, app):
    wait_until_idle(page)
    start_fine_tune(page, app, "400")
    wait_until_training(page)
    press(page, "strip.stop")
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.stopped"), timeout=LONG)
    run = newest_run(app)
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
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.stopped"), timeout=LONG)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in events].count("run_started") == 1 and [e["kind"] for e in events].count("done") == 2
    losses = "document.querySelector('.live .loss .plot').data[0].x"
    last = max(e["step"] for e in events if e["kind"] == "step")
    page.wait_for_function(f"last => {losses}.at(-1) === last", arg=last, timeout=LONG)  # a busy machine draws later
    drawn = page.evaluate(f"() => [...{losses}]")
    assert drawn == sorted(set(drawn))


def test_every_setting_has_a_field_and_nothing_is_wider_than_a_phone(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url)
    for key, folded, groups in (
        ("tab.data", ("rows.paste", "rows.columns", "rows.filter"), (Data,)),
        ("tab.tune", ("tune.lora", "tune.train", "tune.memory"), (Lora, Train)),
    ):
        open_tab(page, key)
        for part in folded:
            page.get_by_role("button", name=translate("en", part)).locator("visible=true").first.click()
        for name in (f"{group.__name__.lower()}.{field.name}" for group in groups for field in fields(group)):
            if name != "data.custom_format":  # visible only for a custom prompt format
                expect(
                    page.get_by_text(translate("en", f"{name}.info"), exact=True).locator("visible=true").first
                ).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(OVERFLOWING) == []
    page.close()


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


def test_broken_file_is_reported_with_its_line(page, app, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"instruction": "a", "output": "b"}\n{"instruction": oops}\n')
    open_tab(page, "tab.data")
    page.locator("input[type=file]").first.set_input_files(broken)
    expect(notices(page).first).to_contain_text("line 2")


def test_unknown_model_is_reported_in_one_sentence(page, app):
    wait_until_idle(page)
    field = visible_field(page, translate("en", "load.model"))
    field.fill("nobody/no-such-model")
    field.press("Enter")
    field.blur()
    press(page, "load.go")
    expect(notices(page).first).to_contain_text("smollm2-135m-instruct", timeout=20_000)


def test_killed_engine_is_reported_and_the_next_click_starts_another(page, app):
    wait_until_idle(page)
    start_fine_tune(page, app, "400")
    wait_until_training(page)
    wait_for_new_points(page, 0)
    worker = next(
        p
        for p in psutil.Process(app.process.pid).children(recursive=True)
        if "playground.engine.process" in " ".join(p.cmdline())
    )
    os.kill(worker.pid, signal.SIGKILL)
    expect(page.locator(".live .failure")).to_contain_text("signal 9", timeout=LONG)
    assert '"error"' in (newest_run(app) / "events.jsonl").read_text()
    choose_toy(page, app)
    press(page, "load.go")
    expect(page.locator(".notice.good", has_text="toy-llama").first).to_be_visible(timeout=LONG)


def test_the_japanese_page_is_japanese_down_to_its_errors(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url + "/ja")
    expect(page.get_by_role("heading", name=translate("ja", "app.title"))).to_be_visible(timeout=30_000)
    open_tab(page, "tab.tune", "ja")
    fill(page, translate("ja", "lora.r"), "0")
    press(page, "tune.go", "ja")
    expect(notices(page).first).to_contain_text("ランク r")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
