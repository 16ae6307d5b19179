"""A third answer beside base and tuned: from any service that speaks OpenAI's chat completions.

The talk begins with such a service and says why not to depend on one. What is sent leaves this machine; the key is held
for the one request, and neither is written anywhere.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from playground.errors import PlaygroundError, Problem, as_playground_error, problem
from playground.settings import Generation

CONNECT, SILENCE = 6.0, 60.0  # seconds until it must have answered the call; between two pieces of an answer
MOST = 100_000  # characters: a service that never ends is left


@dataclass(frozen=True)
class Service:
    """Where to ask. base_url as clients of OpenAI's API take it, such as http://127.0.0.1:11434/v1."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)


def service_problems(service: Service) -> list[Problem]:
    """Everything that is wrong with what was typed."""
    wrong = []
    try:
        parts = urlsplit(service.base_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        usable = False
    if not usable:
        wrong.append(Problem("problem.service_url", {"url": service.base_url[:120]}))
    if not service.model.strip():
        wrong.append(Problem("problem.service_model"))
    if not service.key.isascii() or any(c.isspace() for c in service.key.strip()):
        wrong.append(Problem("problem.service_key"))
    return wrong


def stream_answer(
    service: Service, messages: Sequence[dict], generation: Generation, stop: threading.Event
) -> Iterator[str]:
    """The whole text so far, each time more of it has come. messages: {"role", "content"}, the question last.

    Raises PlaygroundError: unreachable, key refused, no such model or address, too many requests, anything else it says.
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
    try:
        with httpx.stream(
            "POST", url, json=body, headers=headers, timeout=httpx.Timeout(SILENCE, connect=CONNECT)
        ) as reply:
            if reply.status_code != 200:
                raise _refused(service, reply.status_code, reply.read()[:20_000])
            yield from _pieces(reply, stop)
    except httpx.HTTPError as error:
        raise problem("error.service_unreachable", url=service.base_url[:120], detail=type(error).__name__) from error


def _pieces(reply: httpx.Response, stop: threading.Event) -> Iterator[str]:
    """The `data:` lines of server-sent events; a service that doesn't stream says it all at once."""
    text = ""
    for line in reply.iter_lines():
        if stop.is_set() or len(text) > MOST:
            return
        data = line.removeprefix("data:").strip()
        if not data.startswith("{"):  # [DONE], a comment, an empty line
            continue
        try:
            said = json.loads(data)
            choices = said.get("choices") or []
            piece = "".join(
                (choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in choices[:1]
            )
        except (ValueError, AttributeError, TypeError) as error:
            raise problem("error.service_said", status=reply.status_code, detail=data[:160]) from error
        if "error" in said:
            raise problem("error.service_said", status=reply.status_code, detail=str(said["error"])[:240])
        if piece:
            text += piece
            yield text


def _refused(service: Service, status: int, body: bytes) -> PlaygroundError:
    if status in (401, 403):
        return problem("error.service_key", status=status)
    if status == 429:
        return problem("error.service_busy")
    try:
        said = json.loads(body)["error"]
        detail = said.get("message") if isinstance(said, dict) else str(said)
    except (ValueError, KeyError, TypeError):
        detail = body.decode("utf-8", "replace").strip().split("\n")[0]
    if status == 404:
        return problem(
            "error.service_absent", url=service.base_url[:120], model=service.model[:80], detail=str(detail)[:240]
        )
    return problem("error.service_said", status=status, detail=str(detail)[:240])


class PendingAnswer:
    """An answer on its way, read in a thread of its own: `text` grows until `ended`; `error` says what went wrong."""

    def __init__(self, service: Service, messages: Sequence[dict], generation: Generation):
        self.text, self.error = "", None
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

    def _read(self, *asked) -> None:
        try:
            for text in stream_answer(*asked, self._stop):
                self.text = text
        except Exception as error:
            self.error = as_playground_error(error)
