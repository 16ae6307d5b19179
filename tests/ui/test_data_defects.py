"""Defects that the Data tab had, in a browser: counts, names, errors, the cutoff's line, and the order on a phone."""

import json
import re

import pytest
from actions import (
    LONG,
    RENDERED,
    choose_toy,
    expand,
    expect_counts,
    notices,
    open_tab,
    press,
    upload,
    visible_field,
    wait_until_idle,
)
from playwright.sync_api import expect

from playground.i18n import translate

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(1, 9)]


@pytest.fixture
def data_tab(page, app):
    """The Data tab of a fresh page with the toy model's tokenizer, once the bundled set is drawn."""
    return prepare(page, app)


@pytest.fixture(scope="module")
def bundled(shared_page, app):
    """The same, for tests that leave the data set as it is."""
    return prepare(shared_page, app)


def prepare(page, app):
    wait_until_idle(page)
    choose_toy(page, app)
    open_tab(page, "tab.data")
    expect(page.locator(".cost .histogram")).to_be_visible(timeout=2 * LONG)  # the planning process starts
    return page


def write(path, rows, broken: str = ""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + broken)
    return path


def test_counts_add_up_to_all_rows_of_the_set(bundled):
    expect_counts(bundled, train=330, held_out=90, total=420)
    expect(bundled.locator(".about").first).to_contain_text(translate("en", "rows.in_file", count=420))


def test_the_tokens_of_a_row_are_counted_the_same_everywhere(bundled):
    total = int(re.search(r"Tokens: ([0-9]+)", bundled.locator(".xray > p").first.inner_text()).group(1))
    for legend in bundled.locator(".xray .legend").all():
        assert sum(int(count) for count in legend.locator("b").all_inner_texts()) == total


def test_an_uploaded_file_is_drawn_at_once_under_its_own_name(data_tab, tmp_path):
    upload(data_tab, write(tmp_path / "my rows.jsonl", ROWS))
    expect(visible_field(data_tab, translate("en", "data.source"))).to_have_value("my rows.jsonl")
    expect(data_tab.locator(".xray .tokens")).to_contain_text("What is 1?", timeout=LONG)
    assert "gradio/" not in data_tab.inner_text("body") and "/tmp" not in data_tab.inner_text("body")


def test_a_broken_file_is_reported_once_and_the_report_vanishes(data_tab, tmp_path):
    upload(data_tab, write(tmp_path / "broken.jsonl", ROWS, '{"question": "What"\n'))
    expect(notices(data_tab)).to_have_count(1)
    expect(notices(data_tab)).to_contain_text("broken.jsonl, line 9")
    for place in (".counted-rows", ".drawn-tokens", ".drawn-cost"):
        expect(data_tab.locator(place).first).to_have_text("", timeout=LONG)
    assert data_tab.inner_text("body").count("line 9") == 1
    upload(data_tab, write(tmp_path / "whole.jsonl", ROWS))
    expect(notices(data_tab)).to_have_count(0, timeout=LONG)
    expect(data_tab.locator(".xray .tokens")).to_contain_text("What is 1?", timeout=LONG)


def test_pasted_rows_are_called_so(data_tab):
    expand(data_tab, "rows.paste")
    field = data_tab.get_by_placeholder(translate("en", "rows.paste.info"))
    field.fill("".join(json.dumps(row) + "\n" for row in ROWS) + "{broken\n")
    press(data_tab, "rows.paste.go")
    pasted = translate("en", "rows.pasted")
    expect(visible_field(data_tab, translate("en", "data.source"))).to_have_value(pasted)
    expect(notices(data_tab)).to_have_count(1)
    expect(notices(data_tab)).to_contain_text(f"{pasted}, line 9")


def test_the_line_of_the_cutoff_is_where_longer_rows_begin(data_tab):
    expect(data_tab.locator(".cost .cutoff.beyond")).to_have_text(re.compile("256"))
    cutoff = data_tab.get_by_label(f"number input for {translate('en', 'rows.cutoff')}")
    cutoff.fill("64")
    cutoff.press("Tab")
    expect(data_tab.locator(".xray > p").first).to_contain_text("64", timeout=LONG)  # the row's tokens agree
    line = data_tab.locator(".cost .cutoff:not(.beyond)")
    expect(line).to_have_text(re.compile("64"), timeout=LONG)
    boxes = data_tab.evaluate("""() => [...document.querySelectorAll('.cost .columns > *')].map(node => {
      const {left, right} = node.getBoundingClientRect();
      return [node.className, left, right];
    })""")
    [x] = [right if "before" in look else left for look, left, right in boxes if "cutoff" in look]
    assert all(left < x for look, left, _ in boxes if look == "within")
    assert all(right > x for look, _, right in boxes if look == "over") and any(look == "over" for look, *_ in boxes)


def test_a_row_is_picked_by_keyboard_and_the_number_keeps_the_focus(bundled):
    button = bundled.locator(".first-rows button[data-row='3']")
    button.focus()
    button.press("Enter")
    number = visible_field(bundled, translate("en", "rows.number"))
    expect(number).to_have_value("3")
    expect(bundled.locator(".xray > p").first).to_contain_text("Row 3.", timeout=LONG)
    number.focus()
    number.fill("5")
    number.press("Enter")
    expect(bundled.locator(".xray > p").first).to_contain_text("Row 5.", timeout=LONG)
    expect(number).to_be_focused()


def test_a_problem_of_the_template_stands_by_the_tokens_once(bundled):
    bundled.evaluate(RENDERED)
    number = visible_field(bundled, translate("en", "rows.number"))
    number.fill("9999")
    number.press("Tab")
    expect(notices(bundled)).to_have_count(1, timeout=LONG)
    expect(bundled.locator(".drawn-tokens .notice")).to_contain_text("9999")
    expect(bundled.locator(".cost .histogram")).to_be_visible()
    number.fill("2")
    number.press("Tab")
    expect(notices(bundled)).to_have_count(0, timeout=LONG)


def test_on_a_phone_each_result_follows_its_choices(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url)
    page.get_by_role("tab").first.wait_for()
    open_tab(page, "tab.data")
    expect_counts(page, total=420)
    names = ("source", "rows-shown", "selection", "template", "tokens-shown", "cutoff", "cost-shown")
    tops = [page.locator(f".data-tab .{name}").first.bounding_box()["y"] for name in names]
    assert tops == sorted(tops)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
