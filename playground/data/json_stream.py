"""Parse JSON files incrementally: the elements of a list one by one, without holding the whole file.

The parser is written here, over `json.JSONDecoder.raw_decode`. ijson 3.6 was tried instead: on 100,000 objects of 1 kB
its C backend takes 0.64 s of CPU time against 0.80 s, but it names no line of an error, rejects a byte order mark, NaN,
integers beyond 64 bits and 1e999 (all of which `json` reads), turns an escaped lone surrogate into "?", and runs out of
memory on deeply nested input (200,000 opening brackets: over 2 GiB), where the parser here raises an error.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from playground.data.cells import without_trailing_commas
from playground.errors import PlaygroundError, problem

CHUNK = 2**20  # characters read at once
NEAR_END = 16  # characters: an error this close to the end of what was read may come from a word that is cut there
BLANK = re.compile("[ \t\r\n\ufeff]*")
MAX_DETAIL = 160  # characters of a parser's message
LINES = 20  # that tell JSON Lines from values over several lines
# What `json` says of a comma before a closing bracket, by Python's version.
TRAILING_COMMA_ERRORS = ("Illegal trailing comma", "Expecting property name", "Expecting value")


def is_json_lines(text: str, expected: bool = False) -> bool:
    """Whether a text is one value a line: its first line is a whole one, and a second value begins on another.

    expected: whether the file's name says so; then a broken first line among others is not a value over several lines.
    """
    lines = [line.lstrip("\ufeff") for line in text.split("\n")[:LINES] if line.strip("\ufeff \t\r")]
    if not lines:
        return False
    begun = [line for line in lines if line[0] in "{[" and line.strip() not in ("{", "[", "[[", "[{")]
    if expected and len(begun) == len(lines) and (len(lines) > 1 or len(text) >= CHUNK):
        return True
    if len(lines) < 2 or lines[1].lstrip()[0] not in '{["':
        return False
    try:
        value = json.loads(without_trailing_commas(lines[0].strip().removesuffix(",")))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, (dict, str)) or (isinstance(value, list) and bool(value) and lines[1][0] == "[")


def iter_list(start: str, stream: TextIO, file: str, on_loose: Callable = lambda: None) -> Iterator[Any]:
    """Iterate over the elements of a JSON list.

    start: what was already read of the stream, up to and beyond the list's opening bracket. file: its name, for errors.
    on_loose: called when a comma before a closing bracket was read over. Raises PlaygroundError with the line.
    """
    parser, first = _StreamParser(start, stream, file, on_loose), True
    parser.advance(start.index("[") + 1)
    while True:
        char = parser.peek()
        if char == "]":
            break
        if not first:
            if char != ",":
                raise parser.error("Expecting ',' delimiter", parser.position)
            parser.advance(parser.position + 1)
            if parser.peek() == "]":
                on_loose()
                break
        yield parser.read_value()
        first = False
    parser.advance(parser.position + 1)
    if parser.peek():
        raise parser.error("Extra data", parser.position)


def iter_values(text: str, file: str, on_loose: Callable = lambda: None) -> Iterator[Any]:
    """Iterate over JSON values that follow each other, with or without commas between. Raises as `iter_list` does."""
    parser = _StreamParser(text, io.StringIO(), file, on_loose)
    while char := parser.peek():
        if char == ",":
            parser.advance(parser.position + 1)
        else:
            yield parser.read_value()


class _StreamParser:
    """A JSON parser over a stream that keeps only the unread part of its text.

    position: index in `text` of the next character. line: that character's line in the file, from 1.
    """

    def __init__(self, start: str, stream: TextIO, file: str, on_loose: Callable):
        self.text, self.stream, self.file, self.on_loose = start, stream, file, on_loose
        self.position, self.line, self.ended = 0, 1, False
        self.decoder, self.is_repaired = json.JSONDecoder(), False

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
                    if not self._repair(message):
                        raise self.error(message, self.position + offset) from error
                continue
            if end < len(self.text) or self.ended:
                self.advance(end)
                return value
            self.read_more()  # a number may continue

    def _repair(self, message: str) -> bool:
        """Remove commas before closing brackets from all unread text, once; whether there were any."""
        if self.is_repaired or not message.startswith(TRAILING_COMMA_ERRORS):
            return False
        rest = self.text[self.position :] + self.stream.read()
        self.text, self.position, self.ended, self.is_repaired = without_trailing_commas(rest), 0, True, True
        if len(self.text) == len(rest):
            return False
        self.on_loose()
        return True

    def error(self, message: str, position: int) -> PlaygroundError:
        line = self.line + self.text.count("\n", self.position, position)
        return problem("error.json", file=self.file, line=line, detail=message)
