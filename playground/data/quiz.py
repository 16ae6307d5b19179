"""Quizzes: a question, its options in columns of their own (A, B, C; option1, option2) or in a list, and the right one.

The options are written below the question, and the answer is the text of the right option: a letter alone teaches
nothing, and an option is no answer. Of lists only those are read here whose right option is named by its label: an
answer in words is one already, and whether numbers count from 0 or 1 is unknown.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from playground import catalog
from playground.data.cells import parse_cell
from playground.data.names import columns_named, fold, is_named
from playground.data.row import UnusableRecord, text_of
from playground.errors import Problem

LEAST = 3  # columns named by labels alone; two of them, "a" and "b", may be anything
LEAST_NAMED = 2  # columns named as options, like option1 and option2
LEAST_SHARE = 0.5  # of the values of a column that says which option is right
LABELED = re.compile(r"^[\W_]*(\w+)[.:)\]\u3001]")  # "B. Tokyo", "(B) Tokyo"
SEVERAL = re.compile(r"[\s,\u3001/;&+]+")  # between labels, as in "A, C"
MAX_KEY = 100  # characters of a value that names an option


@dataclass(frozen=True)
class Quiz:
    """The columns of a quiz.

    options: {label: column}, or the column of lists of options under "". key: the column that says which option is
    right. form: how it does so, one of FORMS.
    """

    options: dict[str, str]
    key: str
    form: str

    def question(self, question: str, record: dict) -> str:
        """The question with its options below it, one a line; unchanged where it contains them already."""
        texts = option_texts(self.options, record)
        if all(_has_line(question, label, text) for label, text in texts.items()):
            return question
        return "\n".join([question, *(_line(label, text) for label, text in texts.items())])

    def answer(self, record: dict) -> str:
        """The right option's text. Raises UnusableRecord ("no_option") where no option is named."""
        texts, value = option_texts(self.options, record), text_of(record.get(self.key))
        if not texts or not value.strip():
            return value
        for form in dict.fromkeys((self.form, "text", "label")):
            found = FORMS[form](value, texts)
            if found:
                return found
        if self.form == "text":
            return value  # an answer in words that is none of the options
        raise UnusableRecord("no_option")

    def notes(self) -> list[Problem]:
        """What was done with the columns."""
        notes = [Problem("note.quiz", {"columns": list(self.options.values()), "answer": self.key})]
        if self.form.startswith("number"):
            notes.append(Problem("note.quiz_numbers", {"answer": self.key, "first": int(self.form == "number")}))
        return notes


def option_columns(columns: Iterable[str]) -> dict[str, str]:
    """{label: column} of a quiz's options, the longest series of them; empty without any."""
    by_name = {fold(column): column for column in columns if isinstance(column, str)}
    found: list[dict[str, str]] = []
    for series in catalog.option_labels().values():
        labels = [fold(label) for label in series["names"]]
        stems = {name.removesuffix(labels[0]) for name in by_name if name.endswith(labels[0])}
        for stem in sorted(stem for stem in stems if not stem or _is_stem(stem)):
            options: dict[str, str] = {}
            for label in labels:
                if stem + label not in by_name:
                    break
                options[label] = by_name[stem + label]
            if len(options) >= (LEAST_NAMED if is_named(stem, "option") else LEAST):
                found.append(options)
    return max(found, key=len, default={})


def find_quiz(columns: list[str], records: list[dict]) -> Quiz | None:
    """The columns of a quiz: its options, and the column in which most values name one of them."""
    options = option_columns(columns)
    if options:
        return max(_quizzes(options, columns, records), key=lambda found: found[0], default=(0, None))[1]
    for column in columns_named(columns, "choices"):
        found = [quiz for _, quiz in _quizzes({"": column}, columns, records)]
        if found and not any(quiz.form == "text" for quiz in found):
            return next((quiz for quiz in found if quiz.form == "label"), None)
    return None


