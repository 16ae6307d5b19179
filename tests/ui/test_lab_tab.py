"""The Bit widths tab in a real browser: formats of a toy model are measured, drawn as they come, and stay."""

import json

import pytest
from actions import (
    LONG,
    choose_several,
    notices,
    open_page,
    open_tab,
    start_fine_tune,
    unfold,
    wait_until_idle,
    wait_until_tuned,
)
from playwright.sync_api import expect

from playground import runs
from playground.i18n import translate
from playground.lab.formats import DEFAULT
from playground.ui.lab_recorded import recorded_figures

MARKS = ".lab .broad circle"
ROWS = ".lab-table tbody tr:not(.group)"


@pytest.fixture
def page(browser, app):
    with open_page(browser, app) as opened:
        wait_until_idle(opened)
        open_tab(opened, "tab.lab")
        yield opened


def test_formats_are_drawn_as_they_are_measured_and_stay_over_a_reload(page, app):
    expect(page.locator("#lab-formats .token")).to_have_count(len(DEFAULT))
    expect(page.locator(".lab .broad .model")).to_have_count(2)  # recorded, until something is measured
    expect(page.locator(".result .source")).to_contain_text(recorded_figures()["recorded"])
    choose_several(page, "#lab-models", [str(app.model)])
    choose_several(page, "#lab-formats", ["bf16", "int4", "int2:32"])
    page.locator("#lab-start").click()
    expect(page.locator(MARKS)).to_have_count(3, timeout=LONG)
    expect(page.locator(ROWS)).to_have_count(3)
    expect(page.locator(".result .source")).to_have_count(0)
    expect(page.locator("#lab-start")).to_be_enabled(timeout=LONG)
    run = next(run for run in runs.history(app.runs) if run.job == "lab")
    points = [e for e in map(json.loads, (app.runs / run.id / "events.jsonl").open()) if e["kind"] == "lab_point"]
    assert [point["format"] for point in points] == ["bf16", "int4", "int2:32"]
    shown = page.locator(ROWS).all_inner_texts()
    assert all(f"{point['loss']:.3f}" in text for point, text in zip(points, shown))
    page.reload()
    expect(page.locator(MARKS)).to_have_count(3, timeout=LONG)
    expect(page.locator("#lab-formats .token")).to_have_count(3)
    open_tab(page, "tab.runs")
    expect(page.locator(f'.runs tr[data-run="{run.id}"]')).to_contain_text(translate("en", "chart.job.lab"))


def test_after_a_fine_tune_its_rank_is_drawn_a_race_says_what_cannot_be_run_and_the_talk_asks_it(page, app):
    start_fine_tune(page, app, "1")
    wait_until_tuned(page)
    open_tab(page, "tab.lab")
    unfold(page, "weight.title")
    expect(page.locator("figure.lab.lora rect.a title").first).to_contain_text("1:", timeout=LONG)
    unfold(page, "race.title")
    for kind in ("32", "16", "8 int8", "4 nf4", "8 fp8"):  # the first four are chosen
        page.get_by_label(kind, exact=True).locator("visible=true").first.click()
    page.locator("#race-start").click()
    expect(page.locator(".race tbody tr")).to_have_count(1, timeout=LONG)
    expect(page.locator(".race tbody tr")).to_contain_text(translate("en", "error.race_no_float8"))
    open_tab(page, "tab.talk")
    page.locator(".talk").focus()
    page.keyboard.press("End")
    page.keyboard.press("PageUp")
    step = page.locator(".talk .of-prompts")
    expect(step.locator(".source")).to_contain_text("recorded on")
    step.locator(".ask").click()
    expect(step.locator(".source")).to_contain_text(translate("en", "talk.answered_now", run=""), timeout=LONG)
    expect(step.locator(".ask")).to_be_enabled(timeout=LONG)
    answers = step.locator("tbody tr")
    expect(answers).to_have_count(3)
    assert "…" not in answers.locator("td").all_inner_texts()  # a toy may say nothing at all


def test_everything_that_is_wrong_is_named_at_once(page, app):
    choose_several(page, "#lab-formats", ["int9", "nf4:7"])
    page.locator("#lab-start").click()
    expect(notices(page).first).to_contain_text("int9")
    expect(notices(page).first).to_contain_text("nf4:7")
