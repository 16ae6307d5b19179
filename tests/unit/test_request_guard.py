"""The guard before Gradio, over an application that repeats what reaches it."""

import json
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from run_async import run_async
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.errors import PlaygroundError
from playground.ui.request_guard import MAX_BODY_BYTES, RequestGuard
from playground.ui.request_values import checked_data

HALF = b"\\ud83d"


def _served(status: int = 200, answer: dict | None = None) -> Starlette:
    """An application with one listener, 7, that programs call as "ask", and one server function of component 1."""

    async def repeat(request: Request) -> Response:
        body = await request.body()
        if answer is not None or not request.headers["content-type"].startswith("application/json"):
            return JSONResponse(answer or {"bytes": len(body)}, status)
        return Response(body, status)

    async def fail(request: Request) -> Response:
        raise KeyError("x")

    with gr.Blocks():
        inputs = [
            gr.Textbox(),
            gr.Number(),
            gr.State([]),
            gr.Dropdown(["a"], multiselect=True),
            gr.Checkbox(),
            gr.File(),
        ]

    def since(request: object) -> None:
        """A server function."""

    since._is_server_fn = True
    listener = SimpleNamespace(inputs=inputs, api_name="ask", api_visibility="public")
    named = {"named_endpoints": {"/ask": {"parameters": [{"parameter_name": "question"}]}}}
    view = SimpleNamespace(since=since, other=repeat)
    blocks = SimpleNamespace(fns={7: listener}, blocks={1: view}, get_api_info=lambda: named)
    routes = [
        Route("/fail", fail),
        Route("/login/callback", fail),
        Route("/{path:path}", repeat, methods=["GET", "POST"]),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(RequestGuard, lang="en", most_upload=1000)])
    app.get_blocks = lambda: blocks
    return app


