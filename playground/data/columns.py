"""Column mapping: which column of a record is the instruction, output, messages, …; guessed or set by hand.

A record has one of three layouts: a question and answer pair, a conversation (`messages`, of which every answer
becomes a row), or a text alone. The guess is in column_guess.py, usual names in `assets/catalog/columns.json`.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from playground.data import conversation
from playground.data.answers import Answer, first_answer
from playground.data.column_guess import (
    examples,
    guess_columns,
    judging_columns,
    numbered_answers,
    propose,
    unclear_labels,
    unread_scores,
)
from playground.data.conversation import Converted
from playground.data.mapping_text import FIELDS, format_mapping, parse_mapping
from playground.data.messages import (
    Message,
    conversation_in,
    parse_history,
    parse_messages,
    questions_with_answers,
)
from playground.data.names import columns_named, is_named, verdict
from playground.data.quiz import Quiz, find_quiz
from playground.data.row import Row, UnusableRecord, is_blank, text_of
from playground.data.turn_forms import transcript
from playground.errors import Problem, problem

MAX_NAMES = 12  # column names in an error message


@dataclass(frozen=True)
class ColumnMapping:
    """Names of columns by field, {field: column}, and the fields whose column is a guess.

    judges: columns that say whether an answer is good. preferred: whether the answer is the chosen one of several.
    rejected: columns of answers that are marked as bad. media: columns of pictures and sound. rank: the column with the
    scores of a list of answers, or "". references: the column with the answers to a list of questions, or "". unclear:
    {column of labels: some values} that nobody explains. quiz: the columns of a quiz's options, or None.
    """

    names: dict[str, str]
    guessed: frozenset[str] = frozenset()
    judges: tuple[str, ...] = ()
    preferred: bool = False
    rejected: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    rank: str = ""
    references: str = ""
    unclear: dict[str, list[str]] = field(default_factory=dict)
    quiz: Quiz | None = None

    @cached_property
    def layout(self) -> str:
        """ "pair", "messages" or "text"."""
        return next((field for field in ("messages", "text") if field in self.names), "pair")

    @cached_property
    def used(self) -> frozenset[str]:
        """The columns that are read; of a nested one, the column that contains it."""
        roots = {name if name in self.names else name.split(".")[0] for name in self.names.values()}
        options = self.quiz.options.values() if self.quiz else ()
        others = (*self.judges, *self.rejected, *self.media, self.rank, self.references, *options)
        return frozenset({*roots, *self.names.values(), *others})

    def rows(self, record: dict, number: int) -> Converted:
        """Convert a record to rows, one per answer. Fields that the record lacks are empty. Raises UnusableRecord."""
        self._check(record)
        category = text_of(self.value(record, "category"))
        common = Row("", "", system=self._system(record), category=category, number=number)
        if self.layout == "text":
            return self._text(record, common)
        answer = first_answer(self.value(record, "output"), record.get(self.rank))
        messages = self._messages(record, answer)
        if messages is None:
            made = self._pair(record, common, answer)
        else:
            made = conversation.split_into_rows(messages, common, last_only=self.preferred)
            if self.layout == "pair" and made.rows and "history" in self.names:
                made.rows[-1] = replace(made.rows[-1], input=text_of(self.value(record, "input")))
        return replace(made, remarks=(*made.remarks, *answer.remarks)) if answer.remarks else made

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

    def notes(self) -> list[Problem]:
        """What is said of the columns once: answers marked as bad, a quiz's options, labels that nobody explains."""
        notes = [Problem("note.rejected", {"columns": list(self.rejected)})] if self.rejected else []
        notes += self.quiz.notes() if self.quiz else []
        for column, values in self.unclear.items():
            key = "note.label_as_answer" if column == self.names.get("output") else "note.label_unknown"
            notes.append(Problem(key, {"column": column, "values": values}))
        if self.layout == "text" and is_named(self.names["text"], "instruction"):
            notes.append(Problem("note.only_questions", {"column": self.names["text"]}))
        return notes

    def _check(self, record: dict) -> None:
        """Raises UnusableRecord for an answer that is judged bad, and for one about a picture or a sound."""
        for column in self.judges:
            if verdict(record.get(column)) is False:
                raise UnusableRecord(f"judged:{column}")
        for column in self.media:
            if record.get(column) not in (None, "", [], {}):
                raise UnusableRecord("images")

    def _system(self, record: dict) -> str:
        value = self.value(record, "system")
        if value is None or isinstance(value, str):
            return text_of(value)
        return "\n\n".join(message.text for message in parse_messages(value, "system"))

    def _text(self, record: dict, common: Row) -> Converted:
        value = self.value(record, "text")
        return Converted([replace(common, output=text_of(value))], _nested_remark(value))

    def _pair(self, record: dict, common: Row, answer: Answer) -> Converted:
        values = {field: self.value(record, field) for field in ("instruction", "input")}
        key, question = record.get("key"), text_of(values["instruction"])
        row = replace(
            common,
            instruction=self.quiz.question(question, record) if self.quiz else question,
            output=self.quiz.answer(record) if self.quiz else text_of(answer.value),
            input=text_of(values["input"]),
            key=tuple(str(k) for k in key) if isinstance(key, list) else (),
        )
        return Converted([row], _nested_remark(*values.values(), answer.value))

    def _messages(self, record: dict, answer: Answer) -> list[Message] | None:
        """The conversation with its answer, or None if a record has only texts. Raises UnusableRecord."""
        whole = _whole_conversation(answer.value) if self.preferred or self.layout == "messages" else None
        if whole is not None:
            return whole
        if self.layout == "messages":
            questions = self.value(record, "messages")
            if _are_texts(questions) and (self.references or columns_named(record, "question_id")):
                return questions_with_answers(questions, record.get(self.references))
            messages = parse_messages(questions)
            return messages + self._answer(messages, answer) if "output" in self.names else messages
        history, question = parse_history(self.value(record, "history")), self.value(record, "instruction")
        if not history and conversation_in(question) is None and conversation_in(answer.value) is None:
            return None
        messages = history + parse_messages(question, "user")
        return messages + self._answer(messages, answer)

    def _answer(self, messages: list[Message], answer: Answer) -> list[Message]:
        """The answer's messages. Raises UnusableRecord if the conversation before it ends with an answer already."""
        found = parse_messages(answer.value, "assistant")
        if self.preferred and messages and found and messages[-1].role == "assistant":
            if messages[-1].text == found[-1].text:
                return []
            raise UnusableRecord("answered")
        return found


