"""Which encoding a text file is in: what its marks say, UTF-8 where all of it is, else the best guess for Japanese and Western text.

Own scores and not charset-normalizer, which is made for longer texts: of short Japanese ones it gives back half to nine in ten, where
kana tell the few encodings that come into question apart nearly always (tests/bench/encodings.py).
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playground.errors import problem
from playground.settings import is_text_encoding

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
JAPANESE = ("cp932", "euc_jp")  # cp932: Shift_JIS as Windows writes it
WESTERN = "cp1252"
SHIFTS = (b"\x1b$B", b"\x1b$@", b"\x1b(J")  # of ISO-2022-JP, as mail has it: all of its bytes are ASCII
CHUNK = 2**20
SCORED = 2**14  # characters that a guess is made from
BACK = 4096  # bytes that a line's beginning is looked for
PLAIN = 0.75  # share of ASCII that text in Western letters has at least


@dataclass(frozen=True)
class Encoding:
    """A codec's name, and whether it is a guess."""

    name: str
    guessed: bool = False


def detect(path: Path, chosen: str = "auto", most: int = 0, on_progress: Callable = lambda *_: None) -> Encoding:
    """The encoding of a file; with `most`, found out from that many bytes at its beginning alone. `tell` hears now and then, and may raise to stop it.

    Raises PlaygroundError: bytes that the chosen encoding doesn't know (with their place and line), no such encoding,
    bytes that no known encoding explains.
    """
    with open(path, "rb") as file:
        start = file.read(CHUNK)
    if chosen.lower() != "auto":
        if not is_text_encoding(chosen):
            raise problem("error.encoding_unknown", encoding=chosen)
        wrong = _wrong(path, chosen, most, on_progress)
        if wrong:
            raise problem("error.encoding_chosen", file=path.name, encoding=chosen, position=wrong[0], line=wrong[1])
        marked = codecs.lookup(chosen).name == "utf-8" and start.startswith(codecs.BOM_UTF8)
        return Encoding("utf-8-sig" if marked else chosen)
    for mark, name in MARKS.items():
        if start.startswith(mark):
            wrong = _wrong(path, name, most, on_progress)
            if wrong:
                raise problem("error.encoding_chosen", file=path.name, encoding=name, position=wrong[0], line=wrong[1])
            return Encoding(name)
    wrong = _wrong(path, "utf-8", most, on_progress)
    if not wrong:
        return (
            Encoding("iso2022_jp", True)
            if any(shift in start for shift in SHIFTS) and not _wrong(path, "iso2022_jp", most, on_progress)
            else Encoding("utf-8")
        )
    guess = _guess(path, most, wrong[0], on_progress)
    if guess is None:
        raise problem("error.encoding", file=path.name, position=wrong[0], line=wrong[1])
    return Encoding(guess, True)


def _wrong(path: Path, name: str, most: int, on_progress: Callable) -> tuple[int, int] | None:
    """Where a file stops being text in that encoding: (byte, counted from 0, line, counted from 1), or None if it never does."""
    decoder, done, line, size = codecs.getincrementaldecoder(name)(), 0, 1, path.stat().st_size
    with open(path, "rb") as file:
        while True:
            chunk = file.read(min(CHUNK, most - done) if most else CHUNK)
            kept = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk and (not most or done >= size))
            except UnicodeError as error:  # some codecs raise no UnicodeDecodeError, and so no place
                at = getattr(error, "start", 0) - kept
                return done + at, line + chunk.count(b"\n", 0, max(0, at))
            on_progress(0, size, "bytes")
            if not chunk:
                return None
            line, done = line + chunk.count(b"\n"), done + len(chunk)


def _guess(path: Path, most: int, wrong: int, on_progress: Callable) -> str | None:
    """The encoding that reads best from where UTF-8 ends, of those that all bytes can be in."""
    with open(path, "rb") as file:
        file.seek(max(0, wrong - 64))
        while file.tell() > 0 and wrong - file.tell() < BACK:  # back to a line's beginning, where no character is cut
            file.seek(-1, 1)
            if file.read(1) in b"\r\n":
                break
            file.seek(-1, 1)
        sample = file.read(SCORED * 2)
    if b"\0" in sample:
        return None
    scores = {}
    for name in JAPANESE:
        if not _wrong(path, name, most, on_progress):
            scores[name] = _japanese(sample.decode(name, "ignore"))
    ascii_share = sum(byte < 0x80 for byte in sample) / len(sample)
    if (
        ascii_share >= PLAIN
        and max(scores.values(), default=-1.0) < 0.5
        and not _wrong(path, WESTERN, most, on_progress)
    ):
        return WESTERN
    best = max(scores, key=scores.get, default=None)
    return best if best is None or scores[best] > 0 else None


def _japanese(text: str) -> float:
    """How much the characters beyond ASCII look like Japanese, from -1 to 1: kana and usual marks speak for it, half-width kana and rare kanji against it."""
    score = count = 0.0
    for char in text[:SCORED]:
        code = ord(char)
        if code < 0x80:
            continue
        count += 1
        if 0x3001 <= code <= 0x30FF or 0xFF01 <= code <= 0xFF5E:
            score += 1
        elif 0x4E00 <= code <= 0x9FFF:
            score += 0.5 if _usual(char) else -0.5
        else:
            score -= 1
    return score / count if count else 0.0


def _usual(char: str) -> bool:
    """Whether a kanji is of the first of the two levels of JIS X 0208."""
    try:
        return 0xB0 <= char.encode("euc_jp")[0] <= 0xCF
    except UnicodeEncodeError:
        return False
