"""The Plan tab in a real browser: its figures follow its fields, its errors are few, its settings go into the form."""

import pickle
import re

import pytest
from actions import LONG, check_radio, choose, expand, notices, open_tab, press, unfold, visible_field
from playwright.sync_api import expect

from playground import catalog
from playground.i18n import format_large, translate
from playground.planning.client import this_machine

FIRST_MODEL = f"{translate('en', 'catalog.mark')} OpenCALM 7B"
OPT = f"{translate('en', 'catalog.mark')} OPT 125M"
KINDS = {"4": "load.quant_type", "8": "load.quant_type_8bit"}  # by the width that has them
DIMMED = "element => Number(getComputedStyle(element).opacity) < 1"


def say(key: str, **values) -> str:
    return translate("en", key, **values)


def set_slider(page, key: str, value: str) -> None:
    """Type a slider's value and leave its field."""
    field = page.get_by_label(f"number input for {say(key)}").locator("visible=true").first
    field.fill(value)
    field.blur()


def first_plan(page):
    """The Plan tab with the plan that it opens with, whatever a test before it made of that."""
    open_tab(page, "tab.plan")
    if visible_field(page, say("load.model")).input_value() != FIRST_MODEL:
        choose(page, say("load.model"), FIRST_MODEL)
    check_radio(page, "4")
    check_radio(page, say("choice.train.method.lora"))
    set_slider(page, "train.max_seq_length", "256")
    expect(page.locator(".plan header strong")).to_have_text("OpenCALM 7B", timeout=LONG)
    expect(page.locator(".plan header p")).to_contain_text("4 bits", timeout=LONG)
    expect(page.locator(".plan .earlier").locator("visible=true")).to_have_count(0, timeout=LONG)
    expect(page.locator(".plan .bar")).to_have_count(3)
    return page


@pytest.fixture
def plan(shared_page):
    return first_plan(shared_page)


@pytest.fixture
def fresh_plan(page):
    """A newly opened page at its Plan tab, for tests that copy settings to the form."""
    return first_plan(page)


def test_a_plan_of_a_bundled_7b_model_has_bars_parts_and_verdicts(plan):
    expect(plan.locator(".plan header strong")).to_have_text("OpenCALM 7B")
    expect(plan.locator(".plan .pill").locator("visible=true")).to_have_text(say("plan.predicted"), use_inner_text=True)
    expect(plan.locator(".plan .phase .verdict")).to_have_text(
        [say("plan.verdict.fits")] * 3
    )  # 4 bits on a card of 8 GB
    assert "6" in plan.locator(".plan .axis").first.inner_text()
    filled = """() => [...document.querySelectorAll('.plan .bar')].map(bar =>
        [...bar.querySelectorAll('i')].reduce((sum, i) => sum + i.offsetWidth, 0) / bar.offsetWidth)"""
    widths = plan.evaluate(filled)
    assert all(0.1 < width < 0.8 for width in widths) and widths[0] < widths[1]
    assert plan.locator(".plan .bar").first.get_attribute("aria-label").startswith(say("plan.phase.load"))
    unfold(plan, "plan.explained")
    row = plan.locator(".plan tr", has_text=say("chart.part.kv_cache"))
    expect(row.locator("td")).to_have_count(3)


