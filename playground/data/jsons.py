"""JSON files that hold many records, read without holding all of them: the elements of a list one by one."""

import json
import re
from collections.abc import Iterator

from playground.errors import PlaygroundError, problem

CHUNK = 2**20  # characters read at once
NEAR = 16  # an error so close to the end of what was read may be but a cut word
BLANK = re.compile("[ \t\r\n\ufeff]*")


def lines(text: str) -> bool:
    """Whether a text that begins with an object has another one on a line of its own, and so is JSON Lines."""
    found = [line for line in text.split("\n", 2)[:2] if line.strip()]
    if len(found) < 2:
        found = [line for line in text.split("\n")[:20] if line.strip()][:2]
    try:
        return len(found) == 2 and isinstance(json.loads(found[0].lstrip("\ufeff")), dict) and found[1].lstrip().startswith("{")
    except (ValueError, RecursionError):
        return False


def elements(start: str, stream, file: str) -> Iterator[tuple[int, object]]:
    """(line, value) of each element of the list that a stream holds, whose beginning was read already. Raises PlaygroundError with the line."""
    decoder, text, passed, first = json.JSONDecoder(), start, 0, True
    at, ended = text.index("[") + 1, False

    def more() -> bool:
        """Read on, forgetting what is done with; False at the end."""
        nonlocal text, at, passed, ended
        chunk = stream.read(max(CHUNK, len(text) - at))
        passed += text.count("\n", 0, at)
        text, at, ended = text[at:] + chunk, 0, not chunk
        return not ended

    def wrong(detail: str, place: int) -> PlaygroundError:
        return problem("error.json", file=file, line=passed + text.count("\n", 0, place) + 1, detail=detail)

    def next_mark() -> str:
        """The next character that isn't blank."""
        nonlocal at
        while True:
            at = BLANK.match(text, at).end()
            if at < len(text) or not more():
                return text[at : at + 1]

    while True:
        mark = next_mark()
        if mark == "]" and first:
            break
        if not first:
            if mark == "]":
                break
            if mark != ",":
                raise wrong("Expecting ',' delimiter", at)
            at += 1
            next_mark()
        while True:
            try:
                value, end = decoder.raw_decode(text, at)
                if end == len(text) and not ended and more():
                    continue  # a number may go on
                break
            except ValueError as error:
                detail, place = getattr(error, "msg", str(error))[:160], getattr(error, "pos", at)
                cut = detail.startswith("Unterminated") or place >= len(text) - NEAR
                before = at
                if ended or not cut or not more():
                    raise wrong(detail, place - (before - at)) from error
            except RecursionError as error:
                raise wrong(str(error), at) from error
        line = passed + text.count("\n", 0, at) + 1
        at, first = end, False
        passed, text, at = _forget(passed, text, at)
        yield line, value
    at += 1
    if next_mark():
        raise wrong("Extra data", at)


def _forget(passed: int, text: str, at: int) -> tuple[int, str, int]:
    """Cut off what was read, now and then: counting its lines again and again would take long."""
    return (passed + text.count("\n", 0, at), text[at:], 0) if at > CHUNK // 8 else (passed, text, at)


def wrapped(text: str, file: str) -> tuple[list, list[str]]:
    """The records of a JSON text that is no list: those of the first list of objects in it, or the object itself; and the names of other such lists.

    Raises PlaygroundError with the line where it's broken.
    """
    try:
        found = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        if not text.strip("\ufeff \t\r\n"):
            return [], []
        raise problem("error.json", file=file, line=getattr(error, "lineno", 1), detail=getattr(error, "msg", str(error))[:160]) from error
    if not isinstance(found, dict):
        return [found], []
    named = {name: value for name, value in found.items() if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)}
    named = {name: value for name, value in named.items() if not _messages(value)}
    if not named:
        return [found] if found and not any(value == [] for value in found.values()) else [], []
    first, *others = named
    return named[first], others


def _messages(value: list[dict]) -> bool:
    return all("role" in one or "from" in one for one in value)
