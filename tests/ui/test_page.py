"""What a person does, in a real browser: load, tune, watch, stop, compare, reload, read it in Japanese, get it wrong."""

import json
import os
import re
import signal
from dataclasses import fields

import psutil
from playwright.sync_api import expect

from playground import runs
from playground.settings import Lora, Settings, Train
from playground.words import say

LONG = 60_000


def fill(page, label: str, value: str) -> None:
    """Write into a field and leave it, as Gradio takes a value over when the field is left."""
    field = shown(page, label)
    field.fill(value)
    field.press("Tab")


def shown(page, label: str):
    """The field of that label in the tab that is open: the plan has some of the same."""
    return page.get_by_label(label, exact=True).locator("visible=true").first


def tab(page, key: str, lang: str = "en") -> None:
    page.get_by_role("tab", name=say(lang, key)).click()


def press(page, key: str, lang: str = "en") -> None:
    page.get_by_role("button", name=say(lang, key), exact=True).locator("visible=true").first.click()


def choose_toy(page, app) -> None:
    tab(page, "tab.load")
    field = shown(page, say("en", "load.model"))
    field.fill(str(app.model))
    field.press("Enter")
    field.press("Tab")


def start_tuning(page, app, epochs: str) -> None:
    choose_toy(page, app)
    tab(page, "tab.tune")
    fill(page, say("en", "train.epochs"), epochs)
    press(page, "tune.go")


def training(page) -> None:
    """Wait until the chart says that steps are being taken."""
    expect(page.locator(".live .phase")).to_have_text(say("en", "phase.train"), timeout=LONG)
    expect(page.locator(".live .facts")).to_contain_text("tokens/s", timeout=LONG)


def idle(page) -> None:
    """Wait until nothing runs: the Load button can be pressed again."""
    tab(page, "tab.load")
    expect(page.get_by_role("button", name=say("en", "load.go"))).to_be_enabled(timeout=LONG)


