"""The service's column in a real browser, next to a real model; the service is an HTTP server of this file."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from actions import LONG, choose_toy, fill, notices, open_tab, press, wait_until_answered, wait_until_idle
from playwright.sync_api import expect

from playground.i18n import translate

KEY = "sk-never-written-anywhere"


@pytest.fixture
def service():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()
            answer = f"{len(request['messages'])} heard, <b>{request['messages'][-1]['content']}</b>"
            self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": {"content": answer}}]}).encode() + b"\n\n")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_service_answers_next_to_the_models_and_its_key_is_never_stored(page, app, service):
    wait_until_idle(page)
    choose_toy(page, app)
    open_tab(page, "tab.chat")
    third, head = page.locator(".side-service"), page.locator(".head-service")
    expect(third).to_have_count(0)
    page.get_by_role("button", name=translate("en", "chat.service_title")).click()
    page.get_by_label(translate("en", "chat.service_on")).check()
    expect(head).to_be_visible()
    page.get_by_role("button", name=translate("en", "chat.generation")).click()
    fill(page, translate("en", "generation.max_new_tokens"), "32")  # the toy's context is short
    page.get_by_label(translate("en", "chat.ask")).fill("What is blue?")
    press(page, "chat.send")
    expect(notices(page)).to_contain_text("http://")
    for label, value in (("chat.service_url", service), ("chat.service_model", "toy")):
        fill(page, translate("en", label), value)
    page.locator("input[type=password]").fill(KEY)
    press(page, "chat.send")
    expect(third).to_contain_text("1 heard, <b>What is blue?</b>", timeout=LONG)
    expect(page.locator(".side-base .text")).to_be_visible(timeout=LONG)
    expect(page.get_by_label(translate("en", "chat.ask"))).to_have_value("")
    wait_until_answered(page)
    open_tab(page, "tab.chat")
    page.get_by_label(translate("en", "chat.ask")).fill("And then?")
    press(page, "chat.send")
    expect(third.last).to_contain_text("3 heard", timeout=LONG)
    wait_until_answered(page)
    assert not any(KEY in path.read_text(errors="replace") for path in app.runs.rglob("*") if path.is_file())
    open_tab(page, "tab.chat")
    fill(page, translate("en", "chat.service_url"), "http://127.0.0.1:9/v1")
    page.get_by_label(translate("en", "chat.ask")).fill("Still there?")
    press(page, "chat.send")
    expect(notices(page)).to_contain_text("can't be reached", timeout=LONG)
    expect(page.locator(".asked").last).to_have_text("Still there?")
    expect(third).to_have_count(2)
