"""The Plan tab in a real browser: predictions follow their fields, are copied, and are compared with measurements."""

import resource
from contextlib import contextmanager

import psutil
import pytest
import toys
from actions import (
    LONG,
    check_radio,
    choose,
    choose_toy,
    expand,
    fill,
    newest_run,
    notices,
    open_tab,
    press,
    row_button,
    run_row,
    start_fine_tune,
    visible_field,
    wait_until_idle,
)
from playwright.sync_api import expect

from playground import runs
from playground.i18n import translate
from playground.settings import Settings

MIB = 2**20
OPT = f"{translate('en', 'catalog.mark')} OPT 125M"


@pytest.fixture
def page(page):
    open_tab(page, "tab.plan")
    return page


@contextmanager
def address_space_limit(pid: int, limit: int):
    """Limit a process's address space to so many bytes, and lift the limit again whatever happens."""
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def wait_for_forecast(page) -> None:
    """Wait until the planner has answered."""
    expect(page.locator(".plan .bar")).to_have_count(3, timeout=LONG)


def test_a_plan_of_a_bundled_7b_model_has_bars_parts_and_verdicts(page):
    wait_for_forecast(page)
    expect(page.locator(".plan header strong")).to_have_text("OpenCALM 7B")
    expect(page.locator(".plan .pill")).to_have_text(translate("en", "plan.predicted"), use_inner_text=True)
    expect(page.locator(".plan .phase .verdict")).to_have_text(
        [translate("en", "plan.verdict.fits")] * 3
    )  # 4 bits on a card of 8 GB
    assert "6" in page.locator(".plan .axis").first.inner_text()
    filled = """() => [...document.querySelectorAll('.plan .bar')].map(bar =>
        [...bar.querySelectorAll('i')].reduce((sum, i) => sum + i.offsetWidth, 0) / bar.offsetWidth)"""
    widths = page.evaluate(filled)
    assert all(0.1 < width < 0.8 for width in widths) and widths[0] < widths[1]
    assert page.locator(".plan .bar").first.get_attribute("aria-label").startswith(translate("en", "plan.phase.load"))
    page.get_by_role("button", name=translate("en", "plan.explained")).click()
    row = page.locator(".plan tr", has_text=translate("en", "chart.part.kv_cache"))
    expect(row.locator("td")).to_have_count(3)