def _post(path: str, body: object = None, raw: bytes | None = None, app: Starlette | None = None, **headers: str):
    """The answer to a call below Gradio's prefix."""
    content = json.dumps(body).encode() if raw is None else raw
    sent = {"content-type": "application/json", **headers}

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app or _served(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post(f"/gradio_api/{path}", content=content, headers=sent)

    return run_async(ask())


GOOD = ["q", 3, None, ["a"], True, None]


def test_a_right_call_passes_unchanged():
    body = {
        "data": GOOD,
        "fn_index": 7,
        "session_hash": "s",
        "trigger_id": 1,
        "event_data": {"index": 1, "value": 2, "run": "x"},
    }
    for path in ("run/predict", "run/predict/", "api/ask", "queue/join"):
        answer = _post(path, body)
        assert answer.status_code == 200 and answer.json() == body
    by_program = [value for number, value in enumerate(GOOD) if number != 2]
    assert _post("call/ask", {"data": by_program}).status_code == 200
    assert _post("call/v2/ask", {"question": "q"}).status_code == 200
    ask = {"data": [1], "component_id": 1, "fn_name": "since", "session_hash": "s"}
    assert _post("component_server", ask).json() == ask


@pytest.mark.parametrize(
    "place,value",
    [
        (0, []),
        (0, {}),
        (0, True),
        (1, "3"),
        (1, True),
        (1, 2**70),
        (1, []),
        (3, "a"),
        (3, [[]]),
        (3, ["a"] * 2000),
        (4, 1),
        (4, "x"),
        (5, "x"),
        (5, {"path": 3}),
        (5, {"path": "a\x00"}),
        (5, [3]),
        (5, {"path": "x", "meta": 3}),
    ],
)
def test_a_value_of_a_type_that_no_component_sends_is_refused(place, value):
    data = [*GOOD[:place], value, *GOOD[place + 1 :]]
    answer = _post("run/predict", {"data": data, "fn_index": 7})
    assert answer.status_code == 422 and answer.json()["error"]


def test_a_state_that_comes_back_from_a_browser_is_ignored():
    """Conversations are kept on the server; nobody can put answers, or objects, into them."""
    sent = [*GOOD[:2], [{"question": "q", "answers": {"base": {"text": ["x"]}}}], *GOOD[3:]]
    assert _post("run/predict", {"data": sent, "fn_index": 7}).json()["data"] == GOOD


@pytest.mark.parametrize(
    "change,status",
    [
        ({"data": GOOD[:-1]}, 422),
        ({"data": [*GOOD, 1]}, 422),
        ({"data": None}, 422),
        ({"data": {"a": 1}}, 422),
        ({"fn_index": 8}, 404),
        ({"fn_index": -1}, 422),
        ({"fn_index": "7"}, 422),
        ({"fn_index": True}, 422),
        ({"trigger_id": "x"}, 422),
        ({"session_hash": "x" * 65}, 422),
        ({"session_hash": 3}, 422),
        ({"session_hash": "\n"}, 422),
        ({"event_id": []}, 422),
        ({"batched": True}, 422),
    ],
)
def test_a_call_of_wrong_form_is_refused(change, status):
    answer = _post("run/predict", {"data": GOOD, "fn_index": 7, **change})
    assert answer.status_code == status and answer.json()["detail"]


@pytest.mark.parametrize(
    "change,status",
    [
        ({"component_id": 2}, 404),
        ({"component_id": "1"}, 404),
        ({"component_id": True}, 404),
        ({"fn_name": "other"}, 404),
        ({"fn_name": "__class__"}, 404),
        ({"fn_name": []}, 404),
        ({"session_hash": None}, 422),
    ],
)
def test_only_server_functions_are_called(change, status):
    body = {"data": 1, "component_id": 1, "fn_name": "since", "session_hash": "s", **change}
    assert _post("component_server", body).status_code == status


@pytest.mark.parametrize(
    "raw,status",
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"data": ' + b"9" * 5000 + b"}", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}", 422),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
def test_a_body_that_is_no_small_object_is_refused(raw, status):
    assert _post("run/predict", raw=raw).status_code == status


def test_text_is_made_valid_and_what_json_lacks_becomes_null():
    raw = b'{"data": ["' + HALF + b'", NaN, null, ["a"], true, null], "fn_index": 7}'
    assert _post("run/predict", raw=raw).json()["data"] == ["\ufffd", None, None, ["a"], True, None]
    pair = b'{"data": ["\\ud83d\\ude00", 1, null, [], true, null], "fn_index": 7}'
    assert _post("run/predict", raw=pair).json()["data"][0] == "😀"


@pytest.mark.parametrize("path", ["run/predict", "vibe-edit", "mcp/", "cancel"])
def test_no_call_has_infinities_or_halves_of_characters(path):
    """Also of routes that Gradio checks alone: its error repeats the value, and can't be written then."""
    raw = b'{"fn_index": 7, "data": [null, 1e999, null, ["' + HALF + b'"], true, null], "' + HALF + b'": -1e400}'
    assert _post(path, raw=raw).json() == {"fn_index": 7, "data": [None, None, None, ["\ufffd"], True, None]} | (
        {"\ufffd": None} | ({"event_data": {"index": None, "value": None}} if path == "run/predict" else {})
    )
    assert _post("vibe-edit", raw=b"Infinity").status_code == 422


def test_an_event_names_no_file():
    """Gradio takes one for an upload, and answers with a traceback in the log where it isn't."""
    file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    body = {"data": GOOD, "fn_index": 7, "event_data": {"value": file, "run": [file, {"a": file}]}}
    assert _post("run/predict", body).json()["event_data"] == {"index": None, "value": None, "run": [None, {"a": None}]}
    assert _post("run/predict", body | {"event_data": file}).json()["event_data"] == {"index": None, "value": None}


def test_a_number_becomes_digits_where_text_belongs():
    with gr.Blocks():
        inputs = [gr.HTML(), gr.Textbox(), gr.Number(), gr.Dropdown(["a"])]
    assert checked_data(inputs, [-1, 2.5, 3, 4]) == ["-1", "2.5", 3, 4]


def test_files_are_those_that_were_uploaded(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks():
        button, file, files = gr.UploadButton(), gr.File(), gr.File(file_count="multiple")
    uploaded = {"path": str(tmp_path / "a" / "x.json"), "meta": {"_type": "gradio.FileData"}}
    foreign = uploaded | {"path": str(tmp_path / ".." / "x.json")}
    for component, value in ((file, None), (button, uploaded), (files, [uploaded, uploaded]), (files, [])):
        assert checked_data([component], [value]) == [value]
    for component, value in (
        (button, None), (button, []), (button, foreign), (files, [foreign]), (files, uploaded), (file, [uploaded])
    ):  # fmt: skip
        with pytest.raises(PlaygroundError):
            checked_data([component], [value])


def test_a_slider_has_a_number_and_a_list_no_truth_value():
    with gr.Blocks():
        slider, number, choice = gr.Slider(1, 3), gr.Number(), gr.Dropdown(["a"], allow_custom_value=True)
    assert checked_data([slider, number, choice], [2, None, 7]) == [2, None, "7"]
    for component, value in ((slider, None), (choice, True)):
        with pytest.raises(PlaygroundError):
            checked_data([component], [value])


def test_uploads_have_a_limit_and_server_functions_take_none():
    form = {"content-type": "multipart/form-data; boundary=b"}
    assert _post("upload", raw=b"x" * 900, **form).json() == {"bytes": 900}
    assert _post("upload", raw=b"x" * 3_000_000, **form).status_code == 413
    for path in ("component_server", "run/predict", "queue/join", "anything"):
        assert _post(path, raw=b"x", **form).status_code == 415


def test_a_call_that_another_sites_page_could_send_unasked_is_refused():
    """A browser asks before it sends JSON to another site; a form or a text it just sends."""
    body = {"data": GOOD, "fn_index": 7}
    assert _post("run/predict", body, **{"content-type": "Application/JSON; charset=utf-8"}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "text/plain; application/json", ""):
        refused = _post("run/predict", body, **{"content-type": kind})
        assert refused.status_code == 415 and "application/json" in refused.json()["error"]


@pytest.mark.parametrize("name", ["content-type", "content-length", "host", "origin"])
def test_a_header_that_stands_twice_is_refused(name):
    """The guard would check one of the two, and Gradio read the other."""
    twice = [("content-type", "application/json"), (name, "1"), (name, "2")]
    request = httpx.Request("POST", "http://x/gradio_api/run/predict", headers=twice, content=b"{}")

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(_served())) as client:
            return await client.send(request)

    refused = run_async(ask())
    assert refused.status_code == 400 and name in refused.json()["error"]


def test_an_upload_without_a_length_is_stopped_at_the_limit():
    async def blocks():
        for _ in range(40):
            yield b"x" * 100_000

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(_served()), base_url="http://x") as client:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            return await client.post("/gradio_api/upload", content=blocks(), headers=headers)

    assert run_async(ask()).status_code == 413


def _got(path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(_served(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path)

    return run_async(ask())


def test_a_sentence_gets_422_and_a_defect_stays_500():
    body = {"data": GOOD, "fn_index": 7}
    assert _post("run/predict", body, app=_served(500, {"error": "Too large."})).status_code == 422
    assert _post("run/predict", body, app=_served(500, {"error": None})).status_code == 500


def test_a_defect_of_the_application_is_a_sentence_without_a_traceback():
    answer = _got("/fail")
    assert answer.status_code == 500 and "KeyError" in answer.json()["error"] and "Traceback" not in answer.text


def test_a_sign_in_that_the_hub_does_not_answer_is_a_sentence():
    answer = _got("/login/callback")
    assert answer.status_code == 502 and "Signing in with Hugging Face failed: KeyError" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers", [{"x-forwarded-host": "a\tb<"}, {"host": "x" * 400}, {"x-gradio-server": "http://["}]
)
def test_headers_that_no_address_can_be_made_of_are_refused(headers):
    assert _post("run/predict", {"data": GOOD, "fn_index": 7}, **headers).status_code == 400
