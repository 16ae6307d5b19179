"""Detect a text file's encoding: its byte order mark, else UTF-8 if all of it decodes, else a guess.

The guess covers Japanese (Shift_JIS, EUC-JP, ISO-2022-JP), Western, Korean and simplified Chinese text. It has its own
scoring and doesn't use charset-normalizer, which is made for longer texts: of short Japanese ones that library decodes
half to nine in ten correctly, while kana tell these few encodings apart nearly always (tests/bench/encodings.py).
Nothing is guessed for a file that is UTF-8 in most places: another encoding would garble all of these.
"""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from playground import catalog
from playground.errors import problem
from playground.settings import is_text_encoding

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
JAPANESE = ("cp932", "euc_jp")  # cp932: Shift_JIS as Windows writes it
WESTERN = "cp1252"
ISO2022_JP_ESCAPES = (b"\x1b$B", b"\x1b$@", b"\x1b(J")  # ISO-2022-JP, used in mail, consists of ASCII bytes only
CHUNK = 2**20  # bytes
SAMPLE_CHARS = 2**14  # characters that a guess is scored on
MAX_LINE_SEARCH = 4096  # bytes to search backwards for the beginning of a line
MAX_RUNS = 100_000  # runs of bytes beyond ASCII that tell whether a file is UTF-8 but for some of them
KANA = re.compile("[\u3041-\u30ff]")
BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
# Korean and Chinese bytes are kanji in EUC-JP. Of Japanese texts without kana, under 1 in 1,000 has so many characters
# that would be among the most common Korean or Chinese ones; of Korean and Chinese texts nearly all do.
MIN_COMMON, MIN_COMMON_SHARE = 3, 0.25  # different characters; share of all
MIN_WESTERN_ASCII = 0.75  # share of ASCII bytes that Western text has at least


@dataclass(frozen=True)
class Encoding:
    """A codec's name, and whether it is a guess."""

    name: str
    guessed: bool = False


class InvalidPlace(NamedTuple):
    """Where a file stops being valid: offset in bytes, from 0, and line, from 1."""

    position: int
    line: int


class FileDecoder:
    """Try encodings on a file, or on its first `limit` bytes (0: all)."""

    def __init__(self, path: Path, limit: int = 0, on_progress: Callable = lambda *_: None):
        self.path, self.limit, self.on_progress = path, limit, on_progress

    def first_error(self, encoding: str) -> InvalidPlace | None:
        """The first invalid place in that encoding, or None if all of it decodes."""
        codec, size = codecs.getincrementaldecoder(encoding)(), self.path.stat().st_size
        done, line = 0, 1
        with open(self.path, "rb") as file:
            while True:
                chunk = file.read(min(CHUNK, self.limit - done) if self.limit else CHUNK)
                pending = len(codec.getstate()[0])  # bytes of a character that the last chunk cut
                try:
                    codec.decode(chunk, final=not chunk and (not self.limit or done >= size))
                except UnicodeError as error:  # some codecs raise no UnicodeDecodeError, and so no position
                    offset = getattr(error, "start", 0) - pending
                    return InvalidPlace(done + offset, line + chunk.count(b"\n", 0, max(0, offset)))
                self.on_progress(0, size, "bytes")
                if not chunk:
                    return None
                line, done = line + chunk.count(b"\n"), done + len(chunk)

    def can_decode(self, encoding: str) -> bool:
        return self.first_error(encoding) is None

    def utf8_runs(self) -> tuple[int, int]:
        """How many runs of bytes beyond ASCII are UTF-8, and how many aren't, of the first MAX_RUNS.

        In UTF-8 text, all runs are but for the damaged ones. In other encodings hardly any is: two of their characters
        in a row rarely happen to be valid.
        """
        valid = invalid = done = 0
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            while done < (self.limit or size) and valid + invalid < MAX_RUNS:
                block = file.read(CHUNK) + file.readline(CHUNK)  # to the end of a line, so that no run is cut
                if not block:
                    break
                done += len(block)
                for run in BEYOND_ASCII.findall(block):
                    is_valid = _is_utf8(run)
                    valid, invalid = valid + is_valid, invalid + (not is_valid)
                self.on_progress(0, size, "bytes")
        return valid, invalid


