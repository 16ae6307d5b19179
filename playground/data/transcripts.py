"""Split plain texts in which names like "Q:" or "User:" begin lines into questions with answers, or conversations.

What somebody says may have blank lines, so that neither lines nor paragraphs are its records.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from playground.data.records import Record
from playground.data.turn_forms import Mark, marks, transcript

MIN_MARKS = 2  # questions, and answers, that a text has at least
MIN_PAIRS = 0.5  # of the questions, or answers, so many are a question that an answer follows
MAX_MEAN = 10_000  # characters of a question with its answer; prose may name a speaker now and then
MAX_BEFORE = 2_000  # characters in front of the first name
MAX_FIRST = 80  # of them that are shown
RULE = re.compile(r"[ \t]*(?:[-=*_＊─━―~]{3,}|#{3,})[ \t]*$")
# A line of signs, or a heading below a blank line, belongs to what follows it.
END = re.compile(r"(?:^|\n)[ \t]*(?:[-=*_＊─━―~]{3,}|#{3,})[ \t]*$|\n[ \t]*\n#{1,6}[ \t][^\n]*$")


class Transcripts(NamedTuple):
    """How a text with speakers' names is split: at each question (is_list), or at blank lines and lines of signs.

    gap: blank lines that usually precede an answer; more of them separate conversations. before: how a text in front of
    the first name begins, or "".
    """

    is_list: bool
    gap: int
    before: str


def find_transcripts(start: str) -> Transcripts | None:
    """How to split a text, from its beginning; None if it doesn't consist of questions with answers."""
    found = list(marks(start))
    roles = Counter(mark.role for mark in found)
    pairs = sum((a.role, b.role) == ("user", "assistant") for a, b in itertools.pairwise(found))
    most, least = max(roles["user"], roles["assistant"]), min(roles["user"], roles["assistant"])
    if least < MIN_MARKS or pairs < MIN_PAIRS * most or len(start) > MAX_MEAN * roles["user"]:
        return None
    before = start[: found[0].start].strip("\ufeff \t\r\n")
    if len(before) > MAX_BEFORE:
        return None
    questions = sum(mark.is_question for mark in found)
    return Transcripts(2 * questions > roles["user"], _usual_gap(start, found), " ".join(before.split())[:MAX_FIRST])


def begins_with_speaker(text: str) -> bool:
    """Whether a name is the first that a text has."""
    first = next(marks(text[: MAX_BEFORE + MAX_FIRST]), None)
    return first is not None and not text[: first.start].strip("\ufeff \t\r\n")


def split_transcripts(lines: Iterable[str], form: Transcripts) -> Iterator[Record]:
    """A record {"text"} for each question with its answer, or each conversation; those without both are unusable."""
    number = 0
    text: list[str] = []
    blank, has_begun, has_answer, is_ruled = 0, False, False, False
    for line in lines:
        mark = _mark_of(line)
        ends = mark.role == "user" if mark and form.is_list else blank > form.gap or is_ruled
        if mark and (not has_begun or ends or (mark.role == "system" and has_answer)):
            if has_begun:
                number += 1
                yield _record(number, text)
            text, has_begun, has_answer = [], True, False
        has_answer |= bool(mark and mark.role == "assistant")
        text.append(line.rstrip("\n"))
        is_blank = not line.strip()
        is_ruled = RULE.match(line) is not None or (is_ruled and is_blank)
        blank = blank + 1 if is_blank else 0
    if has_begun:
        yield _record(number + 1, text)


def _usual_gap(text: str, found: list[Mark]) -> int:
    """The number of blank lines that most answers have in front of them."""
    pieces = (text[a.end : b.start] for a, b in itertools.pairwise(found) if b.role == "assistant")
    gaps = Counter(max(0, piece[len(piece.rstrip()) :].count("\n") - 1) for piece in pieces)
    return gaps.most_common(1)[0][0] if gaps else 0


def _mark_of(line: str) -> Mark | None:
    return next(marks(line), None)


def _record(number: int, lines: list[str]) -> Record:
    text = "\n".join(lines).strip()
    while (shorter := END.sub("", text).rstrip()) != text:
        text = shorter
    if transcript(text) is not None:
        return Record(number, {"text": text})
    is_answer = (first := next(marks(text), None)) is not None and first.role == "assistant"
    return Record(number, {"text": ""}, "orphan" if is_answer else "unanswered")  # its text would become a row
