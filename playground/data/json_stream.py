"""JSON files that hold many records, read without holding all of them: the elements of a list one by one."""

import json
import re
from collections.abc import Iterator

from playground.errors import PlaygroundError, problem

CHUNK = 2**20  # characters read at once
NEAR = 16  # an error so close to the end of what was read may be but a cut word
BLANK = re.compile("[ \t\r\n\ufeff]*")


def is_json_lines(text: str) -> bool:
    """Whether a text that begins with an object has another one on a line of its own, and so is JSON Lines."""
    found = [line for line in text.split("\n", 2)[:2] if line.strip()]
    if len(found) < 2:
        found = [line for line in text.split("\n")[:20] if line.strip()][:2]
    try:
        return (
            len(found) == 2
            and isinstance(json.loads(found[0].lstrip("\ufeff")), dict)
            and found[1].lstrip().startswith("{")
        )
    except (ValueError, RecursionError):
        return False


def iter_elements(start: str, stream, file: str) -> Iterator[tuple[int, object]]:
    """(line, value) of each element of the list that a stream holds, whose beginning was read already. Raises PlaygroundError with the line."""
    part, first = _Part(start, stream, file), True
    part.step(start.index("[") + 1)
    while True:
        mark = part.mark()
        if mark == "]":
            break
        if not first:
            if mark != ",":
                raise part.wrong("Expecting ',' delimiter", part.at)
            part.step(part.at + 1)
            part.mark()
        line = part.line
        yield line, part.value()
        first = False
    part.step(part.at + 1)
    if part.mark():
        raise part.wrong("Extra data", part.at)


class _Part:
    """The part of a stream that is being read: what is done with is forgotten. `at`: the place in `text` that comes next, in that `line` of the file."""

    def __init__(self, start: str, stream, file: str):
        self.text, self.stream, self.file = start, stream, file
        self.at, self.line, self.ended = 0, 1, False
        self.decoder = json.JSONDecoder()

    def step(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def more(self) -> bool:
        """Read on, at least as much again as is there; False at the end."""
        chunk = self.stream.read(max(CHUNK, len(self.text) - self.at))
        self.text, self.at, self.ended = self.text[self.at :] + chunk, 0, not chunk
        return not self.ended

    def mark(self) -> str:
        """The next character that isn't blank, "" at the end."""
        while True:
            self.step(BLANK.match(self.text, self.at).end())
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self):
        """The value that comes next."""
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise self.wrong(str(error), self.at) from error
            except ValueError as error:
                detail, off = getattr(error, "msg", str(error))[:160], getattr(error, "pos", self.at) - self.at
                cut = detail.startswith("Unterminated") or self.at + off >= len(self.text) - NEAR
                if self.ended or not cut or not self.more():
                    raise self.wrong(detail, self.at + off) from error
                continue
            if end < len(self.text) or self.ended:
                self.step(end)
                return found
            self.more()  # a number may go on

    def wrong(self, detail: str, place: int) -> PlaygroundError:
        return problem(
            "error.json", file=self.file, line=self.line + self.text.count("\n", self.at, place), detail=detail
        )


def parse_wrapped(text: str, file: str) -> tuple[list, list[str]]:
    """The records of a JSON text that is no list: those of the first list of objects in it, or the object itself; and the names of other such lists.

    Raises PlaygroundError with the line where it's broken.
    """
    try:
        found = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        if not text.strip("\ufeff \t\r\n"):
            return [], []
        raise problem(
            "error.json", file=file, line=getattr(error, "lineno", 1), detail=getattr(error, "msg", str(error))[:160]
        ) from error
    if not isinstance(found, dict):
        return [found], []
    named = {
        name: value
        for name, value in found.items()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    }
    named = {name: value for name, value in named.items() if not _messages(value)}
    if not named:
        return [found] if found and not any(value == [] for value in found.values()) else [], []
    first, *others = named
    return named[first], others


def _messages(value: list[dict]) -> bool:
    return all("role" in one or "from" in one for one in value)
