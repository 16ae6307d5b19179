"""The plan and what becomes of it, in a real browser: predictions follow their fields, carry over, and stand beside what is measured."""

import resource

import psutil
import pytest
import toys
from hands import LONG, choose, choose_toy, fill, idle, newest_run, press, shown, start_tuning, tab, take, unfold
from playwright.sync_api import expect

from playground import runs
from playground.i18n import translate
from playground.settings import Settings

MIB = 2**20


def bars(page) -> None:
    """Wait until the plan is answered."""
    expect(page.locator(".plan .bar")).to_have_count(3, timeout=LONG)


def test_a_plan_of_a_bundled_7b_model_has_bars_parts_and_verdicts(page):
    bars(page)
    expect(page.locator(".plan header strong")).to_have_text("OpenCALM 7B")
    expect(page.locator(".plan .pill")).to_have_text(translate("en", "plan.predicted"))
    expect(page.locator(".plan .phase .verdict")).to_have_text(
        [translate("en", "plan.verdict.fits")] * 3
    )  # 4 bits on a card of 8 GB
    assert "6" in page.locator(".plan .axis").first.inner_text()
    widths = page.evaluate(
        "() => [...document.querySelectorAll('.plan .bar')].map(bar => [...bar.querySelectorAll('i')].reduce((sum, i) => sum + i.offsetWidth, 0) / bar.offsetWidth)"
    )
    assert all(0.1 < width < 0.8 for width in widths) and widths[0] < widths[1]
    assert page.locator(".plan .bar").first.get_attribute("aria-label").startswith(translate("en", "plan.phase.load"))
    row = page.locator(".plan tr", has_text=translate("en", "chart.part.kv_cache"))
    expect(row.locator("td")).to_have_count(3)


