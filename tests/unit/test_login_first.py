"""With a login, every route but those of its form answers 401 until somebody has logged in."""

import re

import gradio as gr
import httpx
import pytest
from gradio.routes import App
from run_async import run_async
from starlette.middleware import Middleware

from playground.i18n import translate
from playground.ui.login_first import LoginFirst, is_open
from playground.ui.visitors import cookies_of


@pytest.fixture(scope="module")
def app():
    """A page with a login, as Gradio makes it, behind the middleware."""
    with gr.Blocks() as page:
        gr.Textbox().change(lambda text: text, None, None, api_name="ask")
    page.auth, page.auth_message = [("ada", "secret")], None
    return App.create_app(page, app_kwargs={"middleware": [Middleware(LoginFirst, lang="en")]})


def _ask(
    app, calls: list[tuple[str, str]], login: dict[str, str] | None = None
) -> dict[tuple[str, str], httpx.Response]:
    async def ask() -> dict[tuple[str, str], httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            if login:
                assert (await client.post("/login", data=login)).status_code in (200, 400)
            return {(method, path): await client.request(method, f"http://x{path}") for method, path in calls}

    return run_async(ask())


def test_every_route_of_gradios_is_behind_the_login_but_those_of_its_form(app):
    routers = [app, *(route.original_router for route in app.routes if hasattr(route, "original_router"))]
    calls = [
        (method, re.sub(r"\{[^}]*\}", "x", route.path))
        for router in routers
        for route in router.routes
        for method in sorted(getattr(route, "methods", None) or ())
    ]
    closed = [(method, path) for method, path in calls if not is_open(path.removeprefix("/gradio_api"))]
    assert len(closed) > 60 and {"/gradio_api/cancel", "/gradio_api/heartbeat/x"} < {path for _, path in closed}
    for call, answer in _ask(app, [*closed, ("GET", "/nowhere"), ("POST", "/gradio_api/mcp/")]).items():
        assert answer.status_code == 401, call
        assert call[0] == "HEAD" or answer.json()["error"] == translate("en", "request.login")


@pytest.mark.parametrize(
    "path", ["//config", "/login/../config", "/static/../config", "/loginx", "/gradio_api//cancel"]
)
def test_a_path_that_only_looks_like_the_forms_tells_nothing(app, path):
    [answer] = _ask(app, [("GET", path)]).values()
    assert answer.status_code in (401, 404) and "components" not in answer.text


def test_the_form_is_served_and_a_login_opens_the_rest(app):
    assert all(answer.status_code != 401 for answer in _ask(app, [("GET", "/"), ("GET", "/theme.css")]).values())
    config = ("GET", "/config")
    assert _ask(app, [config], {"username": "ada", "password": "wrong"})[config].status_code == 401
    assert _ask(app, [config], {"username": "ada", "password": "secret"})[config].status_code == 200


@pytest.mark.parametrize(
    "other",
    ['theme={"dark":true, "size":2}', "name=青い", "version=1.2", "path=/a", "=", "flag", 'a="x; y"', "a[=c d"],
)
def test_cookies_of_other_apps_on_the_host_hide_none_of_ours(other):
    header = f"{other}; playground_visitor=ab.cd; {other}; access-token-x=t_1-2"
    found = cookies_of({"headers": [(b"host", b"x"), (b"cookie", header.encode())]})
    assert (found["playground_visitor"], found["access-token-x"]) == ("ab.cd", "t_1-2")


def test_cookies_may_come_in_several_headers():
    """HTTP/2 allows it, and a proxy may pass them on as they are."""
    assert cookies_of({"headers": [(b"cookie", b"a=1"), (b"cookie", b"b=2; c=3")]}) == {"a": "1", "b": "2", "c": "3"}
    assert cookies_of({"headers": []}) == {}
