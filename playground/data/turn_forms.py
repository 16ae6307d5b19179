"""Forms of conversations other than messages: transcripts, texts in turn, objects with a question and an answer."""

import re
from typing import Any

from playground.data.names import columns_named, role_named

SPEAKER = re.compile(r"^[ \t]*([^\s:：]{1,20})[ \t]*[:：][ \t]*", re.MULTILINE)
MAX_EXCHANGE_KEYS = 4  # of an object with a question and an answer; one with more is a record


def transcript(text: str) -> list[dict] | None:
    """The messages of a text like "User: … Assistant: …", one speaker a line; None if it isn't one."""
    marks = [mark for mark in SPEAKER.finditer(text) if role_named(mark[1])]
    roles = [role_named(mark[1]) for mark in marks]
    if not marks or text[: marks[0].start()].strip() or not {"user", "assistant"} <= set(roles):
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [{"role": role, "content": text[mark.end() : end].strip()} for role, mark, end in zip(roles, marks, ends)]


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