def option_texts(options: dict[str, str], record: dict) -> dict[str, str]:
    """{label: text} of the options that a record has."""
    if "" in options:
        return _listed(parse_cell(record.get(options[""])))
    texts = {label: text_of(record.get(column)).strip() for label, column in options.items()}
    return {label: text for label, text in texts.items() if text}


def _quizzes(options: dict[str, str], columns: list[str], records: list[dict]) -> list[tuple[float, Quiz]]:
    """The quizzes that these options can be part of, each with the share of values that name an option."""
    found = []
    for key in columns_named([column for column in columns if column not in options.values()], "correct_option"):
        keyed = [(value, option_texts(options, record)) for record in records if (value := _value(record, key))]
        for form, find in FORMS.items():
            named = sum(bool(find(value, texts)) for value, texts in keyed)
            if keyed and named / len(keyed) >= LEAST_SHARE:
                found.append((named / len(keyed), Quiz(options, key, form)))
    return found


def _value(record: dict, key: str) -> str:
    return text_of(record.get(key)).strip()


def _listed(value: Any) -> dict[str, str]:
    """{label: text} of options in a list or an object: texts, {"A": text}, {"label": [...], "text": [...]}."""
    if isinstance(value, dict) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        return {fold(text_of(label)): text_of(text) for label, text in zip(value["label"], value["text"])}
    if isinstance(value, dict):
        return {fold(text_of(label)): text for label, text in value.items() if isinstance(text, str) and text.strip()}
    if not isinstance(value, list) or not value:
        return {}
    if all(isinstance(item, dict) and {"label", "text"} <= item.keys() for item in value):
        return {fold(text_of(item["label"])): text_of(item["text"]) for item in value}
    letters = catalog.option_labels()["letters"]["names"]
    return dict(zip(letters, value)) if all(isinstance(text, str) for text in value) else {}


def _is_stem(stem: str) -> bool:
    return any(is_named(stem, kind) for kind in ("option", "correct_option"))


def _has_line(question: str, label: str, text: str) -> bool:
    if text.casefold() not in question.casefold():
        return False  # most questions: a pattern of each row would be compiled
    return re.search(rf"(^|\s)\W*{re.escape(label)}\W+{re.escape(text)}", question, re.IGNORECASE) is not None


def _line(label: str, text: str) -> str:
    """An option's line; a text may begin with the label itself."""
    begun = LABELED.match(text)
    return text if begun and fold(begun[1]) == label else f"{label.upper()}. {text}"


def _by_text(value: str, texts: dict[str, str]) -> str:
    plain = _plain(value)
    return next((text for text in texts.values() if _plain(text) == plain), "")


def _by_label(value: str, texts: dict[str, str]) -> str:
    """The text of the option with that label, as in "B", "(b)", "option2" or "B. Tokyo"; of "A, C" both texts."""
    parts = SEVERAL.split(value.strip()) if len(value) <= MAX_KEY else []
    labels = [_label(part, texts) for part in parts]
    if not labels or not all(labels):
        labels = [_label(value, texts)]
    return "\n".join(texts[label] for label in dict.fromkeys(labels)) if all(labels) else ""


def _label(value: str, texts: dict[str, str]) -> str:
    begun = LABELED.match(value)
    names = [fold(value), fold(begun[1])] if begun else [fold(value)]
    for name in names if len(value) <= MAX_KEY or begun else ():
        for label in texts:
            stem = name.removesuffix(label)
            if name.endswith(label) and (not stem or _is_stem(stem)):
                return label
    return ""


def _by_number(value: str, texts: dict[str, str], first: int) -> str:
    number = value.strip().removesuffix(".0")
    place = int(number) - first if re.fullmatch(r"[0-9]{1,2}", number) else -1
    return list(texts.values())[place] if 0 <= place < len(texts) else ""


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# How a value names an option. Of forms that fit as many values, the first one counts.
FORMS = {
    "text": _by_text,
    "label": _by_label,
    "number": lambda value, texts: _by_number(value, texts, 1),
    "number_from_0": lambda value, texts: _by_number(value, texts, 0),
}
