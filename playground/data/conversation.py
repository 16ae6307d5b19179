"""Conversations: message lists of OpenAI (role, content) or ShareGPT (from, value), one row per answer, and turns."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from playground.data.row import Row, UnusableRecord, text_of

USER_ROLES = ("user", "human", "prompter")
ASSISTANT_ROLES = ("assistant", "gpt", "bot", "model", "chatgpt", "bard")
SYSTEM_ROLES = ("system", "developer")

Message = tuple[str, str]  # role and text


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation; `answer` is None in the turn to be answered."""

    instruction: str
    answer: str | None = None
    input: str = ""


def turns(row: Row) -> list[Turn]:
    """The earlier turns of a row's conversation, and its question as the turn to be answered."""
    return [*(Turn(question, answer) for question, answer in row.before), Turn(row.instruction, input=row.input)]


def is_conversation(value: Any, allow_json_text: bool = False) -> bool:
    """Whether a value is a list of messages or, with `allow_json_text`, a JSON text that begins like one."""
    if allow_json_text and isinstance(value, str):
        return re.match(r'\s*\[\s*\{\s*"(role|from|content|value)"', value) is not None
    if not isinstance(value, list) or not value:
        return False
    return all(
        isinstance(message, dict) and ({"role", "content"} <= set(message) or {"from", "value"} <= set(message))
        for message in value
    )


def parse_messages(value: Any, role: str = "") -> list[Message]:
    """Parse a message list, JSON of one, or (with `role`) a plain text by that role. Raises UnusableRecord."""
    if value is None:
        return []
    if role and not is_conversation(value):
        return [(role, text_of(value))]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UnusableRecord("messages") from error
    if not isinstance(value, list):
        raise UnusableRecord("messages")
    return [_parse_message(message) for message in value]


def split_into_rows(messages: list[Message], common: Row) -> tuple[list[Row], tuple[str, ...]]:
    """Make a row of every answer, with all earlier turns as its context.

    common: the fields that all rows share. Returns the rows, and ("greeting",) if an answer without a question before
    it was dropped. Raises UnusableRecord: an unknown role, no answer at all.
    """
    system = [common.system] if common.system else []
    questions: list[str] = []
    before: list[tuple[str, str]] = []
    rows: list[Row] = []
    remarks: tuple[str, ...] = ()
    for role, text in messages:
        if role in SYSTEM_ROLES:
            system.append(text)
        elif role in USER_ROLES:
            questions.append(text)
        elif role not in ASSISTANT_ROLES:
            raise UnusableRecord("messages")
        elif questions:
            question = "\n\n".join(questions)
            rows.append(
                replace(common, instruction=question, output=text, before=tuple(before), system="\n\n".join(system))
            )
            before.append((question, text))
            questions = []
        elif before:  # an answer in two messages
            question, start = before.pop()
            before.append((question, f"{start}\n\n{text}"))
            rows[-1] = replace(rows[-1], output=before[-1][1])
        else:
            remarks = ("greeting",)
    if not rows:
        raise UnusableRecord("empty")
    return rows, remarks


def _parse_message(message: Any) -> Message:
    if not isinstance(message, dict):
        raise UnusableRecord("messages")
    role, content = message.get("role") or message.get("from"), message.get("content", message.get("value"))
    if isinstance(content, list):  # OpenAI's content parts; pictures can't be trained on
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise UnusableRecord("messages")
        content = "\n".join(part["text"] for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise UnusableRecord("messages")
    return role.strip().lower(), text_of(content)
