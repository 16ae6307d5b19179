"""Column mapping: which column of a record is the instruction, output, messages, …; guessed from names or set by hand.

A record has one of three layouts: a question and answer pair, a conversation (`messages`, of which every answer
becomes a row), or a text alone. Known column names are listed in `assets/catalog/columns.json`.
"""

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from playground import catalog
from playground.data import conversation
from playground.data.row import Row, text_of
from playground.errors import problem

FIELDS = ("instruction", "input", "output", "messages", "text", "system", "category")
MAX_NAMES = 12  # column names in an error message
SEPARATORS = "[,\uff0c\u3001]"  # of a mapping: ASCII, full-width and ideographic commas


@dataclass(frozen=True)
class ColumnMapping:
    """Names of columns by field, {field: column}, and the fields whose column is a guess."""

    names: dict[str, str]
    guessed: frozenset[str] = frozenset()

    @cached_property
    def layout(self) -> str:
        """ "pair", "messages" or "text"."""
        return next((field for field in ("messages", "text") if field in self.names), "pair")

    def rows(self, record: dict, number: int) -> tuple[list[Row], tuple[str, ...]]:
        """Convert a record to rows, one per answer, and remarks about it ("nested", "greeting").

        Fields that the record lacks are empty. Raises UnusableRecord.
        """
        system, category = (text_of(self.value(record, field)) for field in ("system", "category"))
        common = Row("", "", system=system, category=category, number=number)
        if self.layout == "messages":
            return conversation.split_into_rows(conversation.parse_messages(self.value(record, "messages")), common)
        values = {field: self.value(record, field) for field in ("instruction", "input", "output", "text")}
        if conversation.is_conversation(values["instruction"]) or conversation.is_conversation(values["output"]):
            messages = conversation.parse_messages(values["instruction"], "user")
            messages += conversation.parse_messages(values["output"], "assistant")
            return conversation.split_into_rows(messages, common)
        remarks = ("nested",) if any(isinstance(value, (dict, list)) for value in values.values()) else ()
        if self.layout == "text":
            return [replace(common, output=text_of(values["text"]))], remarks
        key = record.get("key")
        row = replace(
            common,
            instruction=text_of(values["instruction"]),
            output=text_of(values["output"]),
            input=text_of(values["input"]),
            key=tuple(str(k) for k in key) if isinstance(key, list) else (),
        )
        return [row], remarks

    def value(self, record: dict, field: str) -> Any:
        """The record's value of a field; the column may be a path into nested values, like answers.text.0."""
        name = self.names.get(field)
        if name is None or name in record:
            return record.get(name)
        value: Any = record
        for step in name.split("."):
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal():
                value = value[int(step)] if int(step) < len(value) else None
            else:
                return None
        return value


def resolve_columns(mapping: str, records: list[dict], source: str) -> ColumnMapping:
    """Combine the mapping set by hand with a guess for the fields that it leaves open.

    Raises PlaygroundError, naming the columns that exist: an unknown field or column, no columns for a question and an
    answer.
    """
    columns, chosen = column_names_of(records), parse_mapping(mapping)
    absent = [
        name
        for name in chosen.values()
        if name and name not in columns and not any(_has_value(record, name) for record in records)
    ]
    if absent:
        raise problem("error.column_absent", source=source, absent=absent, found=columns[:MAX_NAMES])
    guess = _guess(columns, records)
    if {"instruction", "output"} & set(chosen):
        guess = {field: name for field, name in guess.items() if field not in ("messages", "text")}
        guess |= _input_as_instruction(chosen, guess)
    elif {"messages", "text"} & set(chosen):
        guess = {field: name for field, name in guess.items() if field in ("system", "category")}
    taken = set(chosen.values())
    guess = {field: name for field, name in guess.items() if field not in chosen and name not in taken}
    names = {field: name for field, name in {**guess, **chosen}.items() if name}
    if not ({"messages", "text"} & set(names) or {"instruction", "output"} <= set(names)):
        raise problem("error.columns", source=source, found=columns[:MAX_NAMES])
    return ColumnMapping(names, frozenset(guess))


def column_names_of(records: list[dict]) -> list[str]:
    """The columns of these records, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def parse_mapping(mapping: str) -> dict[str, str]:
    """Parse "instruction=Question, output=Reply", or a JSON object where names contain commas, to {field: column}.

    Raises PlaygroundError.
    """
    text = mapping.strip()
    if text.startswith("{"):
        try:
            names = {str(field): str(name) for field, name in json.loads(text).items()}
        except (ValueError, RecursionError) as error:
            raise problem("error.column_form", given=text[:80], parts=FIELDS) from error
    else:
        pairs = [pair.split("=", 1) for pair in re.split(SEPARATORS, text) if pair.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise problem("error.column_form", given=text[:80], parts=FIELDS)
        names = {field.strip().lower(): name.strip() for field, name in pairs}
    if not set(names) <= set(FIELDS):
        raise problem("error.column_form", given=text[:80], parts=FIELDS)
    return names


def format_mapping(names: dict[str, str]) -> str:
    """Format {field: column} as text that `parse_mapping` reads."""
    if any(re.search(rf"{SEPARATORS}|^\s|\s$", name) for name in names.values()):
        return json.dumps(names, ensure_ascii=False)
    return ", ".join(f"{field}={name}" for field, name in names.items())


def _guess(columns: list[str], records: list[dict]) -> dict[str, str]:
    """Guess {field: column} from column names, ignoring case; a lone column is a text."""
    by_lower_name: dict[str, str] = {}
    for column in columns:
        by_lower_name.setdefault(column.strip().lower(), column)
    guess = {}
    for field, entry in catalog.column_names().items():
        known = next((name for name in entry["names"] if name in by_lower_name), None)
        if known is not None:
            guess[field] = by_lower_name[known]
    if "messages" in guess:
        if any(conversation.is_conversation(record.get(guess["messages"]), True) for record in records):
            return {field: name for field, name in guess.items() if field in ("messages", "system", "category")}
        del guess["messages"]
    guess |= _input_as_instruction({}, guess)
    if {"instruction", "output"} <= set(guess):
        guess.pop("text", None)
        return {field: name for field, name in guess.items() if field != "input" or name != guess["instruction"]}
    text_only = {field: name for field, name in guess.items() if field in ("text", "system", "category")}
    if len(columns) == 1:
        text_only = {"text": columns[0]}
    return text_only if "text" in text_only else guess


def _input_as_instruction(chosen: dict[str, str], guess: dict[str, str]) -> dict[str, str]:
    """Without any instruction column, the input column is the question."""
    has_instruction = "instruction" in chosen or "instruction" in guess
    if has_instruction or "input" in chosen or "input" not in guess:
        return {}
    return {"instruction": guess["input"]}


def _has_value(record: dict, name: str) -> bool:
    return ColumnMapping({"text": name}).value(record, "text") is not None
