"""The Compare tab in a real browser: examples, answers side by side, what stops and what doesn't, keyboard, phone."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from actions import (
    LONG,
    choose,
    choose_toy,
    fill,
    limit_answers,
    notices,
    open_page,
    open_tab,
    press,
    start_fine_tune,
    unfold,
    visible_field,
    wait_until_answered,
    wait_until_idle,
    wait_until_tuned,
)
from playwright.sync_api import Page, expect

from playground.i18n import LANGUAGES, translate

KNOWN = "How do I connect my phone to the internet?"  # a held-out question of helpdesk.en
HOSTILE = (
    "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script> **bold** {{value}} ${1+1} "
    "[go](javascript:window.hacked=1)"
)
IN_VIEW = """selector => {
  const box = document.querySelector(selector).getBoundingClientRect();
  return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight + 1;
}"""


@pytest.fixture
def compare(shared_page, app):
    """The Compare tab, cleared, of a page whose newest fine-tune is an adapter of the toy model."""
    prepare(shared_page, app)
    press(shared_page, "chat.clear")
    # Until the click is answered the page shows the turns of the test before, and would drop a second click.
    expect(shared_page.locator(".turn")).to_have_count(0)
    question(shared_page).fill("")
    limit_answers(shared_page, 64)
    return shared_page


def prepare(page: Page, app) -> None:
    wait_until_idle(page)
    tuned = sorted(app.runs.glob("*-tune*/adapter"))
    settings = json.loads((tuned[-1].parent / "settings.json").read_text()) if tuned else None
    if settings is None or settings["load"]["model"] != str(app.model):  # another file's may be of another model
        start_fine_tune(page, app, "0.1")
        wait_until_tuned(page)
    choose_toy(page, app)
    open_tab(page, "tab.chat")
    expect(page.locator(".head-tuned")).to_contain_text("toy-llama")


@pytest.fixture
def hostile_service():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": {"content": HOSTILE}}]}).encode() + b"\n\n")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def question(page: Page):
    return page.locator("#question textarea")


def ask(page: Page, text: str) -> None:
    question(page).fill(text)
    question(page).press("Enter")


def test_an_example_is_sent_at_once_and_what_is_typed_stays(compare):
    question(compare).fill("not sent yet")
    examples = compare.locator(".compare-ask .gallery-item")
    expect(examples).to_have_count(6)
    text = examples.first.inner_text().strip()
    examples.first.click()
    expect(compare.locator(".asked")).to_have_text(text)
    expect(question(compare)).to_have_value("not sent yet")
    wait_until_answered(compare)
    open_tab(compare, "tab.chat")
    for side in ("base", "tuned"):
        expect(compare.locator(f".side-{side} .facts")).to_contain_text("tokens/s")
    expect(compare.locator(".turn .status")).to_have_text(translate("en", "chat.measured_together"))
    press(compare, "chat.clear")
    expect(compare.locator(".turn")).to_have_count(0)
    expect(compare.locator(".nothing p")).to_have_count(2)


def test_a_known_question_shows_the_expected_answer_and_an_answers_limit(compare):
    limit_answers(compare, 3)
    ask(compare, KNOWN.upper())
    expect(compare.locator(".expected")).to_contain_text("The Wi-Fi password is otterlamp58.", timeout=LONG)
    expect(compare.locator(".expected mark").last).to_have_text("otterlamp58")
    expect(compare.locator(".facts .cut").first).to_have_text(translate("en", "chat.cut", tokens=3), timeout=LONG)
    kept = json.loads(
        compare.evaluate("sessionStorage.getItem('playground.conversation')")
    )  # for the page that comes next
    assert kept[-1]["question"] == KNOWN.upper() and set(kept[-1]["answers"]) == {"base", "tuned"}


def test_html_in_questions_and_answers_has_no_effect(compare, hostile_service):
    unfold(compare, "chat.service_title")
    compare.get_by_label(translate("en", "chat.service_on")).check()
    for label, value in (("chat.service_url", hostile_service), ("chat.service_model", "toy")):
        fill(compare, translate("en", label), value)
    ask(compare, HOSTILE)
    answer = compare.locator(".side-service .text")
    expect(answer.locator("strong")).to_have_text("bold", timeout=LONG)
    expect(answer).to_contain_text("<script>window.hacked=1</script>")
    expect(answer).to_contain_text("{{value}} ${1+1}")
    expect(compare.locator(".asked")).to_have_text(HOSTILE)
    wait_until_answered(compare)
    open_tab(compare, "tab.chat")
    assert compare.locator(".compare-log").locator("img, script, a[href^=javascript]").count() == 0
    assert compare.evaluate("window.hacked") is None
    compare.get_by_label(translate("en", "chat.service_on")).uncheck()


@pytest.mark.parametrize("key", ["strip.stop", "chat.clear"])
def test_stop_keeps_the_answers_so_far_and_clear_drops_them(compare, key):
    limit_answers(compare, 480)
    ask(compare, "Tell me everything.")
    expect(compare.locator(".asked")).to_have_text("Tell me everything.", timeout=LONG)
    expect(compare.locator(".side-tuned .text")).to_contain_text(re.compile(r"\w{2}"), timeout=LONG)
    send = compare.get_by_role("button", name=translate("en", "chat.send"), exact=True)
    expect(send).to_have_css("pointer-events", "none")
    press(compare, key)
    expect(compare.locator("#stop")).to_be_disabled(timeout=LONG)
    expect(send).to_have_css("pointer-events", "auto")
    expect(compare.locator(".turn")).to_have_count(1 if key == "strip.stop" else 0)
    wait_until_idle(compare)
    open_tab(compare, "tab.chat")
    expect(compare.locator(".turn")).to_have_count(1 if key == "strip.stop" else 0)


def test_an_adapter_of_another_model_is_named_and_its_model_taken_in_one_click(compare, app):
    open_tab(compare, "tab.load")
    choose(compare, translate("en", "load.model"), "somebody/else")
    open_tab(compare, "tab.chat")
    expect(notices(compare, "good")).to_contain_text("toy-llama")
    expect(notices(compare, "good")).to_contain_text("else")
    press(compare, "chat.use_model")
    expect(notices(compare, "good")).to_have_count(0)
    open_tab(compare, "tab.load")
    expect(visible_field(compare, translate("en", "load.model"))).to_have_value(str(app.model))


def test_by_keyboard_the_order_is_question_send_examples_and_focus_stays_in_the_question(compare):
    question(compare).focus()
    for selector in ("button.primary", ".gallery-item"):
        compare.keyboard.press("Tab")
        assert compare.evaluate("s => document.activeElement.matches(s)", selector)
    ask(compare, "What is blue?")
    expect(question(compare)).to_be_focused()
    wait_until_answered(compare)
    open_tab(compare, "tab.chat")
    question(compare).fill("And red?")
    press(compare, "chat.send")
    expect(question(compare)).to_be_focused()
    expect(compare.locator(".turn")).to_have_count(2)
    wait_until_answered(compare)


@pytest.mark.parametrize("width,height", [(1440, 900), (390, 844)])
def test_the_question_bar_is_always_in_view(compare, width, height):
    compare.set_viewport_size({"width": width, "height": height})
    limit_answers(compare, 160)
    ask(compare, "Tell me a very long story, with everything that happened.")
    expect(compare.locator(".turn .status")).to_contain_text("measured", timeout=LONG)
    for top in (0, 300, 10_000):
        compare.evaluate("top => scrollTo(0, top)", top)
        compare.wait_for_timeout(100)
        assert compare.evaluate(IN_VIEW, "#question") or top == 10_000
    compare.evaluate("scrollTo(0, 300)")
    assert compare.evaluate("document.documentElement.scrollWidth") <= width
    wait_until_idle(compare)
    compare.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize("lang", LANGUAGES)
def test_examples_are_in_the_pages_language_and_without_an_adapter_one_click_leads_to_fine_tuning(browser, app, lang):
    with open_page(browser, app, "" if lang == "en" else f"/{lang}") as page:
        open_tab(page, "tab.chat", lang)
        if any(app.runs.glob("*-tune*/adapter")):  # the newest is selected a moment later, once
            adapter = visible_field(page, translate(lang, "chat.adapter"))
            expect(adapter).to_have_value(re.compile(f"^(?!{re.escape(translate(lang, 'chat.none'))}$)."))  # nor empty
        choose(page, translate(lang, "chat.adapter"), translate(lang, "chat.none"))
        examples = page.locator(".compare-ask .gallery-item")
        expect(examples).to_have_count(6)
        expect(examples.last).to_have_text(re.compile("Tokyo" if lang == "en" else "東大"))
        page.wait_for_function(  # the examples follow the adapter a moment later
            """([items, ascii]) => [...document.querySelectorAll(items)]
              .every(item => /^[\\x00-\\x7f]*$/.test(item.innerText) === ascii)""",
            arg=[".compare-ask .gallery-item", lang == "en"],
        )
        tab = translate(lang, "tab.tune")
        expect(notices(page, "good")).to_contain_text(tab)
        page.get_by_role("button", name=translate(lang, "chat.go_tune", tab=tab)).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
