"""Join records that are one message each into conversations."""

import itertools
from collections.abc import Iterator

from playground.data.messages import is_message
from playground.data.names import columns_named, fold, is_named, role_named
from playground.data.records import Reading, Record
from playground.errors import PlaygroundError, Problem

HEAD = 100  # records that tell whether they are messages
TREE_COLUMNS = ("parentid", "parent")  # of messages that form trees, which can't be joined in order


def join_messages(reading: Reading) -> None:
    """Make the records of a source whole conversations, where each of them is one message."""
    reading.records = _joined(reading.records, reading)


def _joined(records: Iterator[Record], reading: Reading) -> Iterator[Record]:
    """The records; if each is one message, a record {"messages"} a conversation instead, numbered from 1.

    A conversation ends where its id changes or, without ids, where a system prompt begins the next.
    """
    head: list[Record] = []
    error: PlaygroundError | None = None
    try:
        head += itertools.islice(records, HEAD)
    except PlaygroundError as raised:  # what was read before it is still shown
        error = raised
    records = itertools.chain(head, records)
    if head and all(_is_bare(record) for record in head):
        reading.total = None
        reading.add_note(Problem("note.bare_messages"))
        records = _conversations(records)
    yield from records
    if error:
        raise error


def _is_bare(record: Record) -> bool:
    """Whether a record is a message by a known role, and neither a whole row nor part of a tree."""
    values = record.values
    if record.unusable or not is_message(values) or any(fold(name) in TREE_COLUMNS for name in values):
        return False
    if any(is_named(name, kind) for name in values for kind in ("messages", "instruction", "output", "chosen")):
        return False
    return any(role_named(values[name]) for name in columns_named(values, "role"))


def _conversations(records: Iterator[Record]) -> Iterator[Record]:
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