def newest_run(app):
    return max((f for f in app.runs.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime)


def points(page) -> int:
    """Points of the memory line that is drawn now."""
    return page.evaluate("() => Math.max(0, ...[...document.querySelectorAll('.live .memory .plot')].flatMap(p => (p.data ?? []).map(t => (t.y ?? []).length)))")


def grown(page, more_than: int) -> int:
    """Wait until the line has more points than that and gains some more; how many it has then."""
    last = points(page)
    for _ in range(40):
        page.wait_for_timeout(500)
        now = points(page)
        if now > last > more_than:
            return now
        last = now
    raise AssertionError(f"the chart stood still at {last} points")


def take(page, label: str) -> None:
    """Press a radio button of the plan."""
    page.get_by_role("radio", name=label, exact=True).locator("visible=true").first.check()


def test_the_plan_follows_its_fields_and_carries_over(page):
    about, verdicts = page.locator(".plan header p"), page.locator(".plan .verdict")
    expect(about).to_contain_text("4 bits", timeout=LONG)
    expect(page.locator(".plan .pill")).to_have_text(say("en", "plan.predicted"))
    expect(verdicts).to_have_count(3)
    assert "6" in page.locator(".plan .axis").inner_text()
    take(page, "32")
    expect(about).to_contain_text("32 bits", timeout=LONG)
    expect(verdicts.first).to_have_text(say("en", "plan.verdict.no"))
    field = shown(page, say("en", "load.model"))
    field.fill("OPT 125M")
    field.press("Enter")
    expect(page.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    expect(verdicts).to_have_text([say("en", "plan.verdict.fits")] * 3)
    page.get_by_role("button", name=say("en", "plan.waterfall")).click()
    expect(page.locator(".plan .falls li").first).to_contain_text("GiB", timeout=LONG)
    press(page, "plan.fastest")
    expect(page.locator(".ranked label").first).to_contain_text("GiB", timeout=LONG)
    press(page, "plan.use")
    expect(page.get_by_text(say("en", "plan.used"))).to_be_visible()
    tab(page, "tab.load")
    expect(shown(page, say("en", "load.model"))).to_have_value("facebook/opt-125m")
    tab(page, "tab.tune")
    expect(page.get_by_label(say("en", "train.batch"), exact=True).locator("visible=true")).to_have_count(0)
    page.get_by_role("button", name=say("en", "tune.train")).locator("visible=true").first.click()
    expect(shown(page, say("en", "train.batch"))).to_have_value("32")


def test_what_is_wrong_with_a_plan_is_told_in_its_place_and_mended(page):
    expect(page.locator(".plan .bar")).to_have_count(3, timeout=LONG)
    take(page, "full")
    told = page.locator(".told.bad").locator("visible=true")
    expect(told).to_contain_text("16 or 32")
    expect(page.locator(".plan .bar")).to_have_count(0)
    take(page, "lora")
    expect(page.locator(".plan .bar")).to_have_count(3, timeout=LONG)
    expect(told).to_have_count(0)
    field = shown(page, say("en", "load.model"))
    field.fill("nobody/no-such-model")
    field.press("Enter")
    expect(told).to_contain_text("nobody/no-such-model", timeout=LONG)


def test_the_plan_fits_a_phone_in_japanese(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url + "/ja")
    expect(page.locator(".plan .bar")).to_have_count(3, timeout=LONG)
    expect(page.locator(".plan .pill")).to_have_text(say("ja", "plan.predicted"))
    for key in ("tab.plan", "tab.load", "tab.tune", "tab.chat", "tab.runs"):
        expect(page.get_by_role("tab", name=say("ja", key)).locator("visible=true").first).to_be_in_viewport()
    page.get_by_role("button", name=say("ja", "plan.explained")).click()
    expect(page.locator(".plan .sums li").first).to_contain_text("GiB")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_a_run_shows_prediction_beside_measurement(page, app):
    run = runs.create(app.runs, "load", Settings().to_dict(), hardware={"device": "cpu", "name": "x", "capacity": 2**34})
    run.append("prediction", phase="load", parts={"weights": 2**30}, allocated=2**30, rss=2**31)
    run.append("measured", phase="load", peak={"rss": 2**30}, parts={"weights": 2**30})
    run.append("done", job="load", result={"run": run.id})
    page.reload()
    tab(page, "tab.runs")
    expect(page.get_by_label(say("en", "runs.pick"), exact=True).first).to_have_value(run.id)
    row = page.locator(".plan tr", has_text=say("en", "chart.memory.rss"))
    expect(row).to_contain_text("2.00 GiB")
    expect(row).to_contain_text("+100.0%")
    page.get_by_role("button", name=say("en", "accuracy.record")).click()
    expect(page.locator(".plan tr", has_text=run.id)).to_be_visible()
    runs.delete(app.runs, run.id)


def test_load_tune_and_compare(page, app):
    choose_toy(page, app)
    press(page, "load.go")
    expect(page.locator(".told.good", has_text="toy-llama").first).to_be_visible(timeout=LONG)
    start_tuning(page, app, "1")
    expect(page.locator(".told.good", has_text=say("en", "tune.done")[:20]).first).to_be_visible(timeout=LONG)
    run = newest_run(app)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    tab(page, "tab.chat")
    expect(page.locator(".badge", has_text=run.name)).to_be_visible()
    page.get_by_label(say("en", "chat.ask")).fill("What is the Wi-Fi password?")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("tokens/s together"))).to_be_visible(timeout=LONG)
    for side in ("side-base", "side-tuned"):
        expect(page.locator(f".{side}").get_by_text("What is the Wi-Fi password?")).to_be_visible()
    kinds = {json.loads(line)["kind"] for line in (run / "events.jsonl").read_text().splitlines()}
    assert {"run", "phase", "memory", "step", "score", "note", "done"} <= kinds


def test_the_chart_moves_and_a_reload_and_a_second_page_find_the_run(page, app, browser):
    start_tuning(page, app, "400")
    training(page)
    before = grown(page, 0)
    page.reload()
    training(page)
    assert grown(page, before) > before
    second = browser.new_page()
    second.goto(app.url + "/ja")
    expect(second.locator(".live .facts")).to_contain_text("トークン/秒", timeout=LONG)
    second.close()
    tab(page, "tab.tune")
    press(page, "tune.stop")
    expect(page.locator(".told.good", has_text=say("en", "tune.stopped")[:20]).first).to_be_visible(timeout=LONG)
    assert (newest_run(app) / "adapter" / "adapter_config.json").is_file()


def test_a_stopped_run_is_resumed_and_its_chart_goes_on(page, app):
    idle(page)
    start_tuning(page, app, "400")
    training(page)
    press(page, "tune.stop")
    expect(page.locator(".live .phase")).to_have_text(say("en", "chart.outcome.stopped"), timeout=LONG)
    run = newest_run(app)
    assert (run / "checkpoint.pt").is_file()
    idle(page)
    tab(page, "tab.runs")
    resume = page.get_by_role("button", name=say("en", "runs.resume"), exact=True)
    expect(page.get_by_label(say("en", "runs.pick"), exact=True).first).to_have_value(run.name)
    expect(resume).to_be_enabled()
    before = points(page)
    resume.click()
    training(page)
    expect(resume).to_be_disabled()
    assert grown(page, before) > before
    tab(page, "tab.tune")
    press(page, "tune.stop")
    expect(page.locator(".live .phase")).to_have_text(say("en", "chart.outcome.stopped"), timeout=LONG)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in events].count("run") == 1 and [e["kind"] for e in events].count("done") == 2
    drawn = page.evaluate("() => [...document.querySelector('.live .loss .plot').data[0].x]")
    assert drawn == sorted(set(drawn)) and drawn[-1] == max(e["step"] for e in events if e["kind"] == "step")


