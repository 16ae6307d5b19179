"""Both pages are in their own language: the document's title and `lang`, and the labels of choices."""

import pytest
from actions import LONG, RENDERED, visible_field
from playwright.sync_api import expect

from playground.i18n import LANGUAGES, translate


@pytest.fixture(scope="module", params=LANGUAGES)
def lang(request):
    return request.param


@pytest.fixture(scope="module")
def localized(browser, app, lang):
    """The page of one language, at its Plan tab with all fields shown."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(app.url + ("" if lang == "en" else f"/{lang}"))
    page.get_by_role("tab", name=translate(lang, "tab.plan")).click()
    page.get_by_role("button", name=translate(lang, "plan.more")).locator("visible=true").first.click()
    yield page
    page.close()


def test_title_and_lang_of_the_document_are_the_pages_own(localized, lang):
    expect(localized).to_have_title(translate(lang, "app.title"))
    expect(localized.locator("html")).to_have_attribute("lang", lang)


def test_radio_shows_labels_and_takes_their_values(localized, lang):
    method = localized.get_by_role("radio", name=translate(lang, "choice.train.method.full"), exact=True)
    bits = localized.get_by_role("radio", name="16", exact=True).locator("visible=true").first
    bits.check()
    method.locator("visible=true").first.check()
    expect(localized.locator(".plan header p")).to_contain_text(translate(lang, "plan.trains.full"), timeout=LONG)


def test_custom_dropdown_shows_labels_and_still_takes_typed_values(localized, lang):
    """A typed value that is a choice is shown by its label; any other value by itself."""
    field = visible_field(localized, translate(lang, "train.gradient_checkpointing"))
    expect(field).to_have_value(translate(lang, "choice.train.gradient_checkpointing.auto"))
    step = translate(lang, "plan.step", rows=0, tokens=0, checkpointing="\n").rsplit("、" if lang == "ja" else "; ")[-1]
    before, after = step.split("\n")
    for typed, shown in (("3", "3"), ("off", translate(lang, "choice.train.gradient_checkpointing.off"))):
        localized.evaluate(RENDERED)
        field.fill(typed)
        field.press("Enter")
        field.blur()
        expect(field).to_have_value(shown)
        expect(localized.locator(".plan .step-notes")).to_contain_text(f"{before}{typed}{after}", timeout=LONG)
