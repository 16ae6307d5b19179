"""No click is lost at the end of a stream of answers (quick_scripts.py and open_streams.py of playground/ui)."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import gradio as gr
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import expect

from playground.ui.open_streams import OpenStreams
from playground.ui.quick_scripts import QuickScripts

# A busy page reads the end of the stream later than it comes.
LATE_END = """
const fetched = window.fetch;
window.fetch = async (...args) => {
  const response = await fetched(...args);
  if (!response.url.includes("/queue/data")) return response;
  const late = new TransformStream({
    async transform(part, out) {
      if (new TextDecoder().decode(part).includes("close_stream")) await new Promise((done) => setTimeout(done, 2000));
      out.enqueue(part);
    },
  });
  return new Response(response.body.pipeThrough(late), response);
};
"""

# A busy page takes a while to collect the values that it sends.
SLOWLY_COLLECTED = """async (...values) => {
  await new Promise((done) => setTimeout(done, 500));
  return values;
}"""


@contextmanager
def served(page: gr.Blocks) -> Iterator[str]:
    """The address of a page, served as app.py serves its own."""
    app = gr.mount_gradio_app(FastAPI(), page, path="/")
    app.routes[-1].app.add_middleware(OpenStreams)
    app.add_middleware(QuickScripts)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def two_buttons():
    """The address of a page with a button that answers at once, and one that takes a second."""
    with gr.Blocks() as page:
        said = gr.Textbox(label="said")
        for word, seconds in (("one", 0.0), ("two", 1.0)):
            gr.Button(word).click(partial(_say, word, seconds), None, said, api_name=word)
    with served(page) as address:
        yield address


def _say(word: str, seconds: float) -> str:
    time.sleep(seconds)
    return word


def test_a_click_before_the_page_reads_of_the_streams_end_is_answered(browser, two_buttons):
    page = browser.new_page()
    page.add_init_script(LATE_END)
    page.goto(two_buttons)
    for word in ("one", "two", "one"):
        page.get_by_role("button", name=word).click()
        expect(page.get_by_label("said")).to_have_value(word, timeout=15_000)
    page.close()


@pytest.mark.parametrize("fails", [False, True])
def test_of_two_changes_shortly_after_each_other_the_later_is_answered_last(browser, fails):
    asked: list[tuple] = []

    def total(one: str, two: str) -> str:
        asked.append((one, two))
        number = len(asked)
        if number == 1:  # the answer to the first question is the slower one
            time.sleep(1)
            if fails:
                raise gr.Error("the first fails")
        return f"{one} {two}, question {number}"

    with gr.Blocks() as page:
        one, two, said = gr.Textbox("", label="one"), gr.Textbox("", label="two"), gr.Textbox(label="said")
        gr.Button("fill").click(lambda: ("1", "2"), None, [one, two])
        only_last: dict = {"trigger_mode": "always_last", "queue": False}
        gr.on([one.change, two.change], total, [one, two], said, js=SLOWLY_COLLECTED, **only_last)
    with served(page) as address:
        opened = browser.new_page()
        opened.goto(address)
        opened.get_by_role("button", name="fill").click()
        expect(opened.get_by_label("said")).to_have_value("1 2, question 2", timeout=15_000)
        opened.wait_for_timeout(1500)  # the slow answer would be there
        expect(opened.get_by_label("said")).to_have_value("1 2, question 2")
        assert len(asked) == 2
        opened.close()


def test_an_old_stream_that_breaks_off_leaves_the_new_ones_answers(two_buttons):
    session = {"session_hash": "s"}
    with httpx.Client(base_url=f"{two_buttons}/gradio_api", timeout=10) as client:
        event = client.post("/queue/join", json={"fn_index": 1, "data": [], **session}).json()["event_id"]
        with client.stream("GET", "/queue/data", params=session) as new:
            lines = new.iter_lines()
            next(lines)  # both are open, and the event is under way
            with client.stream("GET", "/queue/data", params=session):
                time.sleep(0.2)
            messages = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert ("process_completed", event) in [(message["msg"], message.get("event_id")) for message in messages]
