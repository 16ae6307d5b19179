"""Join records that are one message each into conversations."""

from collections.abc import Callable, Iterator

from playground.data.messages import is_message
from playground.data.names import columns_named, is_named, role_named
from playground.data.records import Reading, Record
from playground.errors import Problem


def conversion(head: list[Record], reading: Reading) -> Callable[[Iterator[Record]], Iterator[Record]] | None:
    """What makes the records of a source whole conversations, or None where they aren't one message each."""
    if not all(_is_bare(record) for record in head):
        return None
    reading.total = None
    reading.add_note(Problem("note.bare_messages"))
    return _conversations


def _is_bare(record: Record) -> bool:
    """Whether a record is a message by a known role, and neither a whole row nor part of a tree."""
    values = record.values
    if record.unusable or not is_message(values) or columns_named(values, "parent_id"):
        return False
    if any(is_named(name, kind) for name in values for kind in ("messages", "instruction", "output", "chosen")):
        return False
    return any(role_named(values[name]) for name in columns_named(values, "role"))


def _conversations(records: Iterator[Record]) -> Iterator[Record]:
    """A record {"messages"} for each conversation, numbered from 1.

    A conversation ends where its id changes or, without ids, where a system prompt begins the next.
    """
    messages: list[dict] = []
    id, number = None, 0
    for record in records:
        values = record.values
        ids = columns_named(values, "conversation_id")
        new_id = values[ids[0]] if ids else None
        roles = [role_named(values[name]) for name in columns_named(values, "role")]
        begins = new_id != id if ids else "system" in roles and any(not _is_system(message) for message in messages)
        if messages and begins:
            number += 1
            yield Record(number, {"messages": messages})
            messages = []
        id = new_id
        messages.append({name: value for name, value in values.items() if name not in ids})
    if messages:
        yield Record(number + 1, {"messages": messages})


def _is_system(message: dict) -> bool:
    return any(role_named(message[name]) == "system" for name in columns_named(message, "role"))
