"""Which column is what, guessed from names or said by hand, and what a record then teaches.

A record is one of three things: a question with its answer, a conversation (`messages`, of which every answer is a row), or a
text alone. The usual names of columns stand in `assets/catalog/columns.json`.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property

from playground import catalog
from playground.data import conversation
from playground.data.row import Row, text_of
from playground.errors import problem

FIELDS = ("instruction", "input", "output", "messages", "text", "system", "category")
SHOWN = 12  # names of columns in a message


@dataclass(frozen=True)
class ColumnMapping:
    """{part: column}, and those parts that are a guess. `form`: "pair", "messages" or "text"."""

    names: dict[str, str]
    guessed: frozenset[str] = frozenset()

    @cached_property
    def form(self) -> str:
        return next((form for form in ("messages", "text") if form in self.names), "pair")

    def rows(self, record: dict, number: int) -> tuple[list[Row], tuple[str, ...]]:
        """What a record teaches, an answer each, and what is to be remarked of it ("nested", "greeting"); parts that it lacks are empty. Raises Unfit."""
        shared = {
            "system": text_of(self._of(record, "system")),
            "category": text_of(self._of(record, "category")),
            "number": number,
        }
        if self.form == "messages":
            return conversation.rows(conversation.turns(self._of(record, "messages")), shared)
        values = {part: self._of(record, part) for part in ("instruction", "input", "output", "text")}
        if conversation.is_conversation(values["instruction"]) or conversation.is_conversation(values["output"]):
            asked = conversation.turns(values["instruction"], "user") + conversation.turns(
                values["output"], "assistant"
            )
            return conversation.rows(asked, shared)
        nested = ("nested",) if any(isinstance(value, (dict, list)) for value in values.values()) else ()
        if self.form == "text":
            return [Row("", text_of(values["text"]), **shared)], nested
        key = record.get("key")
        shared["key"] = tuple(str(k) for k in key) if isinstance(key, list) else ()
        return [
            Row(text_of(values["instruction"]), text_of(values["output"]), text_of(values["input"]), **shared)
        ], nested

    def _of(self, record: dict, part: str):
        name = self.names.get(part)
        if name is None or name in record:
            return record.get(name)
        value = record
        for step in name.split("."):  # a column within a column: answers.text.0
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal():
                value = value[int(step)] if int(step) < len(value) else None
            else:
                return None
        return value


def resolve_columns(by_hand: str, records: list[dict], source: str) -> ColumnMapping:
    """The columns said by hand, and a guess for what wasn't said.

    Raises PlaygroundError: a part or a column that doesn't exist, and no columns for a question and an answer, with those found.
    """
    found, said = column_names_of(records), parse_mapping(by_hand)
    absent = [
        name
        for name in said.values()
        if name and name not in found and not any(_reaches(record, name) for record in records)
    ]
    if absent:
        raise problem("error.column_absent", source=source, absent=absent, found=found[:SHOWN])
    guess = _guess(found, records)
    if {"instruction", "output"} & set(said):
        guess = {part: name for part, name in guess.items() if part not in ("messages", "text")} | _lone_input(
            said, guess
        )
    elif {"messages", "text"} & set(said):
        guess = {part: name for part, name in guess.items() if part in ("system", "category")}
    taken = set(said.values())
    guess = {part: name for part, name in guess.items() if part not in said and name not in taken}
    names = {part: name for part, name in {**guess, **said}.items() if name}
    if not ({"messages", "text"} & set(names) or {"instruction", "output"} <= set(names)):
        raise problem("error.columns", source=source, found=found[:SHOWN])
    return ColumnMapping(names, frozenset(guess))


def column_names_of(records: list[dict]) -> list[str]:
    """The columns of these records, in the order in which they first appear."""
    return list(dict.fromkeys(name for record in records for name in record))


def parse_mapping(by_hand: str) -> dict[str, str]:
    """{part: column} from "instruction=Question, output=Reply", or from a JSON object where names hold commas. Raises PlaygroundError."""
    text = by_hand.strip()
    if text.startswith("{"):
        try:
            said = {str(part): str(name) for part, name in json.loads(text).items()}
        except (ValueError, RecursionError) as error:
            raise problem("error.column_form", given=text[:80], parts=FIELDS) from error
    else:
        pairs = [pair.split("=", 1) for pair in re.split("[,\uff0c\u3001]", text) if pair.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise problem("error.column_form", given=text[:80], parts=FIELDS)
        said = {part.strip().lower(): name.strip() for part, name in pairs}
    if not set(said) <= set(FIELDS):
        raise problem("error.column_form", given=text[:80], parts=FIELDS)
    return said


def format_mapping(names: dict[str, str]) -> str:
    """{part: column} as `parsed` reads it."""
    plain = not any(re.search("[,\uff0c\u3001]|^\\s|\\s$", name) for name in names.values())
    return (
        ", ".join(f"{part}={name}" for part, name in names.items()) if plain else json.dumps(names, ensure_ascii=False)
    )


def _guess(found: list[str], records: list[dict]) -> dict[str, str]:
    """{part: column} from the names of columns, without regard to case; a set of one column is a text."""
    lower: dict[str, str] = {}
    for name in found:
        lower.setdefault(name.strip().lower(), name)
    guess = {}
    for part, entry in catalog.column_names().items():
        name = next((lower[known] for known in entry["names"] if known in lower), None)
        if name is not None:
            guess[part] = name
    if "messages" in guess and not any(
        conversation.is_conversation(record.get(guess["messages"]), True) for record in records
    ):
        del guess["messages"]
    if "messages" in guess:
        return {part: name for part, name in guess.items() if part in ("messages", "system", "category")}
    guess |= _lone_input({}, guess)
    if {"instruction", "output"} <= set(guess):
        guess.pop("text", None)
        return {part: name for part, name in guess.items() if part != "input" or name != guess["instruction"]}
    kept = {part: name for part, name in guess.items() if part in ("text", "system", "category")}
    if len(found) == 1:
        kept = {"text": found[0]}
    return kept if "text" in kept else guess


def _lone_input(said: dict, guess: dict) -> dict:
    """Where only an input and an output are there, the input is the question."""
    asked = "instruction" in said or "instruction" in guess
    return {} if asked or "input" in said or "input" not in guess else {"instruction": guess["input"]}


def _reaches(record: dict, name: str) -> bool:
    return ColumnMapping({"text": name})._of(record, "text") is not None
