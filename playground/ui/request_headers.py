"""What a request's path and headers may be: of bounded length, none twice that decides how the rest is read.

A browser lets another site's page send a form, or JSON that claims to be text, without asking; so calls are JSON by
their header too (`check_kind`), and files go to the one route that takes them.
"""

import re

from starlette.types import Scope

from playground.errors import PlaygroundError, problem
from playground.ui.request_values import shown

MAX_PATH_CHARACTERS = 4096  # with the query
MAX_HEADER_CHARACTERS = 300  # of one that Gradio makes an address from
CONTROLS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
ADDRESS_HEADERS = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
# Programs disagree on which of two counts: the guard would check what Gradio doesn't read.
SINGLE_HEADERS = (b"host", b"origin", b"content-type", b"content-length", b"transfer-encoding", b"sec-fetch-site")
CLIENT_ERROR, NOT_FOUND, TOO_LARGE, WRONG_KIND, INVALID = 400, 404, 413, 415, 422


class Refused(Exception):
    """A request that isn't passed on: its status and why."""

    def __init__(self, status: int, error: PlaygroundError) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


def check_headers(scope: Scope) -> None:
    """Refuse a path that is too long or no text, a header that stands twice, and one that no address can be made from.

    Raises Refused.
    """
    path, query = scope.get("path", ""), scope.get("query_string", b"")
    if len(path) + len(query) > MAX_PATH_CHARACTERS or CONTROLS.search(path):
        raise Refused(CLIENT_ERROR, problem("request.path", characters=len(path) + len(query)))
    seen = set()
    for name, value in scope["headers"]:
        header, sent = name.decode("latin-1"), value.decode("latin-1")
        if name in seen:
            raise Refused(CLIENT_ERROR, problem("request.twice", field=header))
        if name in SINGLE_HEADERS:
            seen.add(name)
        if name in ADDRESS_HEADERS and (len(value) > MAX_HEADER_CHARACTERS or not _is_address(sent)):
            raise Refused(CLIENT_ERROR, problem("request.value", field=header, value=shown(sent)))


def kind_of(headers: dict[bytes, bytes]) -> str:
    """The media type of a body, without its parameters; "" where the header is missing."""
    return headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()


def check_kind(kind: str, is_call: bool, takes_form: bool) -> None:
    """Raise Refused for a body of another kind than a route takes: a form with files, or no JSON for a call."""
    if kind.startswith("multipart/") and not takes_form:
        raise Refused(WRONG_KIND, problem("request.no_form"))
    if is_call and kind != "application/json":
        raise Refused(WRONG_KIND, problem("request.json_kind", value=shown(kind)))


def check_length(headers: dict[bytes, bytes], most: int) -> None:
    """Raise Refused for a body that claims to be larger, and for a length that is no number."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 15 or int(length) > most:
        raise Refused(TOO_LARGE, problem("request.too_large", most_bytes=most))


def _is_address(text: str) -> bool:
    return all(letter.isalnum() or letter in ".-_:/[], " for letter in text) and text.count("[") == text.count("]")
