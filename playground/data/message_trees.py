"""Trees of messages, as OpenAssistant's data sets are: each answer becomes a record with the turns before it.

Either every record is one message with its own id and its parent's, or a record is a whole tree of nested replies.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from playground.data.messages import is_message
from playground.data.names import columns_named, is_named, role_named
from playground.data.records import Reading, Record
from playground.data.row import text_of
from playground.errors import Problem

MAX_PATH = 512  # messages from the first to an answer


@dataclass(frozen=True)
class _Node:
    """One message: its role, its text, its parent's id, and all its columns."""

    role: str
    text: str
    parent: str
    values: dict


@dataclass
class _Forest:
    """Messages by id; `waiting`: answers whose parent wasn't read yet, with the number of their record."""

    nodes: dict[str, _Node] = field(default_factory=dict)
    waiting: list[tuple[int, _Node]] = field(default_factory=list)

    def path(self, node: _Node) -> list[_Node] | None:
        """The messages from the tree's first to this one, or None if one is missing or the path has no end."""
        path = [node]
        while path[-1].parent:
            parent = self.nodes.get(path[-1].parent)
            if parent is None or len(path) >= MAX_PATH:
                return None
            path.append(parent)
        return path[::-1]


def conversion(head: list[Record], reading: Reading) -> Callable[[Iterator[Record]], Iterator[Record]] | None:
    """What makes the records of a source one per answer, or None where they aren't messages of trees."""
    if not all(_is_node(record.values) or _root(record.values) for record in head):
        return None
    reading.total = None
    reading.add_note(Problem("note.message_trees"))
    return _answers


def _is_node(values: dict) -> bool:
    """Whether a record is a message that names itself and its parent."""
    return is_message(values) and bool(columns_named(values, "message_id") and columns_named(values, "parent_id"))


def _root(values: dict) -> dict | None:
    """The first message of a record that is a tree: a message with a list of replies."""
    for value in (values, *values.values()):
        if is_message(value) and isinstance(value.get("replies"), list):
            return value
    return None


def _answers(records: Iterator[Record]) -> Iterator[Record]:
    """A record {"instruction", "output", …} for each answer, in the order in which the answers stand."""
    forest = _Forest()
    for record in records:
        if record.unusable:
            yield record
            continue
        for id, node in _nodes(record):
            forest.nodes[id] = node
            if node.role != "assistant":
                continue
            path = forest.path(node)
            if path:
                yield _record(record.number, path)
            else:
                forest.waiting.append((record.number, node))
    for number, node in forest.waiting:
        path = forest.path(node)
        yield _record(number, path) if path else Record(number, {}, "orphan")


def _nodes(record: Record) -> Iterator[tuple[str, _Node]]:
    """The messages of a record with their ids, parents before their replies."""
    root = None if _is_node(record.values) and "replies" not in record.values else _root(record.values)
    if root is None:
        ids, parents = (columns_named(record.values, kind) for kind in ("message_id", "parent_id"))
        id, parent = ((text_of(record.values[names[0]]) if names else "") for names in (ids, parents))
        yield id, _node(record.values, parent)
        return
    waiting = [("", root)]
    for number in itertools.count():
        if not waiting:
            return
        parent, message = waiting.pop()
        id = f"{record.number}.{number}"
        yield id, _node({name: value for name, value in message.items() if name != "replies"}, parent)
        replies = message.get("replies")
        replies = replies if isinstance(replies, list) else []
        waiting += [(id, reply) for reply in reversed(replies) if isinstance(reply, dict)]


def _node(values: dict, parent: str) -> _Node:
    role, text = (next((values[name] for name in columns_named(values, kind)), None) for kind in ("role", "content"))
    return _Node(role_named(role), text_of(text), parent, values)


def _record(number: int, path: list[_Node]) -> Record:
    """The answer at the path's end, its question and the turns before it; consecutive messages of a role are joined."""
    turns: list[list[str]] = []
    for node in path:
        if node.role == "user" and (not turns or turns[-1][1]):
            turns.append([node.text, ""])
        elif node.role == "user":
            turns[-1][0] += f"\n\n{node.text}"
        elif node.role == "assistant" and turns:
            turns[-1][1] += f"\n\n{node.text}" if turns[-1][1] else node.text
    if not turns:
        return Record(number, {}, "orphan")
    system = "\n\n".join(node.text for node in path if node.role == "system")
    kinds = ("message_id", "parent_id", "role", "content")
    others = {name: value for name, value in path[-1].values.items() if not any(is_named(name, kind) for kind in kinds)}
    row = {"instruction": turns[-1][0], "output": turns[-1][1]} | ({"system": system} if system else {})
    return Record(number, others | row, before=tuple((question, answer) for question, answer in turns[:-1]))
