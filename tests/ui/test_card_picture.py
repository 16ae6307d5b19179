"""The card picture in a real browser: bars of four widths, and the layers as a fine-tune goes through them."""

import json

import pytest
from actions import LONG, check_radio, choose, expand, open_tab
from playwright.sync_api import Page, expect

from playground import runs
from playground.i18n import format_bytes, translate
from playground.planning.client import this_machine
from playground.settings import Settings

LAYERS = 12


def picture(page: Page):
    return page.locator(".picture").locator("visible=true")


@pytest.fixture(scope="module")
def small_plan(shared_page: Page):
    """The Plan tab with a small model."""
    open_tab(shared_page, "tab.plan")
    choose(shared_page, translate("en", "load.model"), f"{translate('en', 'catalog.mark')} OPT 125M")
    return shared_page


@pytest.fixture
def drawn(small_plan: Page):
    """The Plan tab's picture of a small model at 16 bits, not playing."""
    page = small_plan
    check_radio(page, "16")
    expect(picture(page).locator(".cell")).to_have_count(LAYERS + 1, timeout=LONG)
    expect(picture(page).locator("[role=radio][data-bits='16']")).to_have_attribute("aria-checked", "true")
    return picture(page)


def scrub(picture, number: int) -> None:
    picture.locator(".scrub").evaluate(
        "(node, n) => { node.value = n; node.dispatchEvent(new Event('input', { bubbles: true })) }", number
    )


def test_four_widths_have_hatched_bars_whose_weights_shrink_with_the_bits(drawn):
    rows = drawn.get_by_role("radio")
    expect(rows).to_have_count(4)
    weights = "row => row.querySelector('.bar:not(.measured) i').getBoundingClientRect().width"
    drawn.page.wait_for_timeout(500)  # bars grow for a moment
    widths = [rows.nth(n).evaluate(weights) for n in range(4)]
    assert widths == sorted(widths, reverse=True) and widths[0] > 1.5 * widths[3] > 0
    expect(rows.first).to_contain_text(translate("en", "chart.verdict.fits"))
    expect(drawn.locator("header em")).to_have_text(translate("en", "picture.predicted"))
    hatched = rows.first.locator(".bar:not(.measured) i").first
    assert "repeating-linear-gradient" in hatched.evaluate("node => getComputedStyle(node).backgroundImage")


def test_scrubbing_shows_the_instant_and_pointing_at_a_cell_its_bytes(drawn):
    scrub(drawn, 0)
    expect(drawn.locator(".stage")).to_have_text(translate("en", "picture.stage.prepare.outside"))
    before = drawn.locator(".bytes").inner_text()
    scrub(drawn, 4)
    expect(drawn.locator(".stage")).to_contain_text("layer")
    assert drawn.locator(".bytes").inner_text() != before
    assert drawn.locator(".scrub").get_attribute("aria-valuetext").endswith(drawn.locator(".bytes").inner_text())
    drawn.locator(".cell").nth(3).hover()
    expect(drawn.locator(".cell-text")).to_contain_text(translate("en", "picture.layer", layer=3))
    expect(drawn.locator(".cell-text")).to_contain_text("MiB")
    expect(drawn.locator(".cell-text")).to_contain_text(translate("en", "chart.part.weights"))


def test_play_advances_through_the_layers_and_pause_stops(drawn):
    scrub(drawn, 0)
    drawn.get_by_role("button", name=translate("en", "picture.play")).click()
    drawn.page.wait_for_function("() => Number(document.querySelector('.picture .scrub').value) > 5")
    drawn.get_by_role("button", name=translate("en", "picture.pause")).click()
    stopped = drawn.locator(".scrub").input_value()
    drawn.page.wait_for_timeout(400)
    assert drawn.locator(".scrub").input_value() == stopped
    expect(drawn.locator(".cell:not([data-stage=''])")).to_have_count(1)


