"""Join records that are one message each into conversations: by their id, or all of them into one.

Logs are often sorted by time, so that the messages of several conversations alternate. A conversation with an id is
held until the end of the source, within a limit: 100,000 messages or 32 million characters in all; 5,000 messages for a
preview and for what is streamed, of which only the beginning may be wanted. Beyond it, the conversation that has been
idle for longest is passed on, and a note says how many of those went on later, as a conversation of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from playground.data.held_out_split import split_of
from playground.data.messages import is_message
from playground.data.names import columns_named, fold, is_named, role_named
from playground.data.records import Reading, Record
from playground.data.row import text_of
from playground.errors import PlaygroundError, Problem

MAX_HELD, MAX_HELD_CHARS = 100_000, 32 * 2**20  # messages of all conversations that are held, and their characters
MAX_HELD_STREAMED = 5000
MAX_PASSED_ON = 1_000_000  # ids of conversations that were passed on, to notice that one goes on


def conversion(head: list[Record], reading: Reading) -> Callable[[Iterator[Record]], Iterator[Record]] | None:
    """What makes the records of a source whole conversations, or None where they aren't one message each."""
    if not all(_is_bare(record) for record in head):
        return None
    reading.total = None
    reading.add_note(Problem("note.bare_messages"))
    column = _id_column([record.values for record in head])
    if not column:
        reading.add_note(Problem("note.messages_without_id"))
        return _one_after_another
    reading.add_note(Problem("note.messages_by_id", {"column": column}))
    return partial(_by_id, column=column, reading=reading)


def _is_bare(record: Record) -> bool:
    """Whether a record is a message by a known role, and neither a whole row nor part of a tree."""
    values = record.values
    if record.unusable or not is_message(values) or columns_named(values, "parent_id"):
        return False
    if any(is_named(name, kind) for name in values for kind in ("messages", "instruction", "output", "chosen")):
        return False
    return any(role_named(values[name]) for name in columns_named(values, "role"))


def _id_column(messages: list[dict]) -> str:
    """The column that says which conversation a message belongs to, or "".

    A column named `id` is one where most messages share theirs with one of another role, as in no list of messages.
    """
    columns = list(dict.fromkeys(name for message in messages for name in message))
    for column in columns_named(columns, "conversation_id"):
        if any(_id(message, column) for message in messages):
            return column
    for column in (name for name in columns_named(columns, "message_id") if fold(name) == "id"):
        roles: dict[str, list[str]] = {}
        for message in messages:
            roles.setdefault(_id(message, column), []).append(_role(message))
        shared = sum(len(found) for id, found in roles.items() if id and len(set(found)) > 1)
        if 2 * shared > len(messages):
            return column
    return ""


def _one_after_another(records: Iterator[Record]) -> Iterator[Record]:
    """A record {"messages"} for each conversation, numbered from 1: a system prompt begins the next one."""
    messages: list[dict] = []
    number = 0
    for record in records:
        begins = _role(record.values) == "system" and any(_role(message) != "system" for message in messages)
        if begins:
            number += 1
            yield _conversation(number, messages)
            messages = []
        messages.append(record.values)
    if messages:
        yield _conversation(number + 1, messages)


@dataclass
class _Held:
    """Conversations that may go on, {id: messages}.

    idle: their characters by id, first that of the conversation without a new message for longest. count, chars:
    messages of all of them, and characters.
    """

    messages: dict[str, list[dict]] = field(default_factory=dict)
    idle: dict[str, int] = field(default_factory=dict)
    count: int = 0
    chars: int = 0

    def add(self, id: str, message: dict) -> None:
        self.messages.setdefault(id, []).append(message)
        chars = sum(len(value if isinstance(value, str) else str(value)) for value in message.values())
        self.idle[id] = self.idle.pop(id, 0) + chars  # moves to the end
        self.count, self.chars = self.count + 1, self.chars + chars

    def pass_on(self, id: str) -> list[dict]:
        messages = self.messages.pop(id)
        self.count, self.chars = self.count - len(messages), self.chars - self.idle.pop(id)
        return messages


def _by_id(records: Iterator[Record], column: str, reading: Reading) -> Iterator[Record]:
    """A record {"messages"} for each id, numbered from 1, in the order in which they begin; see above for the limit.

    A message without an id belongs to the conversation of the one before it, as where a table's cells are merged.
    """
    most = MAX_HELD_STREAMED if reading.is_preview or reading.is_streamed else MAX_HELD
    held, passed_on, resumed = _Held(), set[str](), set[str]()
    id, number, error = "", 0, None
    try:
        for record in records:
            id = _id(record.values, column) or id
            if id in passed_on and id not in held.messages:
                resumed.add(id)
            held.add(id, {name: value for name, value in record.values.items() if name != column})
            while len(held.messages) > 1 and (held.count > most or held.chars > MAX_HELD_CHARS):
                oldest, number = next(iter(held.idle)), number + 1
                if len(passed_on) < MAX_PASSED_ON:
                    passed_on.add(oldest)
                yield _conversation(number, held.pass_on(oldest))
    except PlaygroundError as raised:  # what was read before it is still shown
        error = raised
    for messages in held.messages.values():
        number += 1
        yield _conversation(number, messages)
    if resumed and not reading.is_preview:
        reading.add_note(Problem("note.conversations_cut", {"count": len(resumed), "most": most, "column": column}))
    if error:
        raise error


def _conversation(number: int, messages: list[dict]) -> Record:
    """The record of a conversation, which belongs to the part of its set that its first message names."""
    split = split_of(messages[0])[0]
    if not split:
        return Record(number, {"messages": messages})
    without = [{name: value for name, value in message.items() if name != split} for message in messages]
    return Record(number, {"messages": without, split: messages[0][split]})


def _id(message: dict, column: str) -> str:
    return text_of(message.get(column)).strip()


def _role(message: dict[str, Any]) -> str:
    return next((role for name in columns_named(message, "role") if (role := role_named(message[name]))), "")
