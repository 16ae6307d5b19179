"""The live view's metrics before and after, and its sample answers during training, from a run's events."""

import pytest
from actions import LONG, RENDERED, keep_brackets_whole, open_page, open_tab, row_button
from playwright.sync_api import expect

from playground import runs
from playground.data.source import Row
from playground.eval.metrics import Answer, answer_figures, compare_sides, loss_figures, most_changed_rows, score_rows
from playground.i18n import translate
from playground.settings import Settings

MARKUP = "<b id='planted'>bold</b>"


@pytest.fixture
def past(app):
    """A past fine-tune: two rows, one answered better and one worse after it, sampled at steps 0, 10 and 20."""
    rows = [Row("Where is the key?", f"Under the mat {MARKUP}.", key=("mat",)), Row("When is tea?", "Tea is at four.")]
    scored = score_rows(
        rows,
        [Answer(MARKUP, [5], False), Answer("Tea is at four.", [5, 6], True)],
        [Answer("Under the mat.", [7], True), Answer("Tea!", [8, 8], True)],
    )
    run = runs.create(app.runs, "tune", Settings(), hardware={"device": "cpu", "name": "CPU", "capacity": 2**33})
    run.append("phase", name="train")
    run.append("eval", when="before", loss=3.0)
    for step in (0, 10, 20):
        figures = {"loss": 2.0, "tokens": step, "lr": 0.1, "tokens_per_s": 5.0, "left_s": 0.0, "stall_s": 0.125}
        run.append("step", step=max(1, step), steps=20, **figures)
        run.append(
            "sample",
            step=step,
            prompt="Where is the key?",
            reference=rows[0].output,
            text=f"{MARKUP} {step}",
            closed=step > 0,
        )
    figures = loss_figures([[9.0, 3], [6.0, 2]], [[3.0, 3], [2.2, 2]]) | answer_figures(scored)
    run.append("eval", when="measures", rows=2, asked=2, limit=24, figures=figures, **most_changed_rows(scored))
    forgotten = compare_sides([[6.0, 2], [6.2, 2]], [[6.5, 2], [6.6, 2]])
    run.append("eval", when="forgetting", side="tuned", each={}, figures={"en": forgotten, "ja": forgotten})
    run.append("done", job="tune", result={})
    yield run
    runs.delete(app.runs, run.id)


def test_run_shows_its_metrics_and_its_answers_during_training(
    app, past, page
):  # the run exists before the page is opened, which else stays on the run before
    open_tab(page, "tab.runs")
    row_button(page, past.id, "runs.show").click()
    lines = page.locator(".live .measures tbody tr")
    expect(lines).to_have_count(11, timeout=LONG)
    expect(page.locator(".live .facts")).to_contain_text("0.13 s a step")  # that the GPU waited for streamed layers
    loss, recall = lines.nth(0), lines.nth(2)
    expect(loss.locator("td span")).to_have_text(["3", "[3, 3]", "1.04", "[1, 1.1]", "−1.96", "[−2, −1.9]"])
    expect(loss.locator("td").nth(2)).to_have_attribute("data-effect", "good")
    expect(recall).to_contain_text("+100 points")
    expect(lines.nth(9).locator("td").nth(2)).to_have_attribute("data-effect", "bad")
    worse = translate("en", "chart.forgetting.worse_en", change="0.225", percent="20.1")
    expect(page.locator(".live .forgotten")).to_contain_text(worse)
    expect(page.locator(".live .measures h5")).to_have_text(
        [translate("en", "chart.rows.helped", count=1), translate("en", "chart.rows.hurt", count=1)]
    )
    expect(page.locator(".live .rows details dd:visible")).to_have_text(
        [f"Under the mat {MARKUP}.", MARKUP, "Under the mat.", "Tea is at four.", "Tea is at four.", "Tea!"]
    )

    at, answer = page.locator(".live .samples small"), page.locator(".live .samples dd").first
    expect(at).to_have_text("after step 20")
    page.get_by_label(translate("en", "chart.samples.slider")).press("Home")
    expect(at).to_have_text("after step 0")
    expect(answer).to_have_text(f"{MARKUP} 0{translate('en', 'chart.samples.open')}")
    assert page.locator("#planted").count() == 0  # a model's words are text, whatever they look like


def test_metrics_and_samples_fit_their_place(app, past, browser):
    with open_page(browser, app, "/ja", 390, 844) as page:
        keep_brackets_whole(page)
        open_tab(page, "tab.runs", "ja")
        row_button(page, past.id, "runs.show", "ja").click()
        expect(page.locator(".live .measures tbody tr")).to_have_count(11, timeout=LONG)
        wide = """() => [...document.querySelectorAll('.live .measures *, .live .samples *')]
            .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
            .filter(e => getComputedStyle(e).overflow !== 'hidden').map(e => e.outerHTML)"""
        for width in (390, 1440):
            page.set_viewport_size({"width": width, "height": 844})
            page.evaluate(RENDERED)
            assert page.evaluate(wide) == [] and page.evaluate("document.documentElement.scrollWidth") <= width
