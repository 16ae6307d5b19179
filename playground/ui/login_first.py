"""With a login by name and password, nothing but its form is there for those who haven't logged in.

Gradio (6.31) leaves some routes open: ending an event by its id, streams without an end, ids of the program. And what
checks a call before Gradio sees it would tell which endpoints there are.
"""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from playground.errors import Problem
from playground.i18n import LANGUAGES
from playground.ui.visitors import cookies_of, password_login, route_of_gradio

# What a browser needs for the form. Gradio shows it on the pages themselves, and keeps their content to itself.
PAGES = ("", *(f"/{lang}" for lang in LANGUAGES), "/login", "/logout")
FILES = ("/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/startup-events", "/login_check", "/pwa_icon")
FOLDERS = ("/static/", "/assets/", "/svelte/", "/pwa_icon/")
UNAUTHORIZED = 401


class LoginFirst:
    """Middleware. lang: of the sentence for programs that come without a login."""

    def __init__(self, app: ASGIApp, lang: str) -> None:
        self._app, self._lang = app, lang

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_open(route_of_gradio(scope)) or password_login(scope, cookies_of(scope)):
            await self._app(scope, receive, send)
            return
        text = Problem("request.login", {}).text(self._lang)
        await JSONResponse({"error": text, "detail": text}, UNAUTHORIZED)(scope, receive, send)


def is_open(route: str) -> bool:
    """Whether a route, without Gradio's prefix, belongs to the login's form."""
    return route.rstrip("/") in (*PAGES, *FILES) or route.startswith(FOLDERS)
