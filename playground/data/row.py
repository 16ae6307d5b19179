"""Row: one training example as text, and the conversion of any value to text."""

import datetime
import json
import math
import re
import unicodedata
from dataclasses import dataclass, field, replace
from typing import Any

VISIBLE = re.compile("[^\\s\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
# Zero-width joiners don't count as hidden: emoji and some scripts need them.
HIDDEN = re.compile("[\u200b\u200e\u200f\u061c\u202a-\u202e\u2060-\u2069\ufeff]")
# How texts begin that are data or markup rather than prose. Chat templates' marks like <s> and <|user|> are neither.
JSON_START = re.compile(r"\s*(\{\s*[\"'][^\"']*[\"']\s*:|\[\s*(\{\s*[\"']|\[|\"[^\"]*\"\s*[,\]]))")
MARKUP_START = re.compile(r"\s*<(\?xml|!doctype|!--|(?!s>|/s>|think)[a-z][\w:-]*(\s[^<>]*)?/?>)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One training example: an answer (`output`) to a question (`instruction`, `input`), or a text alone in `output`.

    key: strings of which a correct answer contains one (the bundled help desk has them). before: earlier turns of the
    conversation as (question, answer) pairs. empty_system: whether its source gives a system prompt that is empty, so
    that a template adds no default. number: the record's number in its source, from 1. system_messages: several
    system prompts, as (number of the turn that each precedes, text); `system` is then all of them, joined by empty
    lines.
    """

    instruction: str
    output: str
    input: str = ""
    key: tuple[str, ...] = ()
    before: tuple[tuple[str, str], ...] = ()
    system: str = ""
    category: str = ""
    empty_system: bool = False
    number: int = field(default=0, compare=False)
    system_messages: tuple[tuple[int, str], ...] = ()

    @property
    def systems(self) -> tuple[tuple[int, str], ...]:
        """The system prompts as they stand, or `system` before the first turn where it isn't those (any more)."""
        if self.system_messages and "\n\n".join(text for _, text in self.system_messages) == self.system:
            return self.system_messages
        return ((0, self.system),) if self.system or self.empty_system else ()

    def with_recent_turns(self, count: int) -> "Row":
        """The row with the last `count` of its earlier turns."""
        dropped = len(self.before) - count
        systems = tuple((max(0, turn - dropped), text) for turn, text in self.system_messages)
        return replace(self, before=self.before[dropped:], system_messages=systems)


class UnusableRecord(Exception):
    """A record that yields no row; the message is the reason, a key of the words table under `dropped.`.

    A reason may name what caused it behind a colon: "role:narrator".
    """


def has_visible_text(text: str) -> bool:
    """Whether a text has a visible character."""
    return VISIBLE.search(text) is not None


def looks_like(text: str) -> str:
    """What a text looks like that isn't prose: "json", "markup", or ""."""
    if JSON_START.match(text):
        return "json"
    return "markup" if MARKUP_START.match(text) else ""


def same_text(text: str) -> str:
    """A text for comparison alone: one for texts that differ in case, blanks, hidden characters or forms of characters.

    Forms: half and full width, ligatures, composed and decomposed letters (Unicode's NFKC).
    """
    text = HIDDEN.sub("", text) if has_hidden_characters(text) else text
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def has_hidden_characters(text: str) -> bool:
    """Whether a text has characters of zero width or that change the direction of writing."""
    return not text.isascii() and HIDDEN.search(text) is not None


def is_blank(value: Any) -> bool:
    """Whether a value says nothing: missing, no visible character, an empty list or object, or a list of such values.

    An object with keys isn't, whatever they hold: it may be the answer that is asked for.
    """
    if isinstance(value, str):
        return not has_visible_text(value)
    if isinstance(value, list):
        return all(map(is_blank, value))
    return value is None or value == {} or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any) -> str:
    """Convert any value to text: missing ones to "", as lists and objects with nothing in them; nested ones to JSON.

    A date with a time of midnight is a date. Lone surrogates, which no tokenizer accepts, become U+FFFD.
    """
    if not isinstance(value, str) and is_blank(value):
        return ""
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
    elif isinstance(value, str):
        text = value
    elif isinstance(value, datetime.datetime) and value.time() == datetime.time():  # a sheet has no other dates
        text = value.date().isoformat()
    elif isinstance(value, (dict, list, bool)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
