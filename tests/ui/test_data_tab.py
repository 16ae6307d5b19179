"""The Data tab in a real browser: an uploaded file is mapped, drawn token by token, filtered, costed and trained on."""

import json

import pytest
from actions import (
    LONG,
    choose,
    choose_toy,
    expand,
    expect_counts,
    fill,
    notices,
    open_tab,
    press,
    upload,
    wait_until_idle,
)
from playwright.sync_api import expect

from playground.i18n import translate

ROWS = [{"c1": f"What is {n}?", "c2": f"It is <b>{n}</b>.", "kind": "odd" if n % 2 else "even"} for n in range(1, 21)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*ROWS, ROWS[4], {"c1": "Empty?", "c2": "", "kind": "odd"}]))
    return path


def test_uploaded_file_is_mapped_drawn_filtered_and_trained_on(page, app, file):
    wait_until_idle(page)
    choose_toy(page, app)
    open_tab(page, "tab.data")
    expect_counts(page, train=330, held_out=90, total=420)  # the bundled set
    upload(page, file)
    expect(notices(page).first).to_contain_text("c1, c2, kind")
    expand(page, "rows.columns")
    expect(
        page.get_by_role("cell", name="What is 1?").or_(page.get_by_text("What is 1?")).locator("visible=true").first
    ).to_be_visible()
    for part, name in (("instruction", "c1"), ("output", "c2"), ("category", "kind")):
        choose(page, translate("en", f"rows.part.{part}"), name)
    expect(page.locator(".rows .columns li")).to_have_count(3)
    expect(notices(page)).to_have_count(0)
    expect_counts(page, train=18, held_out=2, left_out=2, total=22)
    dropped = page.locator(".rows .dropped")
    for reason, number in (("duplicate", 21), ("empty", 22)):
        where = translate("en", "rows.numbers", rows=number)
        expect(dropped).to_contain_text(f"{translate('en', f'dropped.{reason}')}: 1 ({where})")
    trained = page.locator(".xray .tokens .run.trained")
    expect(trained).to_contain_text("<b>", timeout=LONG)  # as text: nothing of a row is ever markup
    assert page.locator(".xray .tokens b").count() == 0
    expand(page, "rows.filter")
    choose(page, translate("en", "data.category"), "even")
    expect_counts(page, train=9, held_out=1, left_out=12, total=22)
    expect(page.locator(".cost .facts")).to_contain_text("tokens per epoch", timeout=LONG)
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "1")
    press(page, "tune.go")
    expect(page.locator(".live .notes")).to_contain_text(
        translate("en", "note.data", rows=9, held_out=1, total=22, template="chat"), timeout=LONG
    )  # until then the chart shows the run before
    expect(page.locator(".live .phase")).to_have_text(translate("en", "chart.outcome.done"), timeout=LONG)


def test_custom_format_is_drawn_at_once_and_refused_without_an_answer(page, app):
    wait_until_idle(page)
    choose_toy(page, app)
    open_tab(page, "tab.data")
    tokens = page.locator(".xray .tokens")
    expect(tokens).to_contain_text("password", timeout=LONG)
    choose(page, translate("en", "data.prompt_format"), "custom")
    form = page.get_by_label(translate("en", "data.custom_format")).locator("visible=true").first
    form.fill("Q: {instruction}")
    form.press("Tab")
    expect(notices(page).first).to_contain_text("{answer}", timeout=LONG)
    form.fill("Frage: {instruction}\nAntwort: {answer}")
    form.press("Tab")
    expect(tokens).to_contain_text("Antwort", timeout=LONG)


def test_cutoff_changes_the_truncated_rows_and_the_cost(page, app):
    wait_until_idle(page)
    choose_toy(page, app)
    open_tab(page, "tab.data")
    expect(page.locator(".cost .histogram i.within").first).to_be_visible(timeout=LONG)
    assert page.locator(".cost .histogram i.over").count() == 0
    cutoff = page.get_by_label(f"number input for {translate('en', 'rows.cutoff')}")
    cutoff.fill("64")
    cutoff.press("Tab")
    expect(page.locator(".cost .histogram i.over").first).to_be_visible(timeout=LONG)
    expect(page.locator(".cost .facts .no").first).to_be_visible()


def test_format_of_pasted_rows_is_detected(page, app):
    open_tab(page, "tab.data")
    expand(page, "rows.paste")
    page.get_by_placeholder(translate("en", "rows.paste.info")).fill("question,answer\nWhere?,Here.\nWhen?,Now.\n")
    press(page, "rows.paste.go")
    expect(page.locator(".rows .quiet").first).to_contain_text("CSV")
    expect_counts(page, train=1, held_out=1, total=2)


def test_the_data_tab_fits_a_phone_in_japanese(browser, app):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(app.url + "/ja")
    page.get_by_role("tab").first.wait_for()
    for key in ("tab.plan", "tab.load", "tab.data", "tab.tune", "tab.chat", "tab.runs"):
        expect(page.get_by_role("tab", name=translate("ja", key)).locator("visible=true").first).to_be_in_viewport()
    open_tab(page, "tab.data", "ja")
    expect_counts(page, train=330, held_out=90, total=420)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
