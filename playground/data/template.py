"""Prompt templates: write rows as prompts and answers, and tokenize them.

A template is Alpaca's, the talk's Japanese one, the model's own chat template, a custom format, or text alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from playground.data.builtin_formats import BUILTIN_FORMATS
from playground.data.chat_template import ChatTemplate
from playground.data.conversation import Turn, turns
from playground.data.row import Row
from playground.errors import Problem, problem
from playground.model.load import LoadedModel
from playground.model.tokenizer import is_trained_token
from playground.settings import prompt_format, raise_all

__all__ = ["Template", "Turn", "choose_template", "choose_template_for", "turns"]

KANA = re.compile(r"[\u3040-\u30ff]")
LANGUAGE_SAMPLE = 50  # texts that are searched for kana
ROWS_AT_ONCE = 256  # in one call of a tokenizer


@dataclass(frozen=True)
class Template:
    """A prompt template for one tokenizer. `name`: chat, alpaca, talk, text or custom.

    encoder: an encoder reads the prompt and a decoder writes the answer, as two texts; else the answer continues the
    prompt. plain_end: answers end with the end-of-text token, even in a chat. custom_format: the text of a custom
    template. A system prompt for which the template has no place precedes the first question.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    encoder: bool = False
    plain_end: bool = False
    custom_format: str = ""

    def prompt(self, turns: Sequence[Turn], system: str = "") -> str:
        """The text up to where the last turn's answer begins. Raises PlaygroundError if the chat template fails."""
        if self.name == "chat":
            return self.chat_template.prompt(turns, system)
        return "".join(text for _, text in self._format_parts(turns, system))

    def parts(self, turns: Sequence[Turn], system: str = "") -> list[prompt_format.Part]:
        """The prompt in parts: ("template", text of this template) or ("content", text of the row)."""
        if self.name == "chat":
            return self.chat_template.parts(turns, system)
        return self._format_parts(turns, system)

    def ids(self, turns: Sequence[Turn], system: str = "") -> list[int]:
        """The prompt's tokens, with the tokenizer's beginning-of-text token; for an encoder, also the end token."""
        return self._encode_prompts([self.prompt(turns, system)])[0]

    def has_prompt(self, row: Row) -> bool:
        """Whether a row has a prompt; a text alone has none, in any template."""
        return self.name != "text" and any((row.instruction, row.input, row.before, row.system))

    def tokens(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], list[int]]]:
        """Tokenize rows: (prompt, answer with its end tokens) of each.

        Raises PlaygroundError for a row without a prompt if an encoder needs one to read.
        """
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[start : start + ROWS_AT_ONCE]
            with_prompt = [row for row in chunk if self.has_prompt(row)]
            if self.encoder and len(with_prompt) < len(chunk):
                raise problem("error.text_encoder")
            prompts = iter(self._encode_prompts([self.prompt(turns(row), row.system) for row in with_prompt]))
            answers = self._encode([row.output for row in chunk], self.encoder)
            for row, answer in zip(chunk, answers):
                prompt = next(prompts) if self.has_prompt(row) else list(self.start_ids)
                yield prompt, self._without_end(answer) + self.closing_ids

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The tokenizer's own chat template."""
        return ChatTemplate(self.tokenizer)

    @cached_property
    def parsed_format(self) -> prompt_format.PromptFormat:
        """The custom format, parsed."""
        return prompt_format.parse_format(self.custom_format)

    @cached_property
    def start_ids(self) -> list[int]:
        """The start of a text without a prompt: the beginning-of-text token, if this tokenizer uses one."""
        return self._without_end(self.tokenizer.encode(""))

    @cached_property
    def closing_ids(self) -> list[int]:
        """The tokens behind an answer: a custom format's closing text, and the end."""
        closing = self._encode([self.parsed_format.closing], False)[0] if self.name == "custom" else []
        return closing + self.end_ids()

    def end_ids(self) -> list[int]:
        """The tokens that end an answer: the chat template's end of turn, else the end-of-text token.

        Raises PlaygroundError if the tokenizer has neither.
        """
        if self.name == "chat" and not self.plain_end:
            ids = self.chat_template.end_of_turn_ids()
            if ids:
                return ids
        if self.tokenizer.eos_token_id is None:
            raise problem("error.no_end")
        return [self.tokenizer.eos_token_id]

    def answer(self, text: str) -> str:
        """A generated answer without the closing text of a custom format."""
        closing = self.parsed_format.closing.strip() if self.name == "custom" else ""
        return text.rstrip().removesuffix(closing) if closing and text.rstrip().endswith(closing) else text

    def _encode_prompts(self, texts: list[str]) -> list[list[int]]:
        ids = self._encode(texts, self.name != "chat")  # a chat template writes its special tokens itself
        return ids if self.encoder or self.name == "chat" else [self._without_end(row) for row in ids]

    def _encode(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        if not texts:
            return []
        encoding = self.tokenizer(
            texts,
            add_special_tokens=add_special_tokens,
            verbose=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return encoding["input_ids"]

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def _format_parts(self, turns: Sequence[Turn], system: str) -> list[prompt_format.Part]:
        """The prompt of a built-in or custom format, in parts."""
        separator = "\n" if self.name == "custom" else BUILTIN_FORMATS[self.name].separator
        parts: list[prompt_format.Part] = []
        for number, turn in enumerate(turns):
            format = self._format_of(turn)
            parts += [("template", separator)] if number else []
            parts += format.prompt_parts(_format_values(format, turn, "" if number else system))
            if turn.answer is not None:
                parts += [("content", turn.answer), ("template", format.closing)]
        return [part for part in parts if part[1]]

    def _format_of(self, turn: Turn) -> prompt_format.PromptFormat:
        if self.name == "custom":
            return self.parsed_format
        builtin = BUILTIN_FORMATS[self.name]
        return prompt_format.parse_format((builtin.with_input if turn.input else builtin.without_input) + "{answer}")


def _format_values(format: prompt_format.PromptFormat, turn: Turn, system: str) -> dict[str, str]:
    """The values of a format's fields; an input and a system prompt without a field join the instruction."""
    instruction = turn.instruction
    if "input" not in format.names and turn.input:
        instruction = f"{instruction}\n\n{turn.input}"
    if "system" not in format.names and system:
        instruction = f"{system}\n\n{instruction}"
    return {"instruction": instruction, "input": turn.input, "system": system}


def choose_template(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    encoder: bool = False,
    custom_format: str = "",
) -> Template:
    """Make the template of that name.

    "auto" is text alone if all instructions are empty, else the model's own chat template where it works, else the
    talk's for Japanese, else Alpaca's. instructions: some of the rows' questions. encoder: whether the model has one.
    Raises PlaygroundError: "chat" for a model without a chat template, text alone for an encoder, an invalid custom
    format.
    """
    if name == "chat" and not tokenizer.chat_template:
        raise problem("error.no_chat_template")
    if name == "custom":
        raise_all([Problem(key, values) for key, values in prompt_format.problems(custom_format)])
        return Template("custom", tokenizer, encoder, custom_format=custom_format)
    if name == "auto":
        name = _automatic_name(tokenizer, instructions)
    if name == "text" and encoder:
        raise problem("error.text_encoder")
    return Template(name, tokenizer, encoder)


def _automatic_name(tokenizer: PreTrainedTokenizerBase, instructions: Sequence[str]) -> str:
    if len(instructions) and not any(text.strip() for text in instructions):
        return "text"
    if tokenizer.chat_template and not ChatTemplate(tokenizer).defect():
        return "chat"
    return "talk" if any(KANA.search(text) for text in instructions[:LANGUAGE_SAMPLE]) else "alpaca"


def choose_template_for(
    loaded: LoadedModel, name: str, instructions: Sequence[str], custom_format: str = ""
) -> tuple[Template, list[dict]]:
    """`choose_template` for a loaded model, and `note` events about the choice.

    If the chat template's end of turn was never trained in this model, answers end with the end-of-text token instead.
    """
    tokenizer = loaded.tokenizer
    template = choose_template(name, tokenizer, instructions, loaded.model.config.is_encoder_decoder, custom_format)
    if template.name == "chat":
        [end, *_] = template.end_ids()
        if tokenizer.eos_token_id in (None, end) or is_trained_token(loaded.model, end):
            return template, []
        values = {"end": tokenizer.convert_ids_to_tokens(end), "instead": tokenizer.eos_token}
        return replace(template, plain_end=True), [{"kind": "note", "key": "note.end_never_learned", "values": values}]
    if name == "auto" and template.name != "text" and tokenizer.chat_template:
        defect = ChatTemplate(tokenizer).defect()
        if defect:
            values = {"detail": defect, "template": template.name}
            return template, [{"kind": "note", "key": "note.chat_template_broken", "values": values}]
    return template, []
