"""The Compare tab in a real browser: examples, answers side by side, what stops and what doesn't, keyboard, phone."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from actions import (
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
LONG,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
choose,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
choose_toy,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
fill,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
limit_answers,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
notices,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_page,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
press,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
start_fine_tune,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
unfold,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
visible_field,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_answered,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_idle,
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_tuned,
)
from playwright.sync_api import Page, expect

from playground.i18n import LANGUAGES, translate

KNOWN = "How do I connect my phone to the internet?"  # a held-out question of helpdesk.en
HOSTILE = (
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
"<img src=x onerror='window.hacked=1'><script>window.hacked=1</script> **bold** {{value}} ${1+1} "
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
"[go](javascript:window.hacked=1)"
)
IN_VIEW = """selector => {
  const box = document.querySelector(selector).getBoundingClientRect();
  return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight + 1;
}"""


@pytest.fixture
def compare(shared_page, app):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
"""The Compare tab, cleared, of a page whose newest fine-tune is an adapter of the toy model."""
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
prepare(shared_page, app)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
press(shared_page, "chat.clear")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
# A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
# second click on the same button.
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(shared_page.locator(".turn")).to_have_count(0)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
question(shared_page).fill("")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
limit_answers(shared_page, 64)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
return shared_page


def prepare(page: Page, app) -> None:
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_idle(page)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
if not any(app.runs.glob("*-tune*/adapter")):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    start_fine_tune(page, app, "0.1")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    wait_until_tuned(page)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
choose_toy(page, app)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(page, "tab.chat")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(page.locator(".head-tuned")).to_contain_text("toy-llama")


@pytest.fixture
def hostile_service():
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
class Handler(BaseHTTPRequestHandler):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    def do_POST(self):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
        self.send_response(200)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
        self.end_headers()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
        self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": {"content": HOSTILE}}]}).encode() + b"\n\n")

 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    def log_message(self, *_):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
        pass

 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    threading.Thread(target=server.serve_forever, daemon=True).start()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    yield f"http://127.0.0.1:{server.server_port}/v1"
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    server.shutdown()


def question(page: Page):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
return page.locator("#question textarea")


def ask(page: Page, text: str) -> None:
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
question(page).fill(text)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
question(page).press("Enter")


def test_an_example_is_sent_at_once_and_what_is_typed_stays(compare):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
question(compare).fill("not sent yet")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
examples = compare.locator(".compare-ask .gallery-item")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(examples).to_have_count(6)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
text = examples.first.inner_text().strip()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
examples.first.click()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".asked")).to_have_text(text)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(question(compare)).to_have_value("not sent yet")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_answered(compare)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(compare, "tab.chat")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
for side in ("base", "tuned"):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    expect(compare.locator(f".side-{side} .facts")).to_contain_text("tokens/s")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".turn .status")).to_have_text(translate("en", "chat.measured_together"))
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
press(compare, "chat.clear")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".turn")).to_have_count(0)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".nothing p")).to_have_count(2)


def test_a_known_question_shows_the_expected_answer_and_an_answers_limit(compare):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
limit_answers(compare, 3)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
ask(compare, KNOWN.upper())
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".expected")).to_contain_text("The Wi-Fi password is otterlamp58.", timeout=LONG)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".expected mark").last).to_have_text("otterlamp58")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".facts .cut").first).to_have_text(translate("en", "chat.cut", tokens=3), timeout=LONG)


def test_html_in_questions_and_answers_has_no_effect(compare, hostile_service):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
unfold(compare, "chat.service_title")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
compare.get_by_label(translate("en", "chat.service_on")).check()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
for label, value in (("chat.service_url", hostile_service), ("chat.service_model", "toy")):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    fill(compare, translate("en", label), value)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
ask(compare, HOSTILE)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
answer = compare.locator(".side-service .text")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(answer.locator("strong")).to_have_text("bold", timeout=LONG)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(answer).to_contain_text("<script>window.hacked=1</script>")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(answer).to_contain_text("{{value}} ${1+1}")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".asked")).to_have_text(HOSTILE)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_answered(compare)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(compare, "tab.chat")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
assert compare.locator(".compare-log").locator("img, script, a[href^=javascript]").count() == 0
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
assert compare.evaluate("window.hacked") is None
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
compare.get_by_label(translate("en", "chat.service_on")).uncheck()


@pytest.mark.parametrize("key", ["strip.stop", "chat.clear"])
def test_stop_keeps_the_answers_so_far_and_clear_drops_them(compare, key):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
limit_answers(compare, 480)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
ask(compare, "Tell me everything.")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".asked")).to_have_text("Tell me everything.", timeout=LONG)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".side-tuned .text")).to_contain_text(re.compile(r"\w{2}"), timeout=LONG)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
press(compare, key)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator("#stop")).to_be_disabled(timeout=LONG)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".turn")).to_have_count(1 if key == "strip.stop" else 0)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_idle(compare)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(compare, "tab.chat")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".turn")).to_have_count(1 if key == "strip.stop" else 0)


def test_an_adapter_of_another_model_is_named_and_its_model_taken_in_one_click(compare, app):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(compare, "tab.load")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
choose(compare, translate("en", "load.model"), "somebody/else")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(compare, "tab.chat")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(notices(compare, "good")).to_contain_text("toy-llama")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(notices(compare, "good")).to_contain_text("else")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
press(compare, "chat.use_model")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(notices(compare, "good")).to_have_count(0)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(compare, "tab.load")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(visible_field(compare, translate("en", "load.model"))).to_have_value(str(app.model))


def test_by_keyboard_the_order_is_question_send_examples_and_focus_stays_in_the_question(compare):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
question(compare).focus()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
for selector in ("button.primary", ".gallery-item"):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    compare.keyboard.press("Tab")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    assert compare.evaluate("s => document.activeElement.matches(s)", selector)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
ask(compare, "What is blue?")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(question(compare)).to_be_focused()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_answered(compare)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
open_tab(compare, "tab.chat")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
question(compare).fill("And red?")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
press(compare, "chat.send")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(question(compare)).to_be_focused()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_answered(compare)


@pytest.mark.parametrize("width,height", [(1440, 900), (390, 844)])
def test_the_question_bar_is_always_in_view(compare, width, height):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
compare.set_viewport_size({"width": width, "height": height})
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
limit_answers(compare, 160)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
ask(compare, "Tell me a very long story, with everything that happened.")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
expect(compare.locator(".turn .status")).to_contain_text("measured", timeout=LONG)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
for top in (0, 300, 10_000):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    compare.evaluate("top => scrollTo(0, top)", top)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    compare.wait_for_timeout(100)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    assert compare.evaluate(IN_VIEW, "#question") or top == 10_000
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
compare.evaluate("scrollTo(0, 300)")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
assert compare.evaluate("document.documentElement.scrollWidth") <= width
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
wait_until_idle(compare)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
compare.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize("lang", LANGUAGES)
def test_examples_are_in_the_pages_language_and_without_an_adapter_one_click_leads_to_fine_tuning(browser, app, lang):
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
with open_page(browser, app, "" if lang == "en" else f"/{lang}") as page:
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    open_tab(page, "tab.chat", lang)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    choose(page, translate(lang, "chat.adapter"), translate(lang, "chat.none"))
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    examples = page.locator(".compare-ask .gallery-item")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    expect(examples).to_have_count(6)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    expect(examples.last).to_have_text(re.compile("Tokyo" if lang == "en" else "東大"))
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    page.wait_for_function(  # the examples follow the adapter a moment later
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
        """([items, ascii]) => [...document.querySelectorAll(items)]
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
          .every(item => /^[\\x00-\\x7f]*$/.test(item.innerText) === ascii)""",
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
        arg=[".compare-ask .gallery-item", lang == "en"],
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    )
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    tab = translate(lang, "tab.tune")
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    expect(notices(page, "good")).to_contain_text(tab)
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    page.get_by_role("button", name=translate(lang, "chat.go_tune", tab=tab)).click()
 A busy page sends the click seconds later. Until then it shows the turns of the test before, and would drop a
    expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
