"""The opening picture: what a browser shows at once, until Gradio's scripts have built the page some seconds later.

It is the Plan tab's figure of what each technique saves, from the stored answers, so it is drawn before any script or
process has started. It stands in the document itself: what Gradio takes as `head` is added by its scripts, too late.
Its own script (assets/opening.js) removes it as soon as the page has a tab open.
"""

import re
from functools import partial
from html import escape

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground import ASSETS, catalog
from playground.catalog.cards import cards
from playground.i18n import LANGUAGES, translate
from playground.planning.client import read_stored_answers
from playground.ui import plan_figures

STYLES = ("figures.css", "opening.css")
ASKS_WHO = re.compile(rb'"auth_required"\s*:\s*true')  # in what Gradio's (6.31) document tells its scripts

# Around that form Gradio leaves the background of a block, from which the form's own then stands out as a hole.
FORM_STYLE = b"<style>.wrap.min-h-screen { background: none !important; }</style>"


class OpeningPicture:
    """Middleware that puts the picture into the documents of the pages. first: language of the page at `/`.

    It answers HEAD requests for them at once: at start Gradio sends one to its own page, and ends the program where
    none is answered within three seconds, which a busy machine may need to make the page.
    """

    def __init__(self, app: ASGIApp, first: str) -> None:
        self._app = app
        self._pictures = {f"/{code}": document_part(code).encode() for code in LANGUAGES}
        self._pictures["/"] = self._pictures[f"/{first}"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        picture = self._pictures.get(scope.get("path", "").rstrip("/") or "/")
        if picture is not None and scope.get("method") == "HEAD":
            await Response(media_type="text/html")(scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] != "GET" or picture is None:
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Inserting(send, picture))


class _Inserting:
    """Passes on a response, an HTML document with `part` at the beginning of its body."""

    def __init__(self, send: Send, part: bytes) -> None:
        self._send, self._part = send, part
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_document(message):
            self._start = message  # its length is known only with the whole body
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            body = insert(self._body, self._part)
            headers = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await self._send({**self._start, "headers": headers})
            await self._send({"type": "http.response.body", "body": body})


def insert(document: bytes, part: bytes) -> bytes:
    """Insert `part` after the document's <body> tag.

    A document without one is returned unchanged. One that asks who opens it (`--auth`) gets a style alone: its form
    would be covered.
    """
    part = FORM_STYLE if ASKS_WHO.search(document) else part
    tag = document.rfind(b"<body")
    end = document.find(b">", tag) + 1
    return document[:end] + part + document[end:] if tag >= 0 and end > 0 else document


def document_part(lang: str) -> str:
    """The picture with its style and script as HTML; without the figure where its answer isn't stored."""
    word, first = partial(translate, lang), catalog.first_plan()
    card = next(card for card in cards() if card["id"] == first["card"])
    steps = {entry["id"]: entry["answer"] for entry in read_stored_answers()}.get("waterfall", [])
    model = catalog.display_name(first["settings"]["load"]["model"])
    figure = plan_figures.waterfall(word, steps, card["bytes"]) if steps else ""
    subject = word("opening.model", model=model, gib=card["gib"], card=card["name"])
    title, wait, subject = map(escape, (word("app.title"), word("opening.wait"), subject))
    styles = "".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLES)
    script = (ASSETS / "opening.js").read_text(encoding="utf-8")
    return (
        f'<div class="opening" lang="{lang}"><style>{styles}</style><h1>{title}</h1>'
        f'<p class="wait" role="status">{wait}</p><p>{subject}</p>{figure}</div><script>{script}</script>'
    )


def _is_document(message: Message) -> bool:
    """Whether a response that starts is a whole HTML document, and not compressed yet."""
    headers = {name.lower(): value for name, value in message["headers"]}
    is_html = headers.get(b"content-type", b"").startswith(b"text/html")
    return message["status"] == 200 and is_html and b"content-encoding" not in headers
