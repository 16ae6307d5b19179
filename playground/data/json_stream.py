"""Parse JSON files incrementally: the elements of a list one by one, without holding the whole file.

The parser is written here, over `json.JSONDecoder.raw_decode`. ijson 3.6 was tried instead: on 100,000 objects of 1 kB
its C backend takes 0.64 s of CPU time against 0.80 s, but it names no line of an error, rejects a byte order mark, NaN,
integers beyond 64 bits and 1e999 (all of which `json` reads), turns an escaped lone surrogate into "?", and runs out of
memory on deeply nested input (200,000 opening brackets: over 2 GiB), where the parser here raises an error.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from playground.errors import PlaygroundError, problem

CHUNK = 2**20  # characters read at once
NEAR_END = 16  # characters: an error this close to the end of what was read may come from a word that is cut there
BLANK = re.compile("[ \t\r\n\ufeff]*")
MAX_DETAIL = 160  # characters of a parser's message


def is_json_lines(text: str) -> bool:
    """Whether a text that begins with an object has a second one on its next line, and so is JSON Lines."""
    lines = [line for line in text.split("\n", 2)[:2] if line.strip()]
    if len(lines) < 2:
        lines = [line for line in text.split("\n")[:20] if line.strip()][:2]
    try:
        return (
            len(lines) == 2
            and isinstance(json.loads(lines[0].lstrip("\ufeff")), dict)
            and lines[1].lstrip().startswith("{")
        )
    except (ValueError, RecursionError):
        return False


def iter_list(start: str, stream: TextIO, file: str) -> Iterator[Any]:
    """Iterate over the elements of a JSON list.

    start: what was already read of the stream, up to and beyond the list's opening bracket. file: its name, for errors.
    Raises PlaygroundError with the line.
    """
    parser, first = _StreamParser(start, stream, file), True
    parser.advance(start.index("[") + 1)
    while True:
        char = parser.peek()
        if char == "]":
            break
        if not first:
            if char != ",":
                raise parser.error("Expecting ',' delimiter", parser.position)
            parser.advance(parser.position + 1)
            parser.peek()
        yield parser.read_value()
        first = False
    parser.advance(parser.position + 1)
    if parser.peek():
        raise parser.error("Extra data", parser.position)


class _StreamParser:
    """A JSON parser over a stream that keeps only the unread part of its text.

    position: index in `text` of the next character. line: that character's line in the file, from 1.
    """

    def __init__(self, start: str, stream: TextIO, file: str):
        self.text, self.stream, self.file = start, stream, file
        self.position, self.line, self.ended = 0, 1, False
        self.decoder = json.JSONDecoder()

    def advance(self, position: int) -> None:
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def read_more(self) -> bool:
        """Read more text; False at the end.

        At least as many characters as are still unread, so that a long value is tried again only a few times.
        """
        chunk = self.stream.read(max(CHUNK, len(self.text) - self.position))
        self.text, self.position, self.ended = self.text[self.position :] + chunk, 0, not chunk
        return not self.ended

    def peek(self) -> str:
        """Skip blanks and return the next character, "" at the end."""
        while True:
            blank = BLANK.match(self.text, self.position)
            assert blank is not None  # it also matches no characters
            self.advance(blank.end())
            if self.position < len(self.text) or not self.read_more():
                return self.text[self.position : self.position + 1]

    def read_value(self) -> Any:
        """Parse the next value."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.position)
            except RecursionError as error:
                raise self.error(str(error), self.position) from error
            except ValueError as error:
                message = getattr(error, "msg", str(error))[:MAX_DETAIL]
                offset = getattr(error, "pos", self.position) - self.position
                may_be_cut = message.startswith("Unterminated") or self.position + offset >= len(self.text) - NEAR_END
                if self.ended or not may_be_cut or not self.read_more():
                    raise self.error(message, self.position + offset) from error
                continue
            if end < len(self.text) or self.ended:
                self.advance(end)
                return value
            self.read_more()  # a number may continue

    def error(self, message: str, position: int) -> PlaygroundError:
        line = self.line + self.text.count("\n", self.position, position)
        return problem("error.json", file=self.file, line=line, detail=message)


def parse_object(text: str, file: str) -> tuple[list, list[str]]:
    """Parse a JSON text that isn't a list. Returns its records, and the names of lists of objects that were ignored.

    The records are those of the first list of objects in it, else the object itself. Raises PlaygroundError with the
    line.
    """
    try:
        value = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        if not text.strip("\ufeff \t\r\n"):
            return [], []
        line, message = getattr(error, "lineno", 1), getattr(error, "msg", str(error))
        raise problem("error.json", file=file, line=line, detail=message[:MAX_DETAIL]) from error
    if not isinstance(value, dict):
        return [value], []
    lists = {name: item for name, item in value.items() if _is_record_list(item)}
    if not lists:
        return [value] if value and not any(item == [] for item in value.values()) else [], []
    first, *others = lists
    return lists[first], others


def _is_record_list(value: Any) -> bool:
    """Whether a value is a list of objects which aren't all messages of one conversation."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return False
    return not all("role" in item or "from" in item for item in value)
