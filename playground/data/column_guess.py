"""Guess which column of a record is which part of a row: from what the values are, then from usual names."""

import re
from collections.abc import Iterator
from typing import Any

from playground.data.cells import parse_cell
from playground.data.messages import conversation_in, is_message_list
from playground.data.names import columns_named, is_named, role_named, verdict
from playground.data.quiz import find_quiz, option_columns
from playground.data.row import has_visible_text, text_of
from playground.data.turn_forms import exchanges_in, texts_in_turn, transcript

PARTS_BY_NAME = ("instruction", "input", "output", "text", "system", "category", "history")
SPECIAL = ("chosen", "rejected", "label", "rank", "media", "taught", "reasoning", "history", "system", "category")
MAX_NESTED = 40  # nested columns on offer
MAX_EXAMPLE = 30  # characters of an example value
NUMBER = re.compile(r"-?\d+(\.\d+)?")
TEXT_END = re.compile(r"(\s|</s>|<eos>|<end_of_turn>|<\|[^|<>]*\|>)*")  # what may stand behind a text's last word


def guess_columns(columns: list[str], records: list[dict]) -> dict[str, str]:
    """Guess {field: column}.

    A conversation is recognized by its structure, under any name; all else by name. A lone column is a text, and so is
    one without a column of answers. Columns of answers marked as bad, and of a quiz's options, are never guessed.
    """
    is_lone, quiz, options = len(columns) == 1, find_quiz(columns, records), option_columns(columns).values()
    columns = [column for column in columns if not is_named(column, "rejected") and column not in options]
    guess: dict[str, str] = {part: found for part in PARTS_BY_NAME if (found := _named(columns, part, records))}
    guess |= {"output": quiz.key} if quiz else {}
    common = {part: guess[part] for part in ("system", "category", "history") if part in guess}
    messages = _messages_column(columns, records)
    chosen = chosen_column(columns, records)
    if chosen:
        return common | _preference(chosen, messages, guess, records)
    if messages:
        return {"messages": messages} | {part: common[part] for part in ("system", "category") if part in common}
    if "instruction" not in guess and "input" in guess:
        guess["instruction"] = guess.pop("input")
    if "instruction" not in guess and (quiz or _is_asked(guess, records)) and "text" in guess:
        guess["instruction"] = guess.pop("text")
    if not {"instruction", "output", "text"} & set(guess):
        guess |= _speakers(columns)
    if {"instruction", "output"} <= set(guess):
        guess.pop("text", None)
        return {part: name for part, name in guess.items() if part == "instruction" or name != guess["instruction"]}
    text: dict[str, str] = {part: guess[part] for part in ("text", "system", "category") if part in guess}
    if is_lone and columns:
        text = {"text": columns[0]}
    if "text" in text and _are_transcripts(_values(text["text"], records)):
        return {"messages": text["text"]} | {part: name for part, name in text.items() if part != "text"}
    return text if "text" in text else guess


def chosen_column(columns: list[str], records: list[dict]) -> str:
    """The column of answers preferred to others ("chosen"), or ""; a column of numbers or flags isn't one."""
    has_rejected = any(is_named(name, "rejected") for record in records for name in record)
    for column in columns_named(columns, "chosen"):
        values = _values(column, records)
        is_flag = not has_rejected and _all_verdicts(column, records)
        if values and all(isinstance(value, (str, list, dict)) for value in values) and not is_flag:
            return column
    return ""


def judging_columns(columns: list[str], records: list[dict]) -> tuple[str, ...]:
    """The columns that say of each answer whether it is good: all their values are verdicts, as true, 0 or "good"."""
    named = [column for kind in ("label", "taught", "chosen") for column in columns_named(columns, kind)]
    return tuple(column for column in named if _values(column, records) and _all_verdicts(column, records))


def unclear_labels(columns: list[str], records: list[dict]) -> dict[str, list[str]]:
    """{column: its first distinct values} of the columns with a label's or a score's name."""
    named = columns_named(columns, "label")
    return {c: list(dict.fromkeys(map(text_of, _values(c, records))))[:5] for c in named if _values(c, records)}


def numbered_answers(output: str, columns: list[str], records: list[dict]) -> dict[str, list[str]]:
    """{output: its first distinct values} if they are numbers that stand for classes, or for a column of choices."""
    values = list(dict.fromkeys(map(text_of, _values(output, records))))[:5]
    if not values or not all(map(NUMBER.fullmatch, values)):
        return {}
    lists = [c for c in columns_named(columns, "choices") if any(isinstance(v, list) for v in _values(c, records))]
    return {output: values} if lists or is_named(output, "label") else {}


def unread_scores(mapping: dict[str, str], columns: list[str], records: list[dict]) -> dict[str, list[str]]:
    """{column: its first distinct values} of numbers that look like answers, or like scores of one answer, by name.

    mapping: {field: column}. Numbers beside a text are its class or its score, which nobody explains.
    """
    named = columns_named(columns, "rank") + (columns_named(columns, "output") if "text" in mapping else [])
    found = {c: [text_of(value).strip() for value in _values(c, records)] for c in named}
    return {c: list(dict.fromkeys(v))[:5] for c, v in found.items() if v and all(map(NUMBER.fullmatch, v))}


def nested_columns(records: list[dict]) -> dict[str, Any]:
    """{path: an example value} of the texts within lists and objects, like "chosen.value" or "output.0"."""
    found: dict[str, Any] = {}
    for record in records:
        for column, value in record.items():
            if isinstance(value, (dict, list)) and not is_message_list(value):
                for path, leaf in _leaves(str(column), value, 3):
                    if len(found) >= MAX_NESTED:
                        return found
                    found.setdefault(path, leaf)
    return found