def test_every_setting_has_a_field_and_nothing_is_wider_than_a_phone(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url)
    tab(page, "tab.tune")
    for key in ("tune.lora", "tune.train", "tune.memory", "tune.data"):
        page.get_by_role("button", name=say("en", key)).locator("visible=true").first.click()
    for group in (Lora, Train):
        for name in (f"{group.__name__.lower()}.{field.name}" for field in fields(group)):
            expect(page.get_by_text(say("en", f"{name}.info"), exact=True).locator("visible=true").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("() => [...document.querySelectorAll('.form > .block')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)") == []
    page.close()


def test_all_problems_of_a_form_are_told_at_once_and_nothing_is_lost(page, app):
    idle(page)
    choose_toy(page, app)
    tab(page, "tab.tune")
    fill(page, say("en", "lora.r"), "0")
    fill(page, say("en", "train.epochs"), "0")
    press(page, "tune.go")
    told = page.locator(".told.bad").locator("visible=true").first
    expect(told).to_contain_text("rank r")
    expect(told).to_contain_text("epochs is 0")
    assert shown(page, say("en", "lora.r")).input_value() == "0"


def test_a_broken_file_is_told_with_its_line(page, app, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"instruction": "a", "output": "b"}\n{"instruction": oops}\n')
    tab(page, "tab.tune")
    page.locator("input[type=file]").first.set_input_files(broken)
    expect(page.locator(".told.bad").locator("visible=true").first).to_contain_text("line 2")


def test_a_model_that_is_not_there_is_told_in_one_sentence(page, app):
    idle(page)
    field = shown(page, say("en", "load.model"))
    field.fill("nobody/no-such-model")
    field.press("Enter")
    field.press("Tab")
    press(page, "load.go")
    expect(page.locator(".told.bad").locator("visible=true").first).to_contain_text("smollm2-135m-instruct", timeout=20_000)


def test_a_killed_engine_is_told_and_the_next_click_starts_a_fresh_one(page, app):
    idle(page)
    start_tuning(page, app, "400")
    training(page)
    page.wait_for_timeout(1500)
    worker = next(p for p in psutil.Process(app.process.pid).children(recursive=True) if "playground.worker" in " ".join(p.cmdline()))
    os.kill(worker.pid, signal.SIGKILL)
    expect(page.locator(".live .failure")).to_contain_text("signal 9", timeout=LONG)
    assert '"failure"' in (newest_run(app) / "events.jsonl").read_text()
    choose_toy(page, app)
    press(page, "load.go")
    expect(page.locator(".told.good", has_text="toy-llama").first).to_be_visible(timeout=LONG)


def test_without_an_adapter_the_page_says_that_the_columns_cannot_differ(page, app):
    idle(page)
    tab(page, "tab.chat")
    choice = page.get_by_label(say("en", "chat.adapter"), exact=True).first
    choice.click()
    page.get_by_role("option", name=say("en", "chat.none")).click()
    expect(page.get_by_text(say("en", "chat.same"))).to_be_visible()


def test_the_japanese_page_is_japanese_down_to_its_errors(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url + "/ja")
    expect(page.get_by_role("heading", name=say("ja", "app.title"))).to_be_visible(timeout=30_000)
    tab(page, "tab.tune", "ja")
    fill(page, say("ja", "lora.r"), "0")
    press(page, "tune.go", "ja")
    expect(page.locator(".told.bad").locator("visible=true").first).to_contain_text("ランク r")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_a_run_of_the_past_is_shown_again_and_its_folder_deleted(page, app):
    idle(page)
    tab(page, "tab.runs")
    picked = page.get_by_label(say("en", "runs.pick"), exact=True).first
    expect(picked).not_to_have_value("")
    run = picked.input_value()
    press(page, "runs.show")
    expect(page.locator(".live .what")).to_contain_text("toy-llama")
    press(page, "runs.delete")
    press(page, "runs.really")
    expect(page.get_by_text(say("en", "runs.deleted", run=run))).to_be_visible()
    assert not (app.runs / run).exists()
