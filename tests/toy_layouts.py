"""Seven public layouts of data sets, rebuilt at 20 rows each in `tests/data/layouts/`, and a plain parse of each.

The parses share no code with the program: they say what is taught and what is left out of these files, and why.
Layouts: DPO with ShareGPT turns, KTO with messages, OpenAI's tool calls, content parts with `value`, Alpaca's
`history`, MT-bench's `turns` and `reference`, and OpenAssistant's trees of messages.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parent / "data" / "layouts"


class Taught(NamedTuple):
    """One taught answer, with all that stands before it."""

    system: str
    context: tuple[tuple[str, str], ...]
    question: str
    answer: str


class Parsed(NamedTuple):
    """What is taught of a file, and how many answers or rows aren't, by reason."""

    taught: list[Taught]
    left_out: Counter[str]


def dpo_sharegpt(records: list[dict]) -> Parsed:
    """The chosen answer, after its conversation; the rejected one never."""
    taught, left_out = [], Counter[str]()
    for record in records:
        turns = [(turn["from"], turn["value"]) for turn in record["conversations"]]
        system = "".join(text for name, text in turns if name == "system")
        texts = [text for name, text in turns if name != "system"]
        answer = record["chosen"]["value"]
        if answer:
            taught.append(Taught(system, tuple(zip(texts[:-1:2], texts[1::2])), texts[-1], answer))
        else:
            left_out["empty"] += 1
    return Parsed(taught, left_out)


def kto_messages(records: list[dict]) -> Parsed:
    """The answers of conversations that are judged good."""
    taught, left_out = [], Counter[str]()
    for record in records:
        texts = [message["content"] for message in record["messages"]]
        pairs = tuple(zip(texts[::2], texts[1::2]))
        if not record["label"]:
            left_out["judged"] += 1
            continue
        taught += [Taught("", pairs[:n], *pair) for n, pair in enumerate(pairs)]
    return Parsed(taught, left_out)


def tool_calls(records: list[dict]) -> Parsed:
    """The answers in words. A call is context, and so is its result, which is asked in the user's stead."""
    taught, left_out = [], Counter[str]()
    for record in records:
        system, *messages = record["messages"]
        pairs: list[tuple[str, str]] = []
        question = ""
        for message in messages:
            if message["role"] != "assistant":
                question = message["content"]
            elif message.get("tool_calls"):
                left_out["tool_calls"] += 1
                pairs.append((question, json.dumps(message["tool_calls"], ensure_ascii=False)))
            else:
                taught.append(Taught(system["content"], tuple(pairs), question, message["content"]))
                pairs.append((question, message["content"]))
    return Parsed(taught, left_out)


def content_parts_value(records: list[dict]) -> Parsed:
    """Texts in parts, a line each; conversations with a picture are left out."""
    taught, left_out = [], Counter[str]()
    for record in records:
        parts = [part for message in record["messages"] for part in message["content"]]
        if any(part["type"] != "text" for part in parts):
            left_out["images"] += 1
            continue
        texts = {m["role"]: "\n".join(part["value"] for part in m["content"]) for m in record["messages"]}
        taught.append(Taught(texts.get("system", ""), (), texts["user"], texts["assistant"]))
    return Parsed(taught, left_out)


def history_pairs(records: list[dict]) -> Parsed:
    """The output, and the answers of the earlier turns, each after those before it."""
    taught = []
    for record in records:
        question = "\n\n".join(text for text in (record["instruction"], record["input"]) if text)
        pairs = (*((asked, answered) for asked, answered in record["history"]), (question, record["output"]))
        taught += [Taught(record["system"], pairs[:n], *pair) for n, pair in enumerate(pairs)]
    return Parsed(taught, Counter())


def mt_bench(records: list[dict]) -> Parsed:
    """The reference answers to the questions in turn; questions without one teach nothing."""
    taught, left_out = [], Counter[str]()
    for record in records:
        if "reference" not in record:
            left_out["unanswered"] += 1
            continue
        pairs = tuple(zip(record["turns"], record["reference"]))
        taught += [Taught("", pairs[:n], *pair) for n, pair in enumerate(pairs)]
    return Parsed(taught, left_out)


def oasst_messages(records: list[dict]) -> Parsed:
    """Every answer once, after the messages between its tree's first one and itself."""
    by_id = {record["message_id"]: record for record in records}
    taught, left_out = [], Counter[str]()
    for record in records:
        if record["role"] != "assistant":
            continue
        texts, parent = [record["text"]], record["parent_id"]
        while parent in by_id:
            texts.insert(0, by_id[parent]["text"])
            parent = by_id[parent]["parent_id"]
        if parent:
            left_out["orphan"] += 1
            continue
        *context, question, answer = texts
        taught.append(Taught("", tuple(zip(context[::2], context[1::2])), question, answer))
    return Parsed(taught, left_out)


PARSES: dict[str, Callable[[list[dict]], Parsed]] = {
    "dpo_sharegpt.jsonl": dpo_sharegpt,
    "kto_messages.jsonl": kto_messages,
    "tool_calls.jsonl": tool_calls,
    "content_parts_value.jsonl": content_parts_value,
    "history_pairs.json": history_pairs,
    "mt_bench.jsonl": mt_bench,
    "oasst_messages.jsonl": oasst_messages,
}


def records_of(path: Path) -> list[dict]:
    """The records of a JSON or JSON Lines file."""
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def parse(name: str) -> Parsed:
    """The plain parse of a layout's file."""
    return PARSES[name](records_of(FOLDER / name))


def taught_by_program(rows: list[Any]) -> list[Taught]:
    """The program's rows, in the form of the plain parses."""
    return [
        Taught(row.system, row.before, "\n\n".join(t for t in (row.instruction, row.input) if t), row.output)
        for row in rows
    ]
