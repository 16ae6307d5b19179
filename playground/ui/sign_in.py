"""Sign in with Hugging Face, on a Space whose README says `hf_oauth: true`: a push then needs no token typed in.

Gradio (6.31) has the button, the routes and the signed cookie that holds the visitor's token; it is taken from the
visitor's own request, goes to the export that it asks for, and is kept nowhere. Elsewhere there is no button.
"""

import importlib.util
from collections.abc import MutableMapping
from typing import Any

import gradio as gr
from gradio import oauth
from gradio.context import LocalContext
from gradio.utils import get_space

from playground.ui.page import Page
from playground.ui.visitors import login_of

PACKAGES = ("authlib", "itsdangerous")  # that Gradio needs for it: Spaces install them, with gradio[oauth]


def is_offered(page: Page) -> bool:
    """Whether visitors can sign in here: on a Space that has OAuth, and where Gradio has what it needs."""
    variables = (oauth.OAUTH_CLIENT_ID, oauth.OAUTH_CLIENT_SECRET, oauth.OAUTH_SCOPES, oauth.OPENID_PROVIDER_URL)
    is_space = get_space() is not None and not page.private
    return is_space and all(variables) and all(importlib.util.find_spec(name) for name in PACKAGES)


def build(page: Page) -> gr.LoginButton | None:
    """The button, hidden; None where nobody can sign in."""
    if not is_offered(page):
        return None
    out = page.translate("sign_in.out", name="{}")  # Gradio puts the name in
    return gr.LoginButton(page.translate("sign_in.button"), out, size="md", visible=False, elem_id="sign-in")


def keep_private(app: gr.Blocks) -> None:
    """Make no endpoint for programs of what the button asks at each load, as Gradio would."""
    for listener in app.fns.values():
        if isinstance(getattr(listener.fn, "__self__", None), gr.LoginButton):
            listener.api_visibility = "private"


def token_of_visitor() -> str:
    """The token of the visitor whose request is being answered, "" if they haven't signed in or it has expired."""
    request: Any = LocalContext.request.get(None)
    scope = getattr(getattr(request, "request", request), "scope", None)
    login = login_of(scope) if isinstance(scope, MutableMapping) else {}
    return str(login.get("access_token") or "")
