"""Conversations: lists of messages in OpenAI's form (role, content) or ShareGPT's (from, value), and a row for each of their answers."""

import json
import re

from playground.data.row import Row, UnusableRecord, text_of

ASKED, ANSWERED, SET = (
    ("user", "human", "prompter"),
    ("assistant", "gpt", "bot", "model", "chatgpt", "bard"),
    ("system", "developer"),
)


def is_conversation(value, written: bool = False) -> bool:
    """Whether a value is a list of messages or, with `written`, JSON that begins like one."""
    if written and isinstance(value, str):
        return re.match(r'\s*\[\s*\{\s*"(role|from|content|value)"', value) is not None
    messages = isinstance(value, list) and value and all(isinstance(message, dict) for message in value)
    return bool(messages) and all(
        {"role", "content"} <= set(message) or {"from", "value"} <= set(message) for message in value
    )


def turns(found, role: str = "") -> list[tuple[str, str]]:
    """[(role, text)] of a list of messages, of JSON that holds one, or of a text that `role` says. Raises Unfit."""
    if found is None:
        return []
    if role and not is_conversation(found):
        return [(role, text_of(found))]
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except (ValueError, RecursionError) as error:
            raise UnusableRecord("messages") from error
    if not isinstance(found, list):
        raise UnusableRecord("messages")
    return [_turn(message) for message in found]


def rows(said: list[tuple[str, str]], shared: dict) -> tuple[list[Row], tuple[str, ...]]:
    """A row for every answer, each with all that was said before it, and ("greeting",) where a first answer that nobody asked for was left out.

    `shared`: the fields that all rows have. Raises Unfit: a role that is neither asking nor answering, no answer at all.
    """
    system, asked, found, before, remarks = [shared["system"]] if shared["system"] else [], [], [], [], ()
    for role, text in said:
        if role in SET:
            system.append(text)
        elif role in ASKED:
            asked.append(text)
        elif role not in ANSWERED:
            raise UnusableRecord("messages")
        elif asked:
            question = "\n\n".join(asked)
            found.append(Row(question, text, **{**shared, "before": tuple(before), "system": "\n\n".join(system)}))
            before.append((question, text))
            asked = []
        elif before:  # an answer in two messages
            question, first = before.pop()
            before.append((question, f"{first}\n\n{text}"))
            found[-1] = Row(
                question, before[-1][1], **{**shared, "before": found[-1].before, "system": found[-1].system}
            )
        else:
            remarks = ("greeting",)
    if not found:
        raise UnusableRecord("empty")
    return found, remarks


def _turn(message) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise UnusableRecord("messages")
    who, said = message.get("role") or message.get("from"), message.get("content", message.get("value"))
    if isinstance(said, list):  # OpenAI's content parts; a picture can't be taught here
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in said):
            raise UnusableRecord("messages")
        said = "\n".join(part["text"] for part in said)
    if not isinstance(who, str) or not isinstance(said, str):
        raise UnusableRecord("messages")
    return who.strip().lower(), text_of(said)