def resolve_columns(mapping: str, records: list[dict], source: str) -> ColumnMapping:
    """Combine the mapping set by hand with a guess for the fields that it leaves open. Each column is used once.

    Raises PlaygroundError, naming the columns that exist: an unknown field or column, a column for two fields, no
    columns for a question and an answer.
    """
    columns, chosen = column_names_of(records), parse_mapping(mapping)
    _check_chosen(chosen, columns, records, source)
    guess = guess_columns(columns, records)
    if {"instruction", "output"} & set(chosen):
        if "instruction" not in guess and "text" in guess and not columns_named(columns, "input"):
            guess["instruction"] = guess["text"]
        if not {"messages"} & set(chosen):
            guess = {field: name for field, name in guess.items() if field not in ("messages", "text")}
    elif {"messages", "text"} & set(chosen):
        allowed = ("system", "category", *(("output",) if _is_preferred(guess) and "messages" in chosen else ()))
        guess = {field: name for field, name in guess.items() if field in allowed}
    names = _used_once(chosen, guess, columns)
    if not ({"messages", "text"} & set(names) or {"instruction", "output"} <= set(names)):
        proposal, shown = format_mapping(propose(columns, records)), columns[:MAX_NAMES]
        values = examples(shown, records)
        raise problem("error.columns", source=source, found=shown, examples=values, proposal=proposal)
    guessed = frozenset(field for field in names if field not in chosen)
    return _with_meanings(ColumnMapping(names, guessed), chosen, columns, records)


