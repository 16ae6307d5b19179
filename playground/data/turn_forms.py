"""Forms of conversations other than messages: transcripts, texts in turn, objects with a question and an answer."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from playground import catalog
from playground.data.names import EDGES, columns_named, fold, role_named

# The beginning of a line: a name in brackets, "[Q]"; a heading; a single letter, or a name with a number, before a sign
# ("Q.", "A1)"; not "A4 paper" or "A.M."); and a name with a colon, also numbered ("Q1:", "Question 1:"). Bullets,
# headings' signs and bold type around it are no part of the name.
MARK = re.compile(
    r"^\ufeff?[ \t\u3000]*(?:(?:(?P<bullet>[-*+>\u30fb]|\d{1,4}[.)])|#{1,6})[ \t]+)?(?P<bold>\*\*|__)?(?:"
    r"(?P<framed>[【\[［〔《][^\s【】\[\]［］〔〕《》]{1,20}[】\]］〕》])[ \t\u3000]*[:：]?"
    r"|(?<=#[ ])(?P<title>[^\s:：]{1,20}(?:[ \t]*[#№]?\d{1,4})?)[ \t]*$"
    r"|(?P<letter>[^\W\d_])(?:(?P<sign>[.．)）])(?![^\W\d_]\.)|(?=[\u3000\t]))"
    r"|(?P<numbered>[^\W\d_]{1,8}\d{1,4})(?:[.．](?!\d)|[)）]|(?=[\u3000\t]))"
    r"|(?P<name>[^\s:：]{1,20}(?:[ \t]*[#№]?\d{1,4})?)[ \t\u3000]*(?P<colon>[:：]))"
    r"(?P<end>\*\*|__)?[ \t\u3000]*",
    re.MULTILINE,
)
NUMBER = re.compile(r"[\s#№]*\d+$")
MAX_EXCHANGE_KEYS = 4  # of an object with a question and an answer; one with more is a record


class Mark(NamedTuple):
    """A name at the beginning of a line, and who speaks from there on.

    name: folded, without a number. start, end: of the mark in its text. is_question: whether it begins a question of a
    list rather than what somebody says. bold: the signs of bold type that it opens and doesn't close.
    """

    role: str
    name: str
    start: int
    end: int
    is_question: bool
    bold: str


def marks(text: str) -> Iterator[Mark]:
    """The marks of known roles in a text.

    "A." before "B." is one of several choices, and no answer; and in a list of questions, an answer's "Output:" is part
    of what "Answer:" began.
    """
    choices: dict[str, int] = {}  # where an "A" is that a "B" may follow, by the sign behind it
    kept: dict[int, Mark] = {}  # those since the last question, by their start
    question: Mark | None = None
    answer: Mark | None = None
    for found in MARK.finditer(text):
        sign, name = found["colon"] or found["sign"] or "", found["name"] or found["letter"] or ""
        choice = kept.pop(choices.pop(sign, -1), None) if fold(name) == "b" else None
        answer = None if choice is answer else answer
        mark = _mark(found)
        is_within = question and question.is_question and mark and answer and mark.name != answer.name
        if mark is None or (is_within and mark.role == "assistant"):
            continue
        if mark.role == "user":
            yield from kept.values()
            kept, choices, question, answer = {}, {}, mark, None
        elif mark.role == "assistant":
            answer = answer or mark
            choices |= {sign: mark.start} if fold(name) == "a" else {}
        kept[mark.start] = mark
    yield from kept.values()


def _mark(found: re.Match[str]) -> Mark | None:
    name = next(text for text in found.group("name", "framed", "title", "letter", "numbered") if text)
    base = name if role_named(name) else NUMBER.sub("", EDGES.sub("", name))
    role = role_named(base)
    is_question = role == "user" and fold(base) in _list_names("user", "questions")
    needs_list = any(found.group("letter", "numbered", "title", "bullet"))
    if not role or (needs_list and not is_question and fold(base) not in _list_names("assistant", "answers")):
        return None
    bold = found["bold"] or ""
    is_closed = not bold or found["end"] or name.endswith(bold)
    return Mark(role, fold(base), found.start(), found.end(), is_question, "" if is_closed else bold)


def transcript(text: str) -> list[dict] | None:
    """The messages of a text like "User: … Assistant: …", one speaker a line; None if it isn't one."""
    found = list(marks(text))
    if not found or text[: found[0].start].strip() or not {"user", "assistant"} <= {mark.role for mark in found}:
        return None
    ends = [mark.start for mark in found[1:]] + [len(text)]
    return [{"role": mark.role, "content": _content(text[mark.end : end], mark)} for mark, end in zip(found, ends)]


def _content(text: str, mark: Mark) -> str:
    """What follows a mark, without the end of the bold type that began in front of it."""
    first, line_end, others = text.partition("\n")
    return ((first.rstrip().removesuffix(mark.bold) if mark.bold else first) + line_end + others).strip()


@cache
def _list_names(role: str, key: str) -> frozenset[str]:
    """The folded names that a role has in lists of questions and answers."""
    return frozenset(map(fold, catalog.role_names()[role][key]))


def exchanges_in(value: Any) -> list[dict] | None:
    """Messages from a list of objects with a question and an answer each, like {"input": …, "output": …}."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return None
    messages = []
    for item in value:
        texts = [name for name, text in item.items() if isinstance(text, str)]
        asked = columns_named(texts, "instruction") or columns_named(texts, "input")
        answered = columns_named(texts, "output")
        if len(item) > MAX_EXCHANGE_KEYS or not asked or not answered:
            return None
        messages += [{"role": "user", "content": item[asked[0]]}, {"role": "assistant", "content": item[answered[0]]}]
    return messages


def texts_in_turn(value: Any) -> list[dict] | None:
    """Messages from texts of which user and assistant write one each in turn, or from pairs of such texts."""
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair) for pair in value):
        value = [text for pair in value for text in pair]
    if len(value) < 2 or not all(isinstance(text, str) for text in value):
        return None
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(value)]
