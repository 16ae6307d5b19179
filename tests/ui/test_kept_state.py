"""What a page keeps: fields, the open tab and the unsent question, over a reload and a switch of language."""

import pytest
from actions import expand, fill, open_tab, visible_field
from playwright.sync_api import expect

from playground.i18n import translate


@pytest.fixture(scope="module")
def changed(shared_page):
    """A page whose epochs, rank and question were changed, on Compare."""
    page = shared_page
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), "7")
    fill(page, translate("en", "lora.r"), "24")
    open_tab(page, "tab.chat")
    fill(page, translate("en", "chat.ask"), "Where is the ferry?")
    return page


def assert_kept(page, lang):
    expect(page.get_by_role("tab", name=translate(lang, "tab.chat"))).to_have_attribute("aria-selected", "true")
    expect(visible_field(page, translate(lang, "chat.ask"))).to_have_value("Where is the ferry?")
    open_tab(page, "tab.tune", lang)
    expect(visible_field(page, translate(lang, "train.epochs"))).to_have_value("7")
    expect(visible_field(page, translate(lang, "lora.r"))).to_have_value("24")
    open_tab(page, "tab.chat", lang)
    page.wait_for_function("sessionStorage.getItem('playground.tab') === 'chat'")


def test_the_key_of_a_service_is_not_kept(changed):
    open_tab(changed, "tab.chat")
    expand(changed, "chat.service_title")
    changed.locator("input[type=password]").fill("secret-1234")
    changed.keyboard.press("Tab")
    changed.wait_for_function("sessionStorage.getItem('playground.fields')?.includes('Where is the ferry?')")
    assert "secret-1234" not in changed.evaluate("JSON.stringify({...sessionStorage, ...localStorage})")


def test_a_reload_keeps_fields_tab_and_question(changed):
    changed.reload()
    assert_kept(changed, "en")


def test_the_other_language_keeps_them_too(changed):
    changed.locator("a.language").click()
    expect(changed.get_by_role("tab", name=translate("ja", "tab.chat"))).to_be_visible()
    assert_kept(changed, "ja")


def test_a_kept_tab_that_was_not_built_in_time_is_pressed_until_somebody_chooses(changed):
    start = changed.locator("[data-tab-id=start]")
    start.click()
    changed.evaluate("keptState.press('chat')")  # somebody clicked: theirs stays
    expect(start).to_have_attribute("aria-selected", "true")
    changed.evaluate("keptState.touched = false, keptState.press('chat')")
    expect(changed.locator("[data-tab-id=chat]")).to_have_attribute("aria-selected", "true")


def test_fields_that_were_not_changed_follow_the_language(page):
    open_tab(page, "tab.tune")
    fill(page, translate("en", "lora.r"), "24")
    page.locator("a.language").click()
    open_tab(page, "tab.load", "ja")
    expect(visible_field(page, translate("ja", "preset.label"))).to_have_value(translate("ja", "preset.demo-ja"))


def test_another_tab_of_the_browser_starts_anew(changed, browser, app):
    other = browser.new_page()
    other.goto(app.url)
    expect(other.get_by_role("tab", name=translate("en", "tab.start"))).to_have_attribute("aria-selected", "true")
    other.close()
