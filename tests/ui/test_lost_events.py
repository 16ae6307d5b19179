"""A click that comes while Gradio's stream of answers ends is answered too (playground/ui/quick_scripts.py)."""

import socket
import threading
import time

import gradio as gr
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import expect

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
    with gr.Blocks() as page:
        said = gr.Textbox(label="said")
        for word in ("one", "two"):
            gr.Button(word).click(lambda word=word: word, None, said)
    app = gr.mount_gradio_app(FastAPI(), page, path="/")
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


def test_a_click_before_the_page_reads_of_the_streams_end_is_answered(browser, two_buttons):
    page = browser.new_page()
    page.add_init_script(LATE_END)
    page.goto(two_buttons)
    for word in ("one", "two", "one"):
        page.get_by_role("button", name=word).click()
        expect(page.get_by_label("said")).to_have_value(word, timeout=15_000)
    page.close()
