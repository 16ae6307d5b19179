"""What the bit-width lab is asked: formats, a text to measure on, and a prompt to answer at each width.

Imports no torch: the page and the command line make the question, and the engine answers it.
"""

import hashlib
from dataclasses import dataclass

from playground import ASSETS, catalog
from playground.errors import PlaygroundError, Problem
from playground.i18n import LANGUAGES
from playground.lab.formats import DEFAULT, UNQUANTIZED, Format, parse_formats
from playground.settings import merge_group

MAX_TEXT = 200_000  # characters
MAX_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class LabQuestion:
    """formats: names, separated by commas. text: what loss is measured on, "" for the bundled one in `language`.

    prompt: what is asked at each width, "" for the bundled one. answer_tokens: at most of each answer; 0: no answers.
    """

    formats: str = ",".join(DEFAULT)
    text: str = ""
    language: str = "en"
    prompt: str = ""
    answer_tokens: int = 40

    def parsed_formats(self) -> list[Format]:
        """The formats in the order in which they are measured. Raises PlaygroundError for wrong names."""
        return sorted(parse_formats(self.formats), key=_order)

    def full_text(self) -> str:
        """The text to measure on."""
        return self.text.strip() or (ASSETS / "data" / f"prose.{self.language}.txt").read_text(encoding="utf-8")

    def full_prompt(self) -> str:
        """The prompt that is answered."""
        return self.prompt.strip() or catalog.prompts()["lab"]["prompts"][self.language][0]

    def subject(self) -> str:
        """What points must share to be compared: a digest of text and prompt."""
        parts = (self.full_text(), self.full_prompt(), str(self.answer_tokens))
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


def _order(format: Format) -> tuple[bool, bool]:
    """The unquantized format first, as the others are compared with it; last those that need a load of their own."""
    return format.kind != UNQUANTIZED, format.kind == "bitsandbytes"


def parse_question(values: dict) -> LabQuestion:
    """A validated question from {field: value} over the defaults. Raises PlaygroundError with all problems at once."""
    question, problems = merge_group(LabQuestion(), values, "lab")
    if question.language not in LANGUAGES:
        problems.append(Problem("error.lab_language", {"language": question.language[:20]}))
    if len(question.text) > MAX_TEXT:
        problems.append(Problem("error.lab_long_text", {"chars": len(question.text), "most": MAX_TEXT}))
    if not 0 <= question.answer_tokens <= MAX_ANSWER_TOKENS:
        problems.append(Problem("error.lab_tokens", {"tokens": question.answer_tokens, "most": MAX_ANSWER_TOKENS}))
    try:
        question.parsed_formats()
    except PlaygroundError as error:
        problems += error.problems
    if problems:
        raise PlaygroundError(*problems)
    return question
