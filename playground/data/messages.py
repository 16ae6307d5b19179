"""Messages of a conversation, in any of the forms in which data sets store them.

OpenAI's (role, content), ShareGPT's (from, value), content in parts, a dict by role ({"user", "assistant"}), lists by
key ({"role": [...], "content": [...]}), pairs of texts, texts in turn, a transcript ("User: … Assistant: …"), and all
of these as JSON or Python in a text.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from playground.data.cells import parse_cell
from playground.data.names import columns_named, is_named, role_named
from playground.data.row import UnusableRecord, text_of
from playground.data.turn_forms import exchanges_in, texts_in_turn, transcript

MEDIA_PARTS = ("image", "audio", "video", "file", "document")  # begin the type of a part that isn't text
REASONING_PARTS = ("thinking", "reasoning", "redacted_thinking")
USED_KINDS = ("role", "content", "taught", "masked", "reasoning", "calls")  # of a message's keys


@dataclass(frozen=True)
class Message:
    """One message. role: system, user or assistant.

    untaught: why an answer is context only ("not_trained", "tool_calls"), or "". remark: what can't be honoured in it,
    a key of the words table under `note.` ("reasoning" beside an answer, "tool_results" as a question), or "".
    """

    role: str
    text: str
    untaught: str = ""
    remark: str = ""


def is_message(value: Any) -> bool:
    """Whether a value is an object with a speaker and a text, or a call of a tool."""
    return isinstance(value, dict) and _has_message_keys(tuple(value))


@lru_cache(4096)
def _has_message_keys(keys: tuple) -> bool:
    return bool(columns_named(keys, "role") and (columns_named(keys, "content") or columns_named(keys, "calls")))


def is_message_list(value: Any) -> bool:
    """Whether a value is a list of objects with a speaker and a text each."""
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages in any form; of a text, use `parse_cell` first."""
    if isinstance(value, dict):
        return bool(_zipped(value))
    if not isinstance(value, list) or not value:
        return False
    return is_message_list(value) or all(map(_is_by_role, value))


def conversation_in(value: Any) -> Any:
    """The conversation that a value is, has as text, or contains under a usual name; None without one."""
    parsed = parse_cell(value)
    if is_conversation(parsed):
        return parsed
    if isinstance(parsed, dict):
        if is_message(parsed):
            return [parsed]
        for name in columns_named(parsed, "messages"):
            if is_conversation(parsed[name]):
                return parsed[name]
    return None


def parse_messages(value: Any, role: str = "") -> list[Message]:
    """Parse a conversation in any form, or (with `role`) a plain text by that role.

    Raises UnusableRecord: "messages" for no conversation, "role:NAME" for an unknown role, "images" for pictures, sound
    and files.
    """
    if value is None or value == []:
        return []
    found = conversation_in(value)
    if found is None and not role and (exchanges := exchanges_in(parse_cell(value))):
        found = exchanges
    if found is None and not role and (in_turn := texts_in_turn(parse_cell(value))):
        return _parse_texts_in_turn(in_turn, parse_cell(value))
    if found is None and isinstance(value, str):
        found = transcript(value)
    if found is None and role:
        text, reasoning = _content(_first_content(value) if isinstance(value, dict) else value)
        return [Message(role, text, remark="reasoning" if reasoning else "")]
    if found is None:
        raise UnusableRecord("messages")
    return [message for item in _zipped(found) or found for message in _parse_message(item, role)]


def _parse_texts_in_turn(found: list[dict], value: list) -> list[Message]:
    """The messages, with a remark unless pairs show who speaks."""
    first, *others = (Message(message["role"], text_of(message["content"])) for message in found)
    return [replace(first, remark="in_turn") if isinstance(value[0], str) else first, *others]


def parse_history(value: Any) -> list[Message]:
    """Parse earlier turns: pairs of question and answer, messages, or texts in turn. Raises UnusableRecord."""
    value = parse_cell(value)
    if not value or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, list) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        texts = [text_of(text) for pair in value for text in pair]
        return [Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]
    return parse_messages(value)


def questions_with_answers(questions: list, answers: Any) -> list[Message]:
    """Questions asked in turn, with the answers of another column.

    Raises UnusableRecord: "unanswered" without an answer to each.
    """
    answers = parse_cell(answers)
    if not isinstance(answers, list) or len(answers) != len(questions):
        raise UnusableRecord("unanswered")
    pairs = zip(map(text_of, questions), map(text_of, answers))
    return [message for q, a in pairs for message in (Message("user", q), Message("assistant", a))]


def unused_keys(value: Any) -> set[str]:
    """The keys of a conversation's messages that say something and aren't used."""
    found = parse_cell(value) if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(message, dict) for message in found):
        return set()
    if all(_plain_keys(tuple(message)) for message in found) or exchanges_in(found):
        return set()
    keys = {key for message in found for key, item in message.items() if item not in (None, "", [], {})}
    return {key for key in keys if not _is_used(key)}


@lru_cache(4096)
def _is_used(key: Any) -> bool:
    return bool(role_named(key)) or any(is_named(key, kind) for kind in USED_KINDS)


@lru_cache(4096)
def _plain_keys(keys: tuple) -> tuple[str, str] | None:
    """The keys of speaker and text in a message that has no other keys: most have just these."""
    roles, contents = columns_named(keys, "role"), columns_named(keys, "content")
    return (roles[0], contents[0]) if len(keys) == 2 and len(roles) == len(contents) == 1 else None