def test_choosing_a_width_by_pointer_or_key_sets_the_field(drawn):
    page = drawn.page
    drawn.locator("[role=radio][data-bits='8']").click()
    expect(page.get_by_role("radio", name="8", exact=True).locator("visible=true").first).to_be_checked(timeout=LONG)
    expect(drawn.locator("[role=radio][data-bits='8']")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="4", exact=True).locator("visible=true").first).to_be_checked(timeout=LONG)


def test_cells_are_read_by_keyboard(drawn):
    page = drawn.page
    drawn.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(drawn.locator(".cell").nth(2)).to_be_focused()
    expect(drawn.locator(".cell-text")).to_contain_text(translate("en", "picture.layer", layer=2))


def test_what_was_measured_here_is_drawn_filled_under_the_prediction(page, app):
    machine = this_machine()
    total = 700 * 2**20
    settings = Settings().with_values({"load": {"model": "smollm2-135m-instruct", "bits": 8}})
    run = runs.create(app.runs, "load", settings, hardware={"device": machine["device"], "name": machine["name"]})
    peak = {"rss": total} if machine["device"] == "cpu" else {"device_used": total}
    run.append("memory_measured", phase="load", parts={"weights": total // 4}, peak=peak)
    open_tab(page, "tab.load")
    check_radio(page, "8")
    row = picture(page).locator("[role=radio][data-bits='8']")
    expect(row).to_contain_text(translate("en", "picture.measured", total=format_bytes(total)), timeout=LONG)
    image = row.locator(".bar.measured i").first.evaluate("node => getComputedStyle(node).backgroundImage")
    assert image == "none"
    expect(picture(page).locator(".bar.measured").locator("visible=true")).to_have_count(1)
    runs.delete(app.runs, run.id)


def test_nothing_moves_when_the_picture_is_drawn_and_without_motion_it_shows_the_peak(page):
    """The picture keeps its place while it has nothing to show."""
    open_tab(page, "tab.plan")
    before = json.loads(page.locator(".picture").first.evaluate("n => JSON.stringify(n.getBoundingClientRect())"))
    expect(page.locator(".picture .cell").first).to_be_attached(timeout=LONG)
    after = json.loads(page.locator(".picture").first.evaluate("n => JSON.stringify(n.getBoundingClientRect())"))
    assert abs(after["height"] - before["height"]) <= 24
    expect(picture(page).locator(".peak")).to_have_text(translate("en", "picture.peak"))


def test_streamed_layers_wait_in_ram_and_come_one_ahead(page):
    open_tab(page, "tab.load")
    choose(page, translate("en", "load.model"), "smollm2-135m-instruct")
    expand(page, "load.details")
    choose(page, translate("en", "load.streamed_layers"), "20")
    open_tab(page, "tab.tune")
    drawn, cells = picture(page), picture(page).locator(".cell")
    expect(drawn.locator(".places li")).to_have_count(4, timeout=LONG)
    scrub(drawn, 0)
    labels = []
    while not any(label.startswith("Forward: layer 12 ") for label in labels[-1:]):
        scrub(drawn, len(labels))
        labels.append(drawn.locator(".stage").inner_text())
    expect(drawn.locator(".places b")).to_have_text(["10", "18", "1", "1"])
    states = "nodes => nodes.map(node => node.dataset.place)"
    assert cells.evaluate_all(states)[10:15] == ["waiting", "resident", "ready", "copying", "resident"]
    waiting, ready = (translate("en", f"chart.layers.{state}") for state in ("waiting", "ready.cpu"))
    expect(cells.nth(1)).to_have_attribute("aria-label", f"Layer 1 ({waiting})")
    expect(cells.nth(12)).to_have_attribute("aria-label", f"Layer 12 ({ready})")
    borders = "nodes => nodes.map(node => getComputedStyle(node, '::before').borderTopColor)"
    assert len(set(colors := cells.evaluate_all(borders)[1:])) == 4 and "rgba(0, 0, 0, 0)" not in colors
    expect(drawn.get_by_role("radio").first).to_contain_text("20 of 30 layers in RAM")
    page.locator(".picture .cell").locator("visible=true").first.hover()
    expect(drawn.locator(".cell-text")).to_contain_text(translate("en", "picture.outside_buffers"))