def examples(columns: list[str], records: list[dict]) -> list[str]:
    """An example value of each column that has one: "name: “value”"."""
    values = {column: next(iter(_values(column, records)), "") for column in columns}
    return [f"{column}: “{_short(value)}”" for column, value in values.items() if text_of(value).strip()]


def propose(columns: list[str], records: list[dict]) -> dict[str, str]:
    """A mapping {field: column} that can be read: the first two columns of text, or the only one."""
    options = option_columns(columns).values()
    shown = [column for column in columns if column not in options]
    leaves = {column: next(iter(_values(column, records)), None) for column in shown} | nested_columns(records)
    usable = [
        name
        for name, value in leaves.items()
        if not isinstance(value, (dict, list))
        and has_visible_text(text_of(value))
        and not any(is_named(name.split(".")[0], kind) for kind in SPECIAL[1:])
    ]
    texts = [name for name in usable if any(char.isalpha() for char in text_of(leaves[name]))]
    guess = guess_columns(columns, records)
    question, output = guess.get("instruction", ""), guess.get("output", "")
    best = texts if len(texts) >= 2 or not (question or output or len(texts) == 0) else usable
    if not question and not output and len(best) >= 2:
        question, output = best[:2]
    elif output:
        question = next((name for name in best if name.split(".")[0] != output), "")
    elif question:
        output = next((name for name in best if name.split(".")[0] != question), "")
    if question and output:
        return {"instruction": question, "output": output}
    return {"text": next(iter([*texts, *usable, *columns]), "text")}


def _preference(chosen: str, messages: str, guess: dict[str, str], records: list[dict]) -> dict[str, str]:
    """The columns of a set of chosen and rejected answers: of the conversation, and of the chosen answer."""
    if messages:
        return {"messages": messages, "output": chosen}
    question = guess.get("instruction") or guess.get("input")
    if question:
        extra = {"input": guess["input"]} if guess.get("input", question) != question else {}
        return {"instruction": question, **extra, "output": chosen}
    values = _values(chosen, records)
    if any(conversation_in(v) or (isinstance(v, str) and transcript(v)) for v in values):
        return {"messages": chosen}
    is_asked = _is_asked(guess | {"output": chosen}, records)
    return {"instruction": guess["text"], "output": chosen} if is_asked else {"text": chosen}


def _messages_column(columns: list[str], records: list[dict]) -> str:
    """The column of whole conversations, or ""."""
    for column in columns_named(columns, "messages"):
        if any(_can_be_messages(value) for value in _values(column, records)):
            return column
    known = (*SPECIAL, "instruction", "input", "output")
    for column in columns:
        values = _values(column, records)
        if not any(is_named(column, kind) for kind in known) and values and all(map(conversation_in, values)):
            return column
    return ""


def _named(columns: list[str], part: str, records: list[dict]) -> str:
    """The column with the most usual name for a part, of those that aren't always empty, or ""."""
    named = columns_named(columns, part)
    return next((column for column in named if _values(column, records)), next(iter(named), ""))


def _is_asked(guess: dict[str, str], records: list[dict]) -> bool:
    """Whether the text is the question to a column of answers: neither a whole example nor a text with its class."""
    text, output = guess.get("text", ""), guess.get("output", "")
    if not text or not output or text == output or _are_transcripts(_values(text, records)):
        return False
    pairs = [(text_of(record.get(text)), text_of(record.get(output)).strip()) for record in records]
    asked = [pair for pair in pairs if pair[0].strip()]
    answered = [pair for pair in asked if pair[1]]
    if not answered or 2 * len(answered) < len(asked) or all(_ends_with(*pair) for pair in answered):
        return False
    return not _are_classes([answer for _, answer in answered])


def _ends_with(text: str, answer: str) -> bool:
    before, found, after = text.rpartition(answer)
    return bool(found and before.strip()) and TEXT_END.fullmatch(after) is not None


def _are_classes(values: list[str]) -> bool:
    """Whether values are classes or scores rather than answers: numbers that repeat, 0 and 1, or fractions."""
    if not values or not all(map(NUMBER.fullmatch, values)):
        return False
    distinct = set(values)
    are_verdicts = all(verdict(value) is not None for value in distinct)
    return are_verdicts or 2 * len(distinct) <= len(values) or any("." in value for value in distinct)


def _speakers(columns: list[str]) -> dict[str, str]:
    """Question and answer where two columns have the names of those who speak, like "customer" and "agent"."""
    asked, answered = ([c for c in columns if role_named(c) == role] for role in ("user", "assistant"))
    return {"instruction": asked[0], "output": answered[0]} if asked and answered else {}


def _are_transcripts(values: list) -> bool:
    """Whether all values are texts like "Question: … Answer: …"."""
    return bool(values) and all(isinstance(value, str) and transcript(value) for value in values)


def _can_be_messages(value: Any) -> bool:
    if conversation_in(value) or (isinstance(value, str) and transcript(value)):
        return True
    parsed = parse_cell(value)
    return texts_in_turn(parsed) is not None or exchanges_in(parsed) is not None


def _values(column: str, records: list[dict]) -> list:
    """A column's values that aren't missing."""
    return [value for record in records if text_of(value := record.get(column)).strip()]


def _all_verdicts(column: str, records: list[dict]) -> bool:
    return all(verdict(value) is not None for value in _values(column, records))


def _leaves(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The texts and numbers within a value, by their path."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value[:3])
        for name, item in items if depth else ():
            yield from _leaves(f"{path}.{name}", item, depth - 1)
    elif value is not None:
        yield path, value


def _short(value: Any) -> str:
    text = " ".join(text_of(value)[: 4 * MAX_EXAMPLE].split())
    return text if len(text) <= MAX_EXAMPLE else text[:MAX_EXAMPLE] + "…"
