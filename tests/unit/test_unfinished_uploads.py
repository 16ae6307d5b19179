"""What an upload leaves behind that breaks off, is refused, or ends."""

import gradio as gr
import pytest
from gradio.routes import App
from run_async import run_async
from starlette.middleware import Middleware

from playground.ui.request_guard import RequestGuard
from playground.ui.unfinished_uploads import UnfinishedUploads

HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n'
END = b"\r\n--x--\r\n"


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """`upload(*parts)`: the status of an upload of these parts of a body or None, and what is left of it."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    with gr.Blocks() as blocks:
        gr.File()
    blocks.max_file_size = None
    guard = Middleware(RequestGuard, lang="en", most_upload=0)
    app = App.create_app(blocks, app_kwargs={"middleware": [guard, Middleware(UnfinishedUploads)]})

    def send_parts(*parts):
        waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        if parts[-1].endswith(END):
            waiting[-1]["more_body"] = False
        waiting.append({"type": "http.disconnect"})
        sent = []

        async def receive():
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "query_string": b"", "root_path": ""}
        scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("localhost", 80)}
        scope |= {"client": ("127.0.0.1", 1), "raw_path": b"/gradio_api/upload"}
        run_async(app(scope, receive, send))
        status = next((message["status"] for message in sent if message["type"] == "http.response.start"), None)
        return status, [path for path in folder.rglob("*") if path.is_file()]

    return send_parts


def test_an_upload_that_ends_is_kept(upload):
    status, [kept] = upload(HEAD + b"abc", b"def" + END)
    assert status == 200 and kept.read_bytes() == b"abcdef"


@pytest.mark.parametrize("parts", [(HEAD + b"abc",), (HEAD, b"a" * 1000), (HEAD + b"abc", b"\r\n--x\r\nnothing")])
def test_one_that_breaks_off_leaves_nothing(upload, parts):
    status, left = upload(*parts)
    assert status != 200 and left == []


def test_one_beyond_the_limit_leaves_nothing(upload):
    assert upload(HEAD, b"a" * 2**20, b"a" * 2**20 + END) == (413, [])
