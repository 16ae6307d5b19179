"""What one record teaches: the row itself, and texts as they come."""

import json
import math
import re
from dataclasses import dataclass, field

VISIBLE = re.compile("[^\\s\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
HIDDEN = re.compile(
    "[\u200b\u200e\u200f\u061c\u202a-\u202e\u2060-\u2069\ufeff]"
)  # joiners are left out: emoji and some scripts need them


@dataclass(frozen=True)
class Row:
    """One thing to learn: an answer (`output`) to a question (`instruction`, with an `input` to it), or a text alone, which is all answer.

    `key`: strings of which a right answer holds one (the bundled help desk has them). `before`: what was said earlier in a
    conversation, (question, answer) each. `number`: where it stands in its source, counted from 1.
    """

    instruction: str
    output: str
    input: str = ""
    key: tuple[str, ...] = ()
    before: tuple[tuple[str, str], ...] = ()
    system: str = ""
    category: str = ""
    number: int = field(default=0, compare=False)


class UnusableRecord(Exception):
    """A record that teaches nothing; its text is the reason, as in the words table under `dropped.`."""


def has_visible_text(text: str) -> bool:
    """Whether a text holds anything that can be seen."""
    return VISIBLE.search(text) is not None


def has_hidden_characters(text: str) -> bool:
    """Whether a text holds characters of no width, or such as turn the direction of what follows."""
    return not text.isascii() and HIDDEN.search(text) is not None


def text_of(value) -> str:
    """Any value as text: nothing where there is none, JSON for what is nested. Half characters, which no tokenizer takes, become U+FFFD."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    elif not isinstance(value, str):
        value = (
            json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list, bool)) else str(value)
        )
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
