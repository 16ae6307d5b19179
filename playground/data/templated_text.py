"""Texts that already are in a chat template: recognize them, and find the answers in those of the model's own."""

import re
from functools import cached_property
from typing import NamedTuple

from transformers import BatchEncoding, PreTrainedTokenizerBase

from playground.data.chat_template import ANSWER, QUESTION, ChatTemplate
from playground.data.conversation import Turn
from playground.data.row import Row
from playground.errors import PlaygroundError

Span = tuple[int, int]  # begin and end
# How templates of other models begin a turn: a text with one of them is in some template.
FOREIGN = re.compile(
    r"<\|im_start\|>|\[INST\]|<start_of_turn>|<\|start_header_id\|>|<\|(?:user|assistant)\|>|<\|start\|>|<\|turn>"
    r"|<｜(?:User|Assistant)｜>|<\|START_OF_TURN_TOKEN\|>|<\|start_of_role\|>"
)
MIN_OPENING = 3  # visible characters: a template that opens answers with less can't be recognized


class EncodedRow(NamedTuple):
    """A row's tokens: the prompt's, the answer's with its end tokens, and spans of the whole that carry no label."""

    prompt: list[int]
    answer: list[int]
    masked: tuple[Span, ...] = ()


class TemplatedTexts:
    """Finds and encodes texts that were written with a tokenizer's own chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer, self.template = tokenizer, ChatTemplate(tokenizer)

    def whole(self, row: Row) -> str:
        """A row's whole text if it already is in the chat template: its question or, without one, its text; else ""."""
        if not self.tokenizer.chat_template:
            return ""
        if row.input or row.before or row.systems:
            return ""
        text = row.instruction + row.output
        if not self.opening or self.opening not in text:
            return ""
        if row.instruction:
            is_written = self._begins(text) and row.instruction.rstrip().endswith(self.opening.rstrip())
        else:  # special tokens can't be prose, other openings can
            is_written = bool(self.template.special.find(self.opening)) or self._begins(text)
        return text if is_written else ""

    def answers(self, text: str) -> list[Span]:
        """Where the answers in such a text begin, and where they end, their end tokens included."""
        spans: list[Span] = []
        position = 0
        while (found := text.find(self.opening, position)) >= 0:
            begin = found + len(self.opening)
            end = self._end.search(text, begin)
            position = end.end() if end else len(text)
            spans.append((begin, position))
        return spans

    def encode(self, text: str) -> EncodedRow:
        """Encode such a text as it stands: no second start or end token, and labels for the answers alone."""
        encoding = self.tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = encoding["input_ids"]
        start = self.start_ids if ids[:1] != self.start_ids else []
        trained = [
            (len(start) + self._token_at(encoding, text, begin), len(start) + self._token_at(encoding, text, end))
            for begin, end in self.answers(text)
        ]
        ids = [*start, *ids]
        begin, end = trained[-1]
        if end == len(ids) and not self._ends(text):
            ids += self.template.end_ids() or [self.tokenizer.eos_token_id]
            trained[-1] = (begin, len(ids))
        first = trained[0][0]
        between = zip([end for _, end in trained], [*(begin for begin, _ in trained[1:]), len(ids)])
        return EncodedRow(ids[:first], ids[first:], tuple((begin, end) for begin, end in between if begin < end))

    def parts(self, text: str) -> list[tuple[str, str]]:
        """Such a text in parts: ("content", …) and ("answer", …)."""
        parts: list[tuple[str, str]] = []
        position = 0
        for begin, end in self.answers(text):
            parts += [("content", text[position:begin]), ("answer", text[begin:end])]
            position = end
        return [part for part in [*parts, ("content", text[position:])] if part[1]]

    @cached_property
    def start_ids(self) -> list[int]:
        """The beginning-of-text token in a list, if the template begins with it."""
        bos = self.tokenizer.bos_token
        return [self.tokenizer.bos_token_id] if bos and self.template.prompt([Turn("?")]).startswith(bos) else []

    @cached_property
    def opening(self) -> str:
        """What begins an answer in this template, "" if that can't be recognized."""
        try:
            opening = self.template.opening
        except PlaygroundError:
            return ""
        return opening if len(opening.strip()) >= MIN_OPENING else ""

    @cached_property
    def _beginnings(self) -> tuple[str, ...]:
        """How conversations begin in this template, behind the beginning-of-text token."""
        prompts = [self.template.prompt([Turn(QUESTION)]), self.template.prompt([Turn(QUESTION)], ((0, ANSWER),))]
        frames = [self._without_start(re.split(f"{QUESTION}|{ANSWER}", prompt)[0]) for prompt in prompts]
        tokens = [self.template.special.find(frame) for frame in frames]
        return tuple(
            found[0] if found and frame.startswith(found[0]) else frame for frame, found in zip(frames, tokens)
        )

    def _begins(self, text: str) -> bool:
        """Whether a text begins as conversations do in this template."""
        return any(start and self._without_start(text).startswith(start) for start in self._beginnings)

    def _without_start(self, text: str) -> str:
        return text.lstrip().removeprefix(str(self.tokenizer.bos_token or "")).lstrip()

    @cached_property
    def _end(self) -> re.Pattern[str]:
        """The tokens that end an answer: a last one, or one that a question follows."""
        eos = str(self.tokenizer.eos_token or "")
        ends = {end.lstrip() for end in (self.template.end, self.template.end_before_question, eos)} - {""}
        return re.compile("|".join(map(re.escape, sorted(ends, key=len, reverse=True))) or "(?!)")

    def _ends(self, text: str) -> bool:
        """Whether a text ends with the end of an answer."""
        return any(match.end() == len(text.rstrip()) for match in self._end.finditer(text))

    def _token_at(self, encoding: BatchEncoding, text: str, char: int) -> int:
        """The number of the token that a character belongs to, or of the next token."""
        if not self.tokenizer.is_fast:
            return len(self.tokenizer(text[:char], add_special_tokens=False, verbose=False)["input_ids"])
        token = token_at(encoding, 0, char, len(text))
        return len(encoding["input_ids"]) if token is None else token


def token_at(encoding: BatchEncoding, row: int, char: int, end: int) -> int | None:
    """The number of the token that a character belongs to, or of the next one; None behind the last.

    row: of the batch. end: characters of its text.
    """
    tokens = (encoding.char_to_token(row, at) for at in range(char, end))
    return next((token for token in tokens if token is not None), None)


def without_second_start(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens without a second beginning-of-text token, which a text brings along that was written with one."""
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids
