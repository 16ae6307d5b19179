"""Signing in with Hugging Face on a Space: where it is offered, whose token is used, and whose runs are seen."""

import time
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio import oauth
from gradio.context import LocalContext
from toys import keys

from playground.errors import PlaygroundError
from playground.ui import export_view, sign_in
from playground.ui.visitor_logins import VisitorLogins
from playground.ui.visitors import logged_in_as

HUB = ("hub", "q8_0", "adapter", "ada/toy", "", False)  # an order, as the form has it
OAUTH = {"OAUTH_CLIENT_ID": "c", "OAUTH_CLIENT_SECRET": "s", "OAUTH_SCOPES": "o", "OPENID_PROVIDER_URL": "http://x"}


def page(private: bool = False) -> SimpleNamespace:
    return SimpleNamespace(private=private, translate=lambda key, **values: key)


def login(expires: float = 3600) -> dict:
    info = {"access_token": "token-of-ada", "userinfo": {"sub": "1"}, "expires_at": time.time() + expires}
    return {"session": {"oauth_info": info}}


def as_visitor(scope: dict, values: tuple, token: str = "", private: bool = False) -> str:
    """The token that an export by the visitor of that request uses."""
    set_to = LocalContext.request.set(SimpleNamespace(request=SimpleNamespace(scope=scope)))
    try:
        return export_view._token(page(private), values, token)
    finally:
        LocalContext.request.reset(set_to)


@pytest.fixture
def space(monkeypatch):
    """A Space with OAuth, and with the packages that Gradio needs for it."""
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "a/b")
    for name, value in OAUTH.items():
        monkeypatch.setattr(oauth, name, value)
    monkeypatch.setattr(sign_in.importlib.util, "find_spec", lambda name: name)


def test_it_is_offered_on_a_space_with_oauth_alone(space, monkeypatch):
    assert sign_in.is_offered(page()) and not sign_in.is_offered(page(private=True))
    for missing in ("OAUTH_SCOPES", "SYSTEM", "authlib"):
        with monkeypatch.context() as patch:
            patch.setenv("SYSTEM", "" if missing == "SYSTEM" else "spaces")
            patch.setattr(oauth, "OAUTH_SCOPES", None if missing == "OAUTH_SCOPES" else "o")
            patch.setattr(sign_in.importlib.util, "find_spec", lambda name, lacks=missing: name != lacks)
            assert not sign_in.is_offered(page())
            with gr.Blocks():
                assert sign_in.build(page()) is None


def test_the_button_is_gradios_and_is_shown_where_something_is_pushed(space, monkeypatch):
    monkeypatch.setattr("gradio.routes.attach_oauth", lambda app: None)  # the routes need packages that a Space has
    with gr.Blocks() as app:
        button = sign_in.build(page())
    assert isinstance(button, gr.LoginButton) and not button.visible and app.expects_oauth
    assert app.get_api_info()["named_endpoints"]  # what it asks at each load
    sign_in.keep_private(app)
    assert not app.get_api_info()["named_endpoints"]


def test_a_push_takes_the_visitors_own_token_and_never_the_owners(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "token-of-owner")
    assert as_visitor(login(), HUB) == "token-of-ada"
    assert as_visitor(login(), HUB, "token-in-the-field") == "token-in-the-field"
    assert as_visitor(login(), ("adapter", *HUB[1:])) == ""
    for scope in ({}, {"session": {}}, login(expires=-1), {"session": {"oauth_info": {}}}):
        with pytest.raises(PlaygroundError) as refused:
            as_visitor(scope, HUB)
        assert keys(refused) == ["error.export_token"]
    assert as_visitor(login(), HUB, private=True) == "token-of-owner"


def test_a_login_that_has_expired_is_none():
    assert logged_in_as(login(), {}) == "oauth:1" and logged_in_as(login(expires=-1), {}) == ""


def test_runs_made_before_signing_in_stay_and_nobody_else_gets_them():
    logins = VisitorLogins({"cookie-a", "ben"}.__contains__)
    assert logins.visitor("cyd", "cookie-new") == "cyd", "nothing was made before"
    assert logins.visitor("ada", "cookie-a") == "cookie-a"
    assert logins.visitor("ada", "") == logins.visitor("ada", "cookie-b") == "cookie-a", "in another browser too"
    assert logins.visitor("eve", "cookie-a") == "eve", "who signs in in the same browser later"
    assert logins.visitor("ben", "cookie-a") == "ben", "who has runs by that name"