def test_forecast_follows_the_settings(page):
    about, verdicts = page.locator(".plan header p"), page.locator(".plan .phase .verdict")
    wait_for_forecast(page)
    check_radio(page, "32")
    expect(about).to_contain_text("32 bits", timeout=LONG)
    expect(verdicts.first).to_have_text(translate("en", "plan.verdict.no"))
    choose(page, translate("en", "load.model"), OPT)
    expect(page.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    expect(verdicts).to_have_text([translate("en", "plan.verdict.fits")] * 3)
    expect(page.locator(".plan .waterfall .yours")).to_contain_text("GiB")


def test_fastest_settings_that_fit_are_ranked_and_copied_to_the_form(page):
    wait_for_forecast(page)
    choose(page, translate("en", "load.model"), OPT)
    expect(page.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    press(page, "plan.fastest")
    options = page.locator(".ranked label")
    expect(options.first).to_contain_text("GiB", timeout=LONG)
    expect(options.first).to_contain_text("100%")
    bits = options.first.inner_text().split()[0]
    expect(page.locator(".plan header p")).to_contain_text(f"{bits} bits", timeout=LONG)
    press(page, "plan.use")
    expect(page.get_by_text(translate("en", "plan.used_card", gib=8))).to_be_visible()
    open_tab(page, "tab.load")
    expect(visible_field(page, translate("en", "load.model"))).to_have_value(OPT)
    expect(page.get_by_role("radio", name=bits, exact=True).locator("visible=true").first).to_be_checked()
    expand(page, "load.details")
    expect(visible_field(page, translate("en", "load.simulate_gpu_gib"))).to_have_value("8 GiB")
    open_tab(page, "tab.tune")
    expand(page, "tune.train")
    expect(visible_field(page, translate("en", "train.batch_size"))).to_have_value("32")


def test_unknown_model_and_too_large_length_are_reported_in_one_sentence(page):
    wait_for_forecast(page)
    notice = notices(page).locator("p")
    length = page.get_by_label(f"number input for {translate('en', 'train.max_seq_length')}")
    length.fill("4096")
    length.press("Tab")
    expect(notice).to_have_text([translate("en", "error.length", length=4096, longest=2048)], timeout=LONG)
    length.fill("256")
    length.press("Tab")
    wait_for_forecast(page)
    choose(page, translate("en", "load.model"), "nobody/no-such-model")
    expect(notice).to_have_count(1, timeout=LONG)
    expect(notice).to_contain_text("nobody/no-such-model")


def test_the_plan_fits_a_phone_in_japanese(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url + "/ja")
    open_tab(page, "tab.plan", "ja")
    wait_for_forecast(page)
    expect(page.locator(".plan .pill")).to_have_text(translate("ja", "plan.predicted"), use_inner_text=True)
    for key in ("tab.plan", "tab.load", "tab.data", "tab.tune", "tab.chat", "tab.runs"):
        expect(page.get_by_role("tab", name=translate("ja", key)).locator("visible=true").first).to_be_in_viewport()
    page.get_by_role("button", name=translate("ja", "plan.explained")).click()
    expect(page.locator(".plan .arithmetic li").first).to_contain_text("GiB")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_run_compares_prediction_with_measurement(page, app):
    run = runs.create(app.runs, "load", Settings(), hardware={"device": "cpu", "name": "x", "capacity": 2**34})
    run.append("memory_predicted", phase="load", parts={"weights": 2**30}, allocated=2**30, rss=2**31)
    run.append("memory_measured", phase="load", peak={"rss": 2**30}, parts={"weights": 2**30})
    run.append("done", job="load", result={"run": run.id})
    page.reload()
    open_tab(page, "tab.runs")
    row_button(page, run.id, "runs.show").click()
    page.get_by_role("button", name=translate("en", "accuracy.title")).click()
    row = page.locator(".plan tr", has_text=translate("en", "chart.memory.rss"))
    expect(row).to_contain_text("2.00 GiB")
    expect(row).to_contain_text("+100.0%")
    page.get_by_role("button", name=translate("en", "accuracy.record")).click()
    expect(page.locator(".scrolled tr", has_text="2.00 GiB → 1.00 GiB")).to_be_visible()
    runs.delete(app.runs, run.id)


def test_real_run_is_predicted_while_it_goes_and_its_errors_are_recorded(page, app):
    choose_toy(page, app)
    expand(page, "load.details")
    choose(page, translate("en", "load.simulate_gpu_gib"), "0.7")
    start_fine_tune(page, app, "1")
    rows = page.locator(".live .comparison tbody tr")
    expect(rows).to_have_count(4, timeout=LONG)  # load and fine-tune, on this machine and on that card
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.done"), timeout=LONG)
    expect(rows.nth(2)).to_contain_text(translate("en", "chart.job.tune"))
    expect(rows.nth(3)).to_contain_text(translate("en", "chart.verdict.no"))
    expect(page.locator(".live .predicted-total")).to_contain_text("iB")
    run = newest_run(app)
    wait_until_idle(page)
    open_tab(page, "tab.runs")
    expect(run_row(page, run.name)).to_have_attribute("aria-current", "true")
    page.get_by_role("button", name=translate("en", "accuracy.title")).click()
    expect(page.locator(".plan tr.group")).to_have_text(
        [translate("en", "chart.job.load"), translate("en", "chart.job.tune")]
    )
    weights = page.locator(".plan tr", has_text=translate("en", "chart.part.weights")).locator("visible=true")
    expect(weights).to_have_count(2)
    expect(weights.first).to_contain_text("%")
    expect(run_row(page, run.name)).to_contain_text(translate("en", "state.done"))


@pytest.fixture
def padded_model(tmp_path_factory):
    return toys.save(tmp_path_factory.mktemp("model") / "toy-bloom", "bloom", chat=True)


def test_after_out_of_memory_one_click_applies_a_suggestion(page, app, padded_model):
    wait_until_idle(page)
    choose_toy(page, app, padded_model)
    check_radio(page, "32")  # whose products are in torch's own memory on every processor
    press(page, "load.go")
    expect(page.locator(".notice.good", has_text="toy-bloom").first).to_be_visible(timeout=LONG)
    worker = next(
        p
        for p in psutil.Process(app.process.pid).children(recursive=True)
        if "playground.engine.process" in " ".join(p.cmdline())
    )
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "100")  # longer than it takes to stop it
    for key, values in (
        ("tune.train", {"train.batch_size": "256"}),
        ("tune.memory", {"train.max_tokens_per_micro_batch": "200000", "train.gradient_checkpointing": "off"}),
    ):
        expand(page, key)
        for name, value in values.items():
            choose(page, translate("en", name), value)
    limit = worker.memory_info().vms + 60 * MIB  # a step of 256 padded rows takes some hundreds
    with address_space_limit(worker.pid, limit):
        press(page, "tune.go")
        expect(page.locator(".live .failure")).to_contain_text("Out of memory", timeout=LONG)
        expect(page.locator(".live .measured-total")).to_contain_text(
            translate("en", "chart.parts.full", total="")[:20]
        )
        buttons = page.locator(".suggestions button").locator("visible=true")
        expect(notices(page, "good").filter(has_text=translate("en", "suggestion.lead"))).to_be_visible(timeout=LONG)
        expect(buttons).to_have_count(3, timeout=LONG)
    saved = [text.split("saves ")[1] for text in buttons.all_inner_texts()]
    assert all("predicted" in text for text in saved)
    tokens = buttons.filter(has_text=translate("en", "suggestion.train.max_tokens_per_micro_batch", value=256))
    tokens.click()
    expect(visible_field(page, translate("en", "train.max_tokens_per_micro_batch"))).to_have_value("256")
    press(page, "tune.go")
    expect(page.locator(".live .phase")).to_have_text(translate("en", "phase.train"), timeout=LONG)
    expect(buttons).to_have_count(0)
    press(page, "strip.stop")
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.stopped"), timeout=LONG)


def test_model_that_cannot_fit_is_refused_and_can_be_forced(page, app, tmp_path):
    wait_until_idle(page)
    choose_toy(page, app, toys.too_large(tmp_path / "giant"))
    check_radio(page, "32")  # at 16, files are read where they lie, and fewer bits save nothing while loading
    press(page, "load.go")
    expect(page.locator(".notice.bad", has_text="(predicted)").first).to_be_visible(timeout=LONG)
    force = page.get_by_role("button", name=translate("en", "load.force"))
    expect(force).to_be_visible()
    expect(
        page.locator(".suggestions button", has_text=translate("en", "suggestion.load.bits", value=4)).first
    ).to_be_visible(timeout=LONG)
    force.click()
    expect(page.locator(".notice.bad", has_text="web page").first).to_be_visible(timeout=LONG)
    expect(force).to_be_hidden()