def test_forecast_follows_the_settings(plan):
    about, verdicts = plan.locator(".plan header p"), plan.locator(".plan .phase .verdict")
    check_radio(plan, "32")
    expect(about).to_contain_text("32 bits", timeout=LONG)
    streamed = plan.locator(".plan .streamed-layers")
    expect(streamed).to_contain_text("of 32 layers streamed from RAM")  # it fits no other way
    expect(verdicts.last).not_to_have_text(say("plan.verdict.no"))
    choose(plan, say("load.model"), OPT)
    expect(plan.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    expect(verdicts).to_have_text([say("plan.verdict.fits")] * 3)
    expect(streamed).to_have_count(0)
    expect(plan.locator(".plan .waterfall .yours")).to_contain_text("GiB")


def test_a_plan_is_drawn_as_soon_as_the_page_is(page):
    open_tab(page, "tab.plan")
    expect(page.locator(".plan .headline")).to_be_visible(timeout=15_000)
    expect(page.locator(".plan .bar")).to_have_count(3)
    expect(page.locator(".plan .waterfall li").first).to_be_visible()
    expect(page.get_by_text(say("plan.counting"))).to_have_count(0)


def test_invalid_length_leaves_the_last_plan_dimmed_under_one_error_until_it_is_valid(plan):
    headline, step = plan.locator(".plan .headline"), plan.locator(".plan .step-notes")
    before, forecast = step.inner_text(), plan.locator(".block.counted").filter(has=headline)
    unfold(plan, "plan.explained")
    unfold(plan, "plan.largest")
    set_slider(plan, "train.max_seq_length", "4096")
    expect(notices(plan)).to_have_text([say("error.length", length=4096, longest=2048)], timeout=2 * LONG)
    expect(plan.locator(".plan .bar")).to_have_count(3)
    expect(step).to_have_text(before)
    expect(plan.locator(".plan .earlier")).to_be_visible()
    assert forecast.evaluate(DIMMED)
    expect(plan.locator(".plan .waterfall li").first).to_be_visible()
    set_slider(plan, "train.max_seq_length", "512")
    expect(notices(plan)).to_have_count(0, timeout=LONG)
    expect(step).not_to_have_text(before)
    expect(plan.locator(".plan .earlier")).to_be_hidden()
    assert not forecast.evaluate(DIMMED)


def test_settings_that_exclude_each_other_leave_the_last_plan_too(plan):
    check_radio(plan, say("choice.train.method.full"))
    expect(notices(plan)).to_have_count(1)
    expect(notices(plan)).to_contain_text("16 or 32")
    expect(plan.locator(".plan .bar")).to_have_count(3)
    press(plan, "plan.use")
    expect(notices(plan).filter(has_text=say("plan.invalid"))).to_be_visible()
    check_radio(plan, say("choice.train.method.lora"))
    expect(notices(plan)).to_have_count(0, timeout=LONG)


def test_every_size_is_in_gib_and_every_count_in_words(plan):
    text = plan.locator(".plan-result").inner_text().split(say("plan.explained"))[0]  # whose arithmetic has bytes as B
    assert re.findall(r"\d (?:GB|MB|B|M)\b", text) == [] and plan.locator(".plan .axis b").inner_text() == "GiB"
    parameters = catalog.shapes()["cyberagent/open-calm-7b"]["parameters"]
    expect(plan.locator(".plan header p")).to_contain_text(f"{format_large('en', parameters)} parameters")
    open_tab(plan, "tab.load")
    facts = " ".join(plan.locator(".facts").locator("visible=true").all_inner_texts())
    assert re.findall(r"\d (?:GB|MB|B|M)\b", facts) == [] and "135 million parameters" in facts


def test_one_plan_has_one_figure_wherever_it_appears(fresh_plan):
    plan = fresh_plan
    about = plan.locator(".plan header p")
    check_radio(plan, "8")
    expect(about).to_contain_text("8 bits", timeout=LONG)
    press(plan, "plan.fastest")
    option = plan.locator(".ranked label").first
    expect(option).to_contain_text("GiB", timeout=LONG)
    expect(about).to_contain_text("4 bits", timeout=LONG)
    figure = re.search(r"(\d+\.\d\d) GiB", option.inner_text())[1]
    expect(plan.locator(".plan .headline")).to_contain_text(f"needs {figure} of", timeout=LONG)
    expect(plan.locator(".plan .waterfall .yours")).to_contain_text(f"{figure} GiB", timeout=LONG)
    expect(plan.locator(".plan .phase").last).to_contain_text(f"{figure} GiB")


def test_the_list_of_models_opens_at_the_chosen_one(plan):
    visible_field(plan, say("load.model")).click()
    options = plan.get_by_test_id("dropdown-option")
    chosen = plan.locator('[data-testid="dropdown-option"][aria-selected="true"]')
    expect(chosen).to_contain_text("OpenCALM 7B")
    expect(chosen).to_be_in_viewport(ratio=0.9)
    names = [name.replace("✓", "").strip() for name in options.all_inner_texts()]
    assert names.index("★ OpenCALM 7B") == names.index("★ OpenCALM 1B") + 1
    assert [name for name in names if say("load.offline") in name] == names[: len(catalog.offline_models())]


def test_auto_bits_say_which_width_they_take(plan):
    check_radio(plan, say("choice.load.bits.0"))
    expect(plan.locator(".plan header p")).to_contain_text(say("plan.about.auto", bits=16), timeout=LONG)


def test_the_kind_of_few_bits_is_chosen_at_their_width_alone_and_copied_to_the_form(fresh_plan):
    plan = fresh_plan
    choices = {width: plan.get_by_text(say(key), exact=True).locator("visible=true") for width, key in KINDS.items()}
    for width in ("8", "16", "4"):
        check_radio(plan, width)
        for shown_at, choice in choices.items():
            expect(choice).to_have_count(int(shown_at == width))
    check_radio(plan, say("choice.load.quant_type.fp4"))
    expect(notices(plan)).to_have_count(0)
    press(plan, "plan.use")
    open_tab(plan, "tab.load")
    expand(plan, "load.details")
    form = plan.get_by_role("radio", name=say("choice.load.quant_type.fp4"), exact=True).locator("visible=true")
    expect(form).to_be_checked()


def test_settings_with_a_model_of_a_hub_offer_one_that_works_offline(fresh_plan):
    plan = fresh_plan
    press(plan, "plan.use")
    expect(plan.get_by_text(say("plan.download", model="OpenCALM 7B"))).to_be_visible()
    offline = catalog.display_name("smollm2-135m-instruct")
    plan.get_by_role("button", name=say("plan.take_offline", model=offline)).click()
    expect(plan.get_by_text(say("plan.used_card", gib=8))).to_be_visible()
    expect(plan.get_by_text(say("plan.download", model="OpenCALM 7B"))).to_have_count(0)
    expect(plan.get_by_role("button", name=say("plan.take_offline", model=offline))).to_be_hidden()
    expect(plan.locator(".plan header strong")).to_have_text(offline, timeout=LONG)
    open_tab(plan, "tab.load")
    expect(visible_field(plan, say("load.model"))).to_have_value(f"{offline} · {say('load.offline')}")
    expect(visible_field(plan, say("preset.label"))).to_have_value("")


def test_largest_models_are_there_at_once_and_count_up_for_other_sizes(plan):
    unfold(plan, "plan.largest")
    table = plan.locator(".largest table")
    expect(table.first).to_be_visible(timeout=15_000)
    expect(table.first).to_contain_text("GiB")
    expand(plan, "plan.more")
    set_slider(plan, "plan.context", "2048")
    counting = plan.locator(".largest .counting")
    expect(counting).to_contain_text(f"of {len(catalog.shapes())} models", timeout=3 * LONG)  # its process starts first
    expect(table.first).to_be_visible()
    assert plan.locator(".largest .block.counted").evaluate(DIMMED)
    set_slider(plan, "plan.context", "1024")  # what else the plan opens with


def test_fastest_settings_that_fit_are_ranked_and_copied_to_the_form(fresh_plan):
    choose(fresh_plan, say("load.model"), OPT)
    expect(fresh_plan.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    press(fresh_plan, "plan.fastest")
    options = fresh_plan.locator(".ranked label")
    expect(options.first).to_contain_text("GiB", timeout=LONG)
    expect(options.first).to_contain_text("100%")
    bits = options.first.inner_text().split()[0]
    expect(fresh_plan.locator(".plan header p")).to_contain_text(f"{bits} bits", timeout=LONG)
    press(fresh_plan, "plan.use")
    expect(fresh_plan.get_by_text(say("plan.used_card", gib=8))).to_be_visible()
    open_tab(fresh_plan, "tab.load")
    expect(visible_field(fresh_plan, say("load.model"))).to_have_value(OPT)
    expect(fresh_plan.get_by_role("radio", name=bits, exact=True).locator("visible=true").first).to_be_checked()
    expand(fresh_plan, "load.details")
    expect(visible_field(fresh_plan, say("load.simulate_gpu_gib"))).to_have_value("8 GiB")
    open_tab(fresh_plan, "tab.tune")
    expand(fresh_plan, "tune.train")
    expect(visible_field(fresh_plan, say("train.batch_size"))).to_have_value("32")


def test_an_unknown_model_is_reported_in_one_sentence(plan):
    choose(plan, say("load.model"), "nobody/no-such-model")
    notice = notices(plan).locator("p")
    expect(notice).to_have_count(1, timeout=LONG)
    expect(notice).to_contain_text("nobody/no-such-model")


def test_several_gpus_are_planned_by_either_way_and_copied_to_the_form(fresh_plan):
    plan = fresh_plan
    parallel = plan.get_by_text(say("choice.train.parallel.fsdp2"), exact=True).locator("visible=true")
    expect(parallel).to_have_count(0)
    choose(plan, say("plan.gpus"), "4")
    ways = plan.locator(".plan .ways li")
    expect(ways).to_have_count(3, timeout=LONG)
    expect(plan.locator(".plan .ways .chosen")).to_contain_text(say("plan.several.ddp", count=4))
    expect(plan.locator(".plan .headline")).to_contain_text("4 GPUs")
    check_radio(plan, say("choice.train.parallel.fsdp2"))
    chosen = plan.locator(".plan .ways .chosen")
    expect(chosen).to_contain_text(say("plan.several.fsdp2", count=4), timeout=LONG)
    figure = re.search(r"(\d+\.\d\d) GiB", chosen.inner_text())[1]
    expect(plan.locator(".plan .headline")).to_contain_text(f"needs {figure} of")
    expect(plan.locator(".plan .waterfall .yours")).to_contain_text(f"{figure} GiB", timeout=LONG)
    expect(plan.get_by_text(say("plan.phase.chat_one", context=1024)).locator("visible=true").first).to_be_visible()
    check_radio(plan, "16")
    expect(plan.locator(".plan .headline")).not_to_contain_text(f"needs {figure} of", timeout=LONG)
    expect(plan.locator(".plan .headline")).to_contain_text("4 GPUs")
    expect(notices(plan)).to_have_count(0)
    press(plan, "plan.use")
    expect(plan.get_by_text(say("plan.used_gpus", count=4, most=2))).to_be_visible()
    choose(plan, say("plan.card"), say("plan.here_cpu", size_bytes=this_machine()["bytes"]))
    expect(ways).to_have_count(0, timeout=LONG)
    expect(plan.get_by_label(say("plan.gpus"), exact=True).locator("visible=true")).to_have_count(0)
    expect(parallel).to_have_count(0)


def test_the_predicted_step_is_written_for_pytorchs_memory_viewer(plan, tmp_path):
    choose(plan, say("load.model"), OPT)
    expect(plan.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    unfold(plan, "snapshot.title")
    press(plan, "snapshot.write")
    file = plan.get_by_role("button", name=say("snapshot.predicted")).locator("visible=true")
    file.wait_for(timeout=LONG)
    with plan.expect_download() as download:
        file.click()
    assert download.value.suggested_filename.startswith("predicted-opt-125m-4-bit-")
    download.value.save_as(tmp_path / "predicted.pickle")
    assert pickle.loads((tmp_path / "predicted.pickle").read_bytes())["device_traces"][0]
    check_radio(plan, "8")  # the file is no longer of what is chosen
    expect(file).to_have_count(0)