def test_moving_a_setting_moves_the_plan(page):
    about, verdicts = page.locator(".plan header p"), page.locator(".plan .phase .verdict")
    bars(page)
    take(page, "32")
    expect(about).to_contain_text("32 bits", timeout=LONG)
    expect(verdicts.first).to_have_text(translate("en", "plan.verdict.no"))
    choose(page, translate("en", "load.model"), "OPT 125M")
    expect(page.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    expect(verdicts).to_have_text([translate("en", "plan.verdict.fits")] * 3)
    page.get_by_role("button", name=translate("en", "plan.waterfall")).click()
    expect(page.locator(".plan .falls li").first).to_contain_text("GiB", timeout=LONG)


def test_the_fastest_that_fits_is_listed_and_used(page):
    bars(page)
    choose(page, translate("en", "load.model"), "OPT 125M")
    expect(page.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    press(page, "plan.fastest")
    options = page.locator(".ranked label")
    expect(options.first).to_contain_text("GiB", timeout=LONG)
    expect(options.first).to_contain_text("100%")
    bits = options.first.inner_text().split()[0]
    expect(page.locator(".plan header p")).to_contain_text(f"{bits} bits", timeout=LONG)
    press(page, "plan.use")
    expect(page.get_by_text(translate("en", "plan.used_card", gib=8))).to_be_visible()
    tab(page, "tab.load")
    expect(shown(page, translate("en", "load.model"))).to_have_value(f"{translate('en', 'catalog.mark')} OPT 125M")
    expect(shown(page, translate("en", "load.simulate_gpu_gib"))).to_have_value("8 GiB")
    expect(page.get_by_role("radio", name=bits, exact=True).locator("visible=true").first).to_be_checked()
    tab(page, "tab.tune")
    unfold(page, "tune.train")
    expect(shown(page, translate("en", "train.batch_size"))).to_have_value("32")


def test_what_is_wrong_with_a_plan_is_told_in_its_place_and_mended(page):
    bars(page)
    take(page, "full")
    told = page.locator(".told.bad").locator("visible=true")
    expect(told).to_contain_text("16 or 32")
    expect(page.locator(".plan .bar")).to_have_count(0)
    take(page, "lora")
    bars(page)
    expect(told).to_have_count(0)


def test_a_model_that_nobody_knows_and_a_length_above_the_models_are_told_in_one_sentence(page):
    bars(page)
    told = page.locator(".told.bad").locator("visible=true").locator("p")
    length = page.get_by_label(f"number input for {translate('en', 'train.max_seq_length')}")
    length.fill("4096")
    length.press("Tab")
    expect(told).to_have_text([translate("en", "error.length", length=4096, longest=2048)], timeout=LONG)
    length.fill("256")
    length.press("Tab")
    bars(page)
    choose(page, translate("en", "load.model"), "nobody/no-such-model")
    expect(told).to_have_count(1, timeout=LONG)
    expect(told).to_contain_text("nobody/no-such-model")


def test_the_plan_fits_a_phone_in_japanese(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url + "/ja")
    bars(page)
    expect(page.locator(".plan .pill")).to_have_text(translate("ja", "plan.predicted"))
    for key in ("tab.plan", "tab.load", "tab.data", "tab.tune", "tab.chat", "tab.runs"):
        expect(page.get_by_role("tab", name=translate("ja", key)).locator("visible=true").first).to_be_in_viewport()
    page.get_by_role("button", name=translate("ja", "plan.explained")).click()
    expect(page.locator(".plan .sums li").first).to_contain_text("GiB")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_a_run_shows_prediction_beside_measurement(page, app):
    run = runs.create(app.runs, "load", Settings(), hardware={"device": "cpu", "name": "x", "capacity": 2**34})
    run.append("memory_predicted", phase="load", parts={"weights": 2**30}, allocated=2**30, rss=2**31)
    run.append("memory_measured", phase="load", peak={"rss": 2**30}, parts={"weights": 2**30})
    run.append("done", job="load", result={"run": run.id})
    page.reload()
    tab(page, "tab.runs")
    expect(page.get_by_label(translate("en", "runs.pick"), exact=True).first).to_have_value(run.id)
    row = page.locator(".plan tr", has_text=translate("en", "chart.memory.rss"))
    expect(row).to_contain_text("2.00 GiB")
    expect(row).to_contain_text("+100.0%")
    page.get_by_role("button", name=translate("en", "accuracy.record")).click()
    expect(page.locator(".plan tr", has_text=run.id).filter(has_text="2.00 GiB → 1.00 GiB")).to_be_visible()
    runs.delete(app.runs, run.id)


def test_a_real_run_is_predicted_while_it_goes_and_its_errors_are_kept(page, app):
    choose_toy(page, app)
    choose(page, translate("en", "load.simulate_gpu_gib"), "0.7")
    start_tuning(page, app, "1")
    rows = page.locator(".live .beside tbody tr")
    expect(rows).to_have_count(4, timeout=LONG)  # load and fine-tune, on this machine and on that card
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.done"), timeout=LONG)
    expect(rows.nth(2)).to_contain_text(translate("en", "chart.job.tune"))
    expect(rows.nth(3)).to_contain_text(translate("en", "chart.verdict.no"))
    expect(page.locator(".live .then")).to_contain_text("iB")
    run = newest_run(app)
    idle(page)
    tab(page, "tab.runs")
    expect(page.get_by_label(translate("en", "runs.pick"), exact=True).first).to_have_value(run.name)
    expect(page.locator(".plan tr.group")).to_have_text(
        [translate("en", "chart.job.load"), translate("en", "chart.job.tune")]
    )
    weights = page.locator(".plan tr", has_text=translate("en", "chart.part.weights")).locator("visible=true")
    expect(weights).to_have_count(2)
    expect(weights.first).to_contain_text("%")
    expect(page.locator(".runs tr", has_text=run.name)).to_contain_text(translate("en", "state.done"))


@pytest.fixture
def padded_model(tmp_path_factory):
    return toys.save(tmp_path_factory.mktemp("model") / "toy-bloom", "bloom", chat=True)


def test_where_memory_ran_out_the_changes_that_save_most_are_one_click_away(page, app, padded_model):
    idle(page)
    choose_toy(page, app, padded_model)
    take(page, "32")  # whose products are in torch's own memory on every processor
    press(page, "load.go")
    expect(page.locator(".told.good", has_text="toy-bloom").first).to_be_visible(timeout=LONG)
    worker = next(
        p
        for p in psutil.Process(app.process.pid).children(recursive=True)
        if "playground.engine.process" in " ".join(p.cmdline())
    )
    most = worker.memory_info().vms + 60 * MIB  # a step of 256 padded rows takes some hundreds
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "100")  # longer than it takes to stop it
    for key, values in (
        ("tune.train", {"train.batch_size": "256"}),
        ("tune.memory", {"train.max_tokens_per_micro_batch": "200000", "train.gradient_checkpointing": "off"}),
    ):
        unfold(page, key)
        for name, value in values.items():
            choose(page, translate("en", name), value)
            expect(shown(page, translate("en", name))).to_have_value(value)
    press(page, "tune.go")
    expect(page.locator(".live .failure")).to_contain_text("Out of memory", timeout=LONG)
    expect(page.locator(".live .now")).to_contain_text(translate("en", "chart.parts.full", total="")[:20])
    buttons = page.locator(".relief button").locator("visible=true")
    expect(buttons).to_have_count(3, timeout=LONG)
    saved = [text.split("saves ")[1] for text in buttons.all_inner_texts()]
    assert all("predicted" in text for text in saved)
    tokens = buttons.filter(has_text=translate("en", "suggestion.train.max_tokens_per_micro_batch", value=256))
    tokens.click()
    expect(shown(page, translate("en", "train.max_tokens_per_micro_batch"))).to_have_value("256")
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    press(page, "tune.go")
    expect(page.locator(".live .phase")).to_have_text(translate("en", "phase.train"), timeout=LONG)
    expect(buttons).to_have_count(0)
    press(page, "tune.stop")
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.stopped"), timeout=LONG)


def test_a_model_that_cannot_fit_is_not_loaded_but_offered_to_be(page, app, tmp_path):
    idle(page)
    choose_toy(page, app, toys.too_large(tmp_path / "giant"))
    take(page, "32")  # at 16, files are read where they lie, and fewer bits save nothing while loading
    press(page, "load.go")
    expect(page.locator(".told.bad", has_text="(predicted)").first).to_be_visible(timeout=LONG)
    anyway = page.get_by_role("button", name=translate("en", "load.force"))
    expect(anyway).to_be_visible()
    expect(
        page.locator(".relief button", has_text=translate("en", "suggestion.load.bits", value=4)).first
    ).to_be_visible(timeout=LONG)
    anyway.click()
    expect(page.locator(".told.bad", has_text="web page").first).to_be_visible(timeout=LONG)
    expect(anyway).to_be_hidden()
