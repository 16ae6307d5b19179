"""Polls for a run's news are answered in the event loop: with what Gradio would answer, and nothing that takes long."""

import json
import math
from types import SimpleNamespace

import httpx
import pytest
from run_async import run_async
from starlette.responses import JSONResponse

from playground import runs
from playground.settings import Settings
from playground.ui import launch, live_view
from playground.ui.quick_polls import QUICK, QuickPolls
from playground.ui.shared_page import SharedPage

STATE = {"run": None, "busy": False, "engine": "off", "loaded": None, "memory": None}
CALL = {"component_id": 3, "fn_name": "since", "data": {"cursor": 1}, "session_hash": "x"}


def _post(path, call, component):
    """Status and JSON of a call, and the bodies that the application behind the middleware received."""
    received = []

    async def application(scope, receive, send):
        received.append((await receive())["body"])
        await JSONResponse({"by": "gradio"})(scope, receive, send)

    middleware = QuickPolls(application)
    blocks = SimpleNamespace(blocks={3: component})

    async def served(scope, receive, send):
        await middleware({**scope, "app": SimpleNamespace(get_blocks=lambda: blocks)}, receive, send)

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=served), base_url="http://test") as client:
            return await client.post(path, json=call)

    answer = run_async(ask())
    return answer.status_code, answer.json(), received


def _component(quick):
    def since(request):
        raise AssertionError("Gradio calls it, not the middleware")

    if quick:
        setattr(since, QUICK, quick)
    return SimpleNamespace(since=since, other=lambda request: None)


def test_a_function_with_a_quick_form_is_answered_without_gradio():
    component = _component(lambda request: {"asked": request, "loss": math.nan})
    status, answer, received = _post("/gradio_api/component_server", CALL, component)
    assert (status, answer, received) == (200, {"asked": {"cursor": 1}, "loss": None}, [])


@pytest.mark.parametrize(
    "path,changes,quick",
    [
        ("component_server", {}, lambda request: None),  # it would take longer
        ("component_server", {}, None),
        ("component_server", {"fn_name": "other"}, lambda request: {}),
        ("run/predict", {}, lambda request: {}),
    ],
)
def test_every_other_call_reaches_gradio_whole(path, changes, quick):
    call = CALL | changes
    status, answer, received = _post(f"/gradio_api/{path}", call, _component(quick))
    assert (status, answer) == (200, {"by": "gradio"}) and [json.loads(body) for body in received] == [call]


def test_the_quick_form_says_what_the_function_says(tmp_path, monkeypatch):
    run = runs.create(tmp_path, "tune", Settings())
    since = live_view.live_view("en", lambda: tmp_path, lambda: STATE | {"run": run.id}).since
    quick = getattr(since, QUICK)
    for request in ({}, {"run": run.id, "cursor": run.size()}, None, {"cursor": -1}, {"follow": "none"}):
        assert quick(request) | {"wait_s": 0} == since(request) | {"wait_s": 0}
    assert quick({"run": run.id, "cursor": run.size()})["wait_s"] > 0
    monkeypatch.setattr(live_view, "NEWS", 100)
    assert run.size() > 100 and quick({}) is None and quick({"run": run.id, "cursor": run.size()}) is not None
    run.append("note", text="x" * 101)
    assert quick({"run": run.id, "cursor": run.size() - 100}) is not None
    assert quick({"run": "another", "cursor": run.size()}) is None


def test_only_where_gradio_need_not_find_out_who_asks(tmp_path):
    pages = {"private": {"shared": None}, "login": {"shared": None, "has_login": True}}
    pages["shared"] = {"shared": SharedPage(tmp_path)}
    having = []
    for page, options in pages.items():
        middleware = launch.launch_options("en", **options)["app_kwargs"]["middleware"]
        having += [page] * (QuickPolls in [one.cls for one in middleware])
    assert having == ["private"]
