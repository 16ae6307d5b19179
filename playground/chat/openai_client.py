"""A streaming client for any service with OpenAI's chat completions API, for a third answer next to base and tuned.

The talk begins with such a service and says why not to depend on one. What is sent leaves this machine; the key is kept
for the one request, and neither is written to disk.
"""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from playground.errors import PlaygroundError, Problem, as_playground_error, problem
from playground.settings import Generation

CONNECT_TIMEOUT = 6.0  # seconds
READ_TIMEOUT = 60.0  # seconds between two pieces of an answer
MAX_CHARACTERS = 100_000  # of an answer; after them the connection is closed, for services that never end
MAX_LINE = 1_000_000  # characters: an answer of MAX_CHARACTERS in one JSON line, each of them escaped
MAX_ERROR_BYTES = 20_000
HIDDEN_KEY = "•••"  # in the place of a key that a service echoes


@dataclass(frozen=True)
class Service:
    """Address, model and key of a service. base_url as OpenAI's clients take it, such as http://127.0.0.1:11434/v1."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)


def service_problems(service: Service) -> list[Problem]:
    """Return everything that is wrong with a service as it was typed in."""
    problems = []
    try:
        parts = urlsplit(service.base_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        usable = False
    if not usable:
        problems.append(Problem("problem.service_url", {"url": service.base_url[:120]}))
    if not service.model.strip():
        problems.append(Problem("problem.service_model"))
    if not service.key.isascii() or any(c.isspace() for c in service.key.strip()):
        problems.append(Problem("problem.service_key"))
    return problems


def stream_answer(
    service: Service, messages: Sequence[dict], generation: Generation, stop: threading.Event
) -> Iterator[str]:
    """Request a chat completion; yield the answer so far each time it grows.

    messages: {"role", "content"}, the question last.
    Raises PlaygroundError: service unreachable, key refused, no such model or address, too many requests, any other
    error that the service reports.
    """
    body = {
        "model": service.model.strip(),
        "messages": list(messages),
        "stream": True,
        "max_tokens": generation.max_new_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "seed": generation.seed,
    }
    url, key = service.base_url.strip().rstrip("/") + "/chat/completions", service.key.strip()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
    try:
        with httpx.stream("POST", url, json=body, headers=headers, timeout=timeout) as response:
            if response.status_code != 200:
                raise _status_error(service, response.status_code, _beginning(response))
            yield from _growing_text(response, key, stop)
    except httpx.HTTPError as error:
        raise problem("error.service_unreachable", url=service.base_url[:120], detail=type(error).__name__) from error


def _beginning(response: httpx.Response) -> bytes:
    """As much of a body as an error's text can need; no more of it is read."""
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) >= MAX_ERROR_BYTES:
            break
    return body[:MAX_ERROR_BYTES]


def _growing_text(response: httpx.Response, key: str, stop: threading.Event) -> Iterator[str]:
    """Join the pieces in the `data:` lines of server-sent events; a service that doesn't stream sends one JSON line."""
    text = ""
    for line in _event_lines(response):
        if stop.is_set() or len(text) > MAX_CHARACTERS:
            return
        data = line.removeprefix("data:").strip()
        if not data.startswith("{"):  # [DONE], a comment, an empty line
            continue
        piece = _parse_piece(data, response.status_code, key)
        if piece:
            text += piece
            yield text


def _event_lines(response: httpx.Response) -> Iterator[str]:
    """Split a response into lines at CR and LF only, as server-sent events end them.

    httpx's `iter_lines` also splits at U+2028, U+0085 and others, which JSON may contain unescaped. (httpx-sse splits
    correctly, but needs the content type that some services don't send, and hides the comment lines that some send for
    minutes while a request is queued: a stopped answer couldn't hang up meanwhile.) After each piece of a line that
    goes on comes an empty one, so that a stopped answer is hung up; one longer than MAX_LINE ends the response.
    """
    rest = ""
    for chunk in response.iter_text():
        *lines, rest = re.split(r"[\r\n]", rest + chunk)
        yield from lines or [""]
        if len(rest) > MAX_LINE:
            return
    yield rest


def _parse_piece(data: str, status: int, key: str) -> str:
    """The text in one chunk of a chat completion. Raises PlaygroundError for an error message, or other JSON."""
    try:
        chunk = json.loads(data)
        choices = chunk.get("choices") or []
        piece = "".join(
            (choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in choices[:1]
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise problem("error.service_said", status=status, detail=_without_key(data, key)[:160]) from error
    if chunk.get("error"):  # some services send "error": null with each piece
        raise problem("error.service_said", status=status, detail=_without_key(str(chunk["error"]), key)[:240])
    return piece


def _without_key(text: str, key: str) -> str:
    """What a service wrote, without the key that it was sent: some services echo it, and errors are shown and kept."""
    return text.replace(key, HIDDEN_KEY) if key else text


def _status_error(service: Service, status: int, body: bytes) -> PlaygroundError:
    """The error for a status other than 200, with the service's own message."""
    if status in (401, 403):
        return problem("error.service_key", status=status)
    if status == 429:
        return problem("error.service_busy")
    try:
        error = json.loads(body)["error"]
        message = error.get("message") if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        message = body.decode("utf-8", "replace").strip().split("\n")[0]
    detail = _without_key(str(message), service.key.strip())[:240]
    if status == 404:
        return problem("error.service_absent", url=service.base_url[:120], model=service.model[:80], detail=detail)
    return problem("error.service_said", status=status, detail=detail)


class PendingAnswer:
    """An answer being streamed in a background thread.

    `text` grows until `ended`; `error` is then what went wrong, or None.
    """

    def __init__(self, service: Service, messages: Sequence[dict], generation: Generation) -> None:
        self.text = ""
        self.error: PlaygroundError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(service, messages, generation), daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _read(self, service: Service, messages: Sequence[dict], generation: Generation) -> None:
        try:
            for text in stream_answer(service, messages, generation, self._stop):
                self.text = text
        except Exception as error:
            self.error = as_playground_error(error)
