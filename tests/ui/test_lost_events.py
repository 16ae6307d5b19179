"""No click is lost at the end of a stream of answers (quick_scripts.py and open_streams.py of playground/ui)."""

import json
import socket
import threading
import time
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


@pytest.fixture
def two_buttons():
    """The address of a page with a button that answers at once, and one that takes a second."""
    with gr.Blocks() as page:
        said = gr.Textbox(label="said")
        for word, seconds in (("one", 0.0), ("two", 1.0)):
            gr.Button(word).click(partial(_say, word, seconds), None, said, api_name=word)
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
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


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