def column_names_of(records: list[dict]) -> list[str]:
    """The columns of these records, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record))


def _check_chosen(chosen: dict[str, str], columns: list[str], records: list[dict], source: str) -> None:
    """Raises PlaygroundError for a column that no record has, and for one that is chosen twice."""
    names = [name for name in chosen.values() if name]
    absent = [n for n in names if n not in columns and not any(_has_value(record, n) for record in records)]
    if absent:
        raise problem("error.column_absent", source=source, absent=absent, found=columns[:MAX_NAMES])
    twice = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if twice:
        raise problem("error.column_twice", columns=twice)


def _used_once(chosen: dict[str, str], guess: dict[str, str], columns: list[str]) -> dict[str, str]:
    """The chosen columns, and of the guess those that aren't in use yet; an input alone is the question."""
    names = {field: name for field, name in chosen.items() if name}
    taken = set(names.values()) | {name.split(".")[0] for name in names.values()}
    order = ("instruction", "output", *FIELDS)
    for part in dict.fromkeys(name for name in order if name in guess):
        if part not in chosen and guess[part] not in taken:
            names[part] = guess[part]
            taken.add(guess[part])
    is_pair = not {"messages", "text"} & set(names)
    if is_pair and "instruction" not in names and "instruction" not in chosen:
        inputs = [name for name in columns_named(columns, "input") if name not in taken]
        question = names.pop("input") if "input" in names and "input" not in chosen else next(iter(inputs), "")
        if question and "input" not in chosen:
            names["instruction"] = question
    return names


def _with_meanings(
    made: ColumnMapping, chosen: dict[str, str], columns: list[str], records: list[dict]
) -> ColumnMapping:
    """The mapping with the columns that change what a row means."""
    taken = set(made.names.values())
    free = [column for column in columns if column not in taken]
    judges = judging_columns(free, records) if "label" not in chosen and made.layout != "text" else ()
    judges = (chosen["label"],) if chosen.get("label") else judges
    names = made.names | ({"label": judges[0]} if judges else {})
    unclear = {} if "label" in chosen else unclear_labels([c for c in free if c not in judges], records)
    quiz = find_quiz(columns, records) if "output" not in chosen and made.layout == "pair" else None
    quiz = quiz if quiz and quiz.key == names.get("output") else None
    unclear |= numbered_answers(names.get("output", ""), columns, records) if not quiz else {}
    unclear |= unread_scores(names, free, records) if "label" not in chosen else {}
    rank = [c for c in columns_named(free, "rank") if any(isinstance(record.get(c), list) for record in records)]
    values = [made.value(record, "messages") for record in records]
    references = columns_named(free, "references") if any(map(_are_texts, values)) else []
    return replace(
        made,
        names=names,
        guessed=made.guessed | ({"label"} if judges and "label" not in chosen else set()),
        judges=judges,
        preferred=_is_preferred(made.names),
        rejected=tuple(columns_named(free, "rejected")),
        media=tuple(columns_named(free, "media")),
        rank=rank[0] if rank else "",
        references=references[0] if references else "",
        unclear=unclear,
        quiz=quiz,
    )


def _is_preferred(names: dict[str, str]) -> bool:
    """Whether the answer is the chosen one of several."""
    answer = names.get("output") or names.get("messages") or ""
    return is_named(answer, "chosen") or is_named(answer.split(".")[0], "chosen")


def _whole_conversation(answer: Any) -> list[Message] | None:
    """The conversation that a chosen answer repeats in front of its last message, or None for an answer alone."""
    found = conversation_in(answer)
    if found is None and isinstance(answer, str):
        found = transcript(answer)
    messages = parse_messages(found) if found else []
    return messages if any(message.role == "user" for message in messages) else None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _nested_remark(*values: Any) -> tuple[str, ...]:
    return ("nested",) if any(isinstance(value, (dict, list)) and not is_blank(value) for value in values) else ()


def _has_value(record: dict, name: str) -> bool:
    return ColumnMapping({"text": name}).value(record, "text") is not None