def detect(path: Path, chosen: str = "auto", limit: int = 0, on_progress: Callable = lambda *_: None) -> Encoding:
    """Detect a file's encoding, or check the chosen one; with `limit`, from that many bytes at its beginning alone.

    on_progress(done, total, unit) is called now and then, and may raise to cancel. Raises PlaygroundError: bytes that
    are invalid in the chosen or marked encoding, or in a file that is UTF-8 in most places (with their position and
    line), an unknown encoding, bytes that no known encoding explains.
    """
    with open(path, "rb") as file:
        start = file.read(CHUNK)
    decoder = FileDecoder(path, limit, on_progress)
    if chosen.lower() != "auto":
        if not is_text_encoding(chosen):
            raise problem("error.encoding_unknown", encoding=chosen)
        _require(decoder, chosen)
        has_mark = codecs.lookup(chosen).name == "utf-8" and start.startswith(codecs.BOM_UTF8)
        return Encoding("utf-8-sig" if has_mark else chosen)
    for mark, name in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            _require(decoder, name)
            return Encoding(name)
    error = decoder.first_error("utf-8")
    if error is None:
        if any(escape in start for escape in ISO2022_JP_ESCAPES) and decoder.can_decode("iso2022_jp"):
            return Encoding("iso2022_jp", True)
        return Encoding("utf-8")
    valid, invalid = decoder.utf8_runs()
    if valid > invalid:
        raise problem(
            "error.encoding_damaged", file=path.name, places=invalid, position=error.position, line=error.line
        )
    guess = _guess(decoder, _sample(path, error.position))
    if guess is None:
        raise problem("error.encoding", file=path.name, position=error.position, line=error.line)
    return Encoding(guess, True)


def _require(decoder: FileDecoder, encoding: str) -> None:
    error = decoder.first_error(encoding)
    if error:
        raise problem(
            "error.encoding_chosen",
            file=decoder.path.name,
            encoding=encoding,
            position=error.position,
            line=error.line,
        )


def _is_utf8(run: bytes) -> bool:
    try:
        run.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _sample(path: Path, position: int) -> bytes:
    """The bytes around `position`, from the beginning of a line, where no character is cut."""
    with open(path, "rb") as file:
        file.seek(max(0, position - 64))
        while file.tell() > 0 and position - file.tell() < MAX_LINE_SEARCH:
            file.seek(-1, 1)
            if file.read(1) in b"\r\n":
                break
            file.seek(-1, 1)
        return file.read(SAMPLE_CHARS * 2)


def _guess(decoder: FileDecoder, sample: bytes) -> str | None:
    """The encoding that reads best on the sample, of those that can decode the file."""
    if b"\0" in sample:
        return None
    texts = {name: sample.decode(name, "ignore") for name in JAPANESE if decoder.can_decode(name)}
    scores = {name: _japanese_score(text) for name, text in texts.items()}
    if not any(KANA.search(texts[name]) for name in texts if scores[name] > 0):
        other = next(
            (name for name in catalog.encodings() if _is_common(sample, name) and decoder.can_decode(name)), ""
        )
        if other:
            return other
    ascii_share = sum(byte < 0x80 for byte in sample) / len(sample)
    if ascii_share >= MIN_WESTERN_ASCII and max(scores.values(), default=-1.0) < 0.5 and decoder.can_decode(WESTERN):
        return WESTERN
    best = max(scores, key=lambda name: scores[name], default=None)
    return best if best is None or scores[best] > 0 else None


def _japanese_score(text: str) -> float:
    """How Japanese the characters beyond ASCII look, from -1 to 1.

    Kana and common punctuation count for it, half-width kana and rare kanji against it.
    """
    score = count = 0.0
    for char in text[:SAMPLE_CHARS]:
        code = ord(char)
        if code < 0x80:
            continue
        count += 1
        if 0x3001 <= code <= 0x30FF or 0xFF01 <= code <= 0xFF5E:
            score += 1
        elif 0x4E00 <= code <= 0x9FFF:
            score += 0.5 if _is_common_kanji(char) else -0.5
        else:
            score -= 1
    return score / count if count else 0.0


def _is_common(sample: bytes, encoding: str) -> bool:
    """Whether enough of the characters beyond ASCII are among the most common ones of the encoding's language."""
    common = catalog.encodings()[encoding]["common"]
    chars = [char for char in sample.decode(encoding, "ignore")[:SAMPLE_CHARS] if ord(char) >= 0x80]
    found = [char for char in chars if char in common]
    return len(set(found)) >= MIN_COMMON and len(found) >= MIN_COMMON_SHARE * len(chars)


def _is_common_kanji(char: str) -> bool:
    """Whether a kanji is in the first of the two levels of JIS X 0208."""
    try:
        return 0xB0 <= char.encode("euc_jp")[0] <= 0xCF
    except UnicodeEncodeError:
        return False
