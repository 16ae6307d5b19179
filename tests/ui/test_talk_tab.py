"""The Talk tab in a real browser: all steps by keyboard, in both languages, legible at 1920 × 1080, offline."""

from contextlib import nullcontext

import pytest
from actions import LONG, open_page, open_tab
from playwright.sync_api import expect

from playground.i18n import LANGUAGES, translate
from playground.talk.steps import read_steps

SMALL = """() => [...document.querySelectorAll('.talk .step:not([hidden]) *, .talk nav *')]
  .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
  .filter((node) => node.checkVisibility({ visibilityProperty: true }) && node.localName !== 'title')
  .map((node) => [node, node.ownerSVGElement ? node.ownerSVGElement.getScreenCTM().a : 1])
  .filter(([node, scale]) => parseFloat(getComputedStyle(node).fontSize) * scale < 17.9)
  .map(([node]) => node.textContent.trim().slice(0, 40))"""
OVERFLOWING = """() => {
  const talk = document.querySelector('.talk');
  return talk.scrollWidth > talk.clientWidth + 1 || talk.scrollHeight > talk.clientHeight + 1;
}"""

SLIDE = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }"


@pytest.fixture(scope="module")
def english(browser, app):
    with open_page(browser, app, "", 1920, 1080, offline=True) as page:
        open_tab(page, "tab.talk")
        yield page


@pytest.fixture
def talk(english):
    """The English page at the talk's first step, as large as a tab. The last test leaves it in Japanese."""
    english.locator(".talk").focus()
    english.keyboard.press("Escape")
    english.keyboard.press("Home")
    return english


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_whole_talk_is_walked_by_keyboard_and_legible_from_the_last_row(request, browser, app, lang):
    steps = read_steps()
    shared = nullcontext(request.getfixturevalue("talk")) if lang == "en" else None
    with shared or open_page(browser, app, f"/{lang}", 1920, 1080, offline=True) as page:
        open_tab(page, "tab.talk", lang)
        page.locator(".talk").focus()
        page.keyboard.press("f")
        for number, step in enumerate(steps, 1):
            expect(page.locator(".talk .place")).to_have_text(f"{number} / {len(steps)}")
            shown = page.locator(".talk .step:visible")
            expect(shown.locator("h2").first).to_have_text(step.title[lang])
            if step.kind == "guess":
                expect(shown.locator(".answer")).to_be_hidden()
                page.keyboard.press("PageDown")
                expect(shown.locator(".answer")).to_be_visible()
            assert page.evaluate(SMALL) == [], step.kind
            assert not page.evaluate(OVERFLOWING), step.kind
            page.keyboard.press("ArrowRight")  # a remote's keys are passed over where they come this fast
        expect(page.locator(".talk .place")).to_have_text(f"{len(steps)} / {len(steps)}")  # the last one stays
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".talk .place")).to_have_text(f"{len(steps) - 1} / {len(steps)}")


def test_a_slider_redraws_its_figure_and_says_whether_it_was_computed_now(talk):
    for kind, value, text in (("lora", "64", "524,288"), ("weight", "2", translate("en", "talk.not_here"))):
        step = talk.locator(f".talk .of-{kind}")
        talk.keyboard.press("Home")
        while not step.is_visible():
            talk.keyboard.press("ArrowRight")
        step.locator(".live input").evaluate(SLIDE, value)
        expect(step.locator(".live output")).to_have_text(value)
        expect(step.locator(".figure")).to_contain_text(text, timeout=LONG)


def test_the_language_is_switched_at_the_same_step_and_a_button_opens_the_tab(talk):
    lora = talk.locator(".talk .of-lora")
    lora.locator(".live input").evaluate(SLIDE, "64")
    expect(lora.locator(".figure")).to_contain_text("524,288", timeout=LONG)
    for key in ("f", "ArrowRight", "ArrowRight", "ArrowRight"):
        talk.keyboard.press(key)
    if not talk.locator(".talk .step:visible .answer").is_visible():  # uncovered by an earlier test
        talk.keyboard.press("PageDown")
    talk.keyboard.press("l")
    place = talk.locator(".talk .place")
    talk.wait_for_url("**/ja**")
    expect(place).to_have_text(f"4 / {len(read_steps())}", timeout=60_000)
    talk.wait_for_function("document.body.classList.contains('talking')")
    expect(talk.locator(".talk .step:visible .answer")).to_be_visible()
    expect(lora.locator(".live output")).to_have_text("64")
    expect(lora.locator(".figure")).to_contain_text("524,288", timeout=LONG)
    talk.keyboard.press("Escape")
    talk.locator(".talk .step:visible .go").click()
    expect(talk.get_by_role("tab", name=translate("ja", "tab.plan"))).to_have_attribute("aria-selected", "true")
