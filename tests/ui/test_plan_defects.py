"""The Plan tab in a real browser, where it once misled: errors, figures, lists, and what it hands to the form."""

import re

import pytest
from actions import LONG, check_radio, choose, expand, notices, open_tab, press, visible_field
from playwright.sync_api import expect

from playground import catalog
from playground.i18n import format_large, translate

DIMMED = "element => Number(getComputedStyle(element).opacity) < 1"


def say(key: str, **values) -> str:
    return translate("en", key, **values)


def set_slider(page, key: str, value: str) -> None:
    """Type a slider's value and leave its field."""
    field = page.get_by_label(f"number input for {say(key)}").locator("visible=true").first
    field.fill(value)
    field.blur()


@pytest.fixture
def plan(page):
    open_tab(page, "tab.plan")
    page.locator(".plan .headline").wait_for()
    return page


def test_a_plan_is_drawn_as_soon_as_the_page_is(browser, app):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(app.url)
    open_tab(page, "tab.plan")
    expect(page.locator(".plan .headline")).to_be_visible(timeout=3_000)
    expect(page.locator(".plan .bar")).to_have_count(3)
    expect(page.locator(".plan .waterfall li").first).to_be_visible()
    expect(page.get_by_text(say("plan.counting"))).to_have_count(0)
    page.close()


def test_invalid_length_leaves_the_last_plan_dimmed_under_one_error_until_it_is_valid(plan):
    headline, step = plan.locator(".plan .headline"), plan.locator(".plan .step-notes")
    before, forecast = step.inner_text(), plan.locator(".block.counted").filter(has=headline)
    plan.get_by_role("button", name=say("plan.explained")).click()
    plan.get_by_role("button", name=say("plan.largest")).click()
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
    text = plan.locator(".plan-result").inner_text()
    assert re.findall(r"\d (?:GB|MB|B|M)\b", text) == [] and plan.locator(".plan .axis b").inner_text() == "GiB"
    parameters = catalog.shapes()["cyberagent/open-calm-7b"]["parameters"]
    expect(plan.locator(".plan header p")).to_contain_text(f"{format_large('en', parameters)} parameters")
    open_tab(plan, "tab.load")
    facts = " ".join(plan.locator(".facts").locator("visible=true").all_inner_texts())
    assert re.findall(r"\d (?:GB|MB|B|M)\b", facts) == [] and "135 million parameters" in facts


def test_one_plan_has_one_figure_wherever_it_appears(plan):
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


def test_settings_with_a_model_of_a_hub_offer_one_that_works_offline(plan):
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
    plan.get_by_role("button", name=say("plan.largest")).click()
    table = plan.locator(".largest table")
    expect(table.first).to_be_visible(timeout=3_000)
    expect(table.first).to_contain_text("GiB")
    expand(plan, "plan.more")
    set_slider(plan, "plan.context", "2048")
    counting = plan.locator(".largest .counting")
    expect(counting).to_contain_text(f"of {len(catalog.shapes())} models", timeout=3 * LONG)  # its process starts first
    expect(table.first).to_be_visible()
    assert plan.locator(".largest .block.counted").evaluate(DIMMED)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_plan_never_scrolls_sideways_on_a_phone(browser, app, lang):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url if lang == "en" else f"{app.url}/ja")
    open_tab(page, "tab.plan", lang)
    page.locator(".plan .headline").wait_for()
    for key in ("plan.more", "plan.explained", "plan.largest"):
        page.get_by_role("button", name=translate(lang, key)).click()
    page.locator(".largest table").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    choose(page, translate(lang, "load.model"), f"{translate(lang, 'catalog.mark')} OPT 125M")
    expect(page.locator(".plan header strong")).to_have_text("OPT 125M", timeout=LONG)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