def _parse_message(message: Any, default_role: str = "") -> list[Message]:
    plain = _plain_keys(tuple(message)) if isinstance(message, dict) else None
    if plain and isinstance(message[plain[1]], str):
        role = role_named(message[plain[0]])
        if role in ("user", "assistant", "system"):
            return [Message(role, text_of(message[plain[1]]))]
    if _is_by_role(message):
        return [Message(role_named(key), text_of(text)) for key, text in message.items() if text is not None]
    if not isinstance(message, dict):
        raise UnusableRecord("messages")
    name = _first(message, columns_named(message, "role"))
    if isinstance(name, dict):
        name = _first(name, columns_named(name, "role"))
    role = role_named(name) if name is not None else default_role
    if not role:
        raise UnusableRecord(f"role:{name.strip()[:40]}" if isinstance(name, str) and name.strip() else "messages")
    content = _first_content(message)
    if not isinstance(content, (str, list, dict, type(None))):
        raise UnusableRecord("messages")
    if any(message[key] not in (None, "", [], {}) for key in columns_named(message, "media")):
        raise UnusableRecord("images")
    text, reasoning = _content(content)
    calls = [message[key] for key in columns_named(message, "calls") if message[key]]
    calls += [part for part in _parts(content) if str(part.get("type", "")).startswith(("tool_use", "tool_call"))]
    if role == "result":
        return [Message("user", text, remark="tool_results")]
    if role == "call" or (role == "assistant" and calls):
        return [Message("assistant", "\n".join([*([text] if text else []), *map(text_of, calls)]), "tool_calls")]
    reasoning = reasoning or any(text_of(message[key]).strip() for key in columns_named(message, "reasoning"))
    untaught = "not_trained" if role == "assistant" and not _is_taught(message) else ""
    remark = "reasoning" if reasoning else "weights" if _has_partial_weight(message) else ""
    return [Message(role, text, untaught, remark if role == "assistant" else "")]


def _is_taught(message: dict) -> bool:
    """False for a message of weight 0, whose `loss` or `train` is false, or whose `mask` is true."""
    marks = [_mark(message[key]) for key in columns_named(message, "taught")]
    masks = [_mark(message[key]) for key in columns_named(message, "masked")]
    return not any(mark in ("0", "0.0", "false") for mark in marks) and not any(m in ("1", "true") for m in masks)


def _has_partial_weight(message: dict) -> bool:
    """Whether a message has a weight between 0 and 1, or above, which training doesn't know."""
    marks = {_mark(message[key]) for key in columns_named(message, "taught")}
    return bool(marks - {"", "0", "0.0", "1", "1.0", "true", "false"})


def _mark(value: Any) -> str:
    return text_of(value).strip().casefold()


def _content(content: Any) -> tuple[str, bool]:
    """A content's text, of all its parts, and whether some of them are reasoning. Raises UnusableRecord: "images"."""
    if not isinstance(content, (list, dict)):
        return text_of(content), False
    texts, reasoning = [], False
    for part in _parts(content):
        kind = str(part.get("type", ""))
        if kind in REASONING_PARTS or "reasoningContent" in part:
            reasoning = True
        elif kind.startswith(MEDIA_PARTS) or (not kind and any(is_named(key, "media") for key in part)):
            raise UnusableRecord("images")
        elif kind.startswith(("tool_use", "tool_call")):
            continue
        elif kind == "tool_result":
            texts.append(_content(part.get("content"))[0])
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(text := _first_content(part), str):
            texts.append(text)
        else:
            raise UnusableRecord("messages")
    return text_of("\n".join(texts)), reasoning


def _parts(content: Any) -> list[dict]:
    """The parts of a content: objects with or without a "type", or texts."""
    if isinstance(content, dict):
        content = content["parts"] if isinstance(content.get("parts"), list) else [content]
    if not isinstance(content, list):
        return []
    return [part if isinstance(part, dict) else {"text": text_of(part)} for part in content]


def _first(values: dict, keys: list[str]) -> Any:
    """The first value that isn't missing: data sets that were merged have empty twins of keys."""
    return next((values[key] for key in keys if values[key] is not None), None)


def _content_keys(message: dict) -> list[str]:
    """The keys of a message that may hold its text; a dict of the role's key isn't one."""
    return columns_named(message, "content")


def _first_content(message: dict) -> Any:
    keys = _content_keys(message)
    found = [key for key in keys if message[key] not in (None, "", [])]
    return message[found[0]] if found else _first(message, keys)


def _is_by_role(value: Any) -> bool:
    """Whether a value is an object of texts by role, like {"user": …, "assistant": …}."""
    if not isinstance(value, dict) or len(value) < 2:
        return False
    return all(role_named(key) and isinstance(text, (str, type(None))) for key, text in value.items())


def _zipped(value: Any) -> list[dict]:
    """Messages from lists by key, {"role": […], "content": […]}; empty if a value isn't that."""
    if not is_message(value):
        return []
    lists = {key: items for key, items in value.items() if isinstance(items, list)}
    roles, contents = columns_named(lists, "role"), _content_keys(lists)
    if not roles or not contents or len(lists[roles[0]]) != len(lists[contents[0]]):
        return []
    size = len(lists[roles[0]])
    return [{key: items[n] for key, items in lists.items() if len(items) == size} for n in range(size)]
