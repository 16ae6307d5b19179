"""Prompt templates: write rows as prompts and answers, and tokenize them.

A template is Alpaca's, the talk's Japanese one, the model's own chat template, a custom format, or text alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from transformers import PreTrainedTokenizerBase

from playground.data.builtin_formats import BUILTIN_FORMATS, format_parts
from playground.data.chat_template import ChatTemplate, Systems
from playground.data.conversation import Turn, turns
from playground.data.row import Row
from playground.data.templated_text import EncodedRow, TemplatedTexts, token_at, without_second_start
from playground.errors import problem
from playground.settings import prompt_format

__all__ = ["Template", "Turn", "turns"]

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

    def prompt(self, turns: Sequence[Turn], system: str | Systems = "") -> str:
        """The text up to where the last turn's answer begins. Raises PlaygroundError if the chat template fails.

        system: the system prompt, or several as in `Row.systems`.
        """
        if self.name == "chat":
            return self.chat_template.prompt(turns, _systems(system))
        return "".join(text for _, text in self._format_parts(turns, system))

    def parts(self, row: Row) -> list[prompt_format.Part]:
        """A row in parts: ("template", text of this template), ("content", …), ("answer", …) or ("end", …).

        Outside a chat, these are the parts of the prompt alone.
        """
        if self.texts.whole(row):
            return self.texts.parts(self.texts.whole(row))
        if not self.has_prompt(row):
            return []
        if self.is_chat:
            return self.chat_template.parts(turns(row), row.systems, row.output, self._chat_end)
        return self._format_parts(turns(row), row.systems)

    def ids(self, turns: Sequence[Turn], system: str | Systems = "") -> list[int]:
        """The prompt's tokens, with the tokenizer's beginning-of-text token; for an encoder, also the end token."""
        if self.is_chat:
            return self.chat_template.prompt_ids(turns, _systems(system))
        return self._encode_prompts([self._prompt_with_marks(turns, system)])[0]

    def answer_text(self, row: Row) -> str:
        """A row's answer, outside a chat without an end-of-text token that is written behind it: it gets one anyway."""
        text, end = row.output.rstrip(), self.tokenizer.eos_token
        is_ended = end and not self.is_chat and self.has_prompt(row) and text.endswith(end)
        return text.removesuffix(end) if is_ended else row.output

    def has_prompt(self, row: Row) -> bool:
        """Whether a row has a prompt; a text alone has none, in any template."""
        if self.name == "text" or self.texts.whole(row):
            return False
        return any((row.instruction, row.input, row.before, row.system))

    def tokens(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], list[int]]]:
        """Tokenize rows: (prompt, answer with its end tokens) of each; raises as `encoded` does."""
        return ((row.prompt, row.answer) for row in self.encoded(rows))

    def encoded(self, rows: Sequence[Row]) -> Iterator[EncodedRow]:
        """Tokenize rows.

        Raises PlaygroundError for a row without a prompt if an encoder needs one to read, and as `end_ids`.
        """
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[start : start + ROWS_AT_ONCE]
            with_prompt = [row for row in chunk if self.has_prompt(row)]
            if self.encoder and len(with_prompt) < len(chunk):
                raise problem("error.text_encoder")
            asked = iter(self._encode_chats(with_prompt) if self.is_chat else self._encode_formatted(with_prompt))
            for row in chunk:
                yield next(asked) if self.has_prompt(row) else self._encode_text(row)

    @property
    def is_chat(self) -> bool:
        """Whether prompt and answer are one text, rendered by the chat template."""
        return self.name == "chat" and not self.encoder

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The tokenizer's own chat template."""
        return ChatTemplate(self.tokenizer)

    @cached_property
    def texts(self) -> TemplatedTexts:
        """What recognizes texts that already are in the tokenizer's chat template."""
        return TemplatedTexts(self.tokenizer)

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
            ids = self.chat_template.end_ids()
            if ids:
                return ids
        if self.tokenizer.eos_token_id is None:
            raise problem("error.no_end")
        return [self.tokenizer.eos_token_id]

    def answer(self, text: str) -> str:
        """A generated answer without what the template writes around it: a custom format's closing text, or what a chat
        template puts before every answer, such as an empty reasoning block.
        """
        if self.is_chat:
            prefix = self._readable_prefix.strip()  # a generated text comes without the blanks around it
            found = prefix and text.lstrip().startswith(prefix)
            return text.lstrip().removeprefix(prefix).lstrip("\n") if found else text
        closing = self.parsed_format.closing.strip() if self.name == "custom" else ""
        return text.rstrip().removesuffix(closing) if closing and text.rstrip().endswith(closing) else text

    @cached_property
    def _readable_prefix(self) -> str:
        """What a chat template writes before an answer, as a generated text shows it: without special tokens."""
        ids = self._encode([self.chat_template.answer_prefix], False)[0]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def _chat_end(self) -> str:
        """The text that ends answers in a chat instead of the chat template's own; "" for that."""
        return str(self.tokenizer.eos_token) if self.plain_end else ""

    def _encode_chats(self, rows: list[Row]) -> Iterator[EncodedRow]:
        """Tokenize conversations as the chat template renders them, and split them where the answers begin.

        The prompt's tokens are those that a chat asks with. Where a tokenizer would merge the end of the prompt with
        the beginning of the answer (two line breaks around the end of an opened reasoning block), the answer is
        encoded apart: else the model would be asked in a state that training never showed.
        """
        self.end_ids()  # raises if there is none
        chats = [self.chat_template.conversation(turns(row), row.systems, row.output, self._chat_end) for row in rows]
        if not chats:
            return
        encodings = self.tokenizer([chat.text for chat in chats], add_special_tokens=False, verbose=False)
        special = self.chat_template.special
        encode_ending = lru_cache(special.encode)  # prompts mostly end alike
        for number, (text, start) in enumerate(chats):
            ids = encodings["input_ids"][number]
            prompt = None
            if special.is_hidden(text):
                ids = special.encode(text)
            elif self.tokenizer.is_fast and (ending := special.ending(text[:start])):
                # The whole prompt needn't be encoded a second time if its end has the same tokens alone.
                split, alone = token_at(encodings, number, start, len(text)) or 0, encode_ending(ending)
                prompt = ids[:split] if ids[max(0, split - len(alone)) : split] == alone else None
            prompt = special.encode(text[:start]) if prompt is None else prompt
            is_apart = ids[: len(prompt)] == prompt
            yield EncodedRow(prompt, ids[len(prompt) :] if is_apart else special.encode_next(text[start:]))

    def _encode_formatted(self, rows: list[Row]) -> Iterator[EncodedRow]:
        """Tokenize prompts and answers apart from each other."""
        prompts = self._encode_prompts([self._prompt_with_marks(turns(row), row.systems) for row in rows])
        answers = self._encode_marked([self._mark(self.answer_text(row)) for row in rows], self.encoder)
        for prompt, answer in zip(prompts, answers):
            yield EncodedRow(prompt, self._without_end(answer) + self.closing_ids)

    def _prompt_with_marks(self, turns: Sequence[Turn], system: str | Systems) -> str:
        """A prompt with marks in place of special tokens' texts that stand in questions, inputs and answers."""
        if self.name == "chat":
            return self.prompt(turns, system)
        parts = self._format_parts(turns, system)
        return "".join(text if kind == "template" else self._mark(text) for kind, text in parts)

    def _mark(self, text: str) -> str:
        return text if self.name == "chat" else self.chat_template.special.hide(text)

    def _encode_text(self, row: Row) -> EncodedRow:
        """Tokenize a text without a prompt. One that is in the chat template is trained on its answers alone."""
        whole = self.texts.whole(row)
        if whole:
            return self.texts.encode(whole)
        [ids] = self._encode([row.output], False)
        start = len(self.start_ids) if ids[:1] == self.start_ids else 0  # the tokenizer has written the start already
        ids = ids[start:]
        return EncodedRow(list(self.start_ids), ids if self._has_end(row.output, ids) else ids + self.closing_ids)

    def _has_end(self, text: str, ids: list[int]) -> bool:
        """Whether a text ends with the token that ends texts, or blanks behind it."""
        eos = self.tokenizer.eos_token
        return bool(eos) and self.tokenizer.eos_token_id in ids and text.rstrip().endswith(eos)

    def _encode_prompts(self, texts: list[str]) -> list[list[int]]:
        ids = self._encode_marked(texts, self.name != "chat")  # a chat template writes its special tokens itself
        if self.encoder or self.name == "chat":
            return ids
        return [self._without_end(without_second_start(row, self.tokenizer)) for row in ids]

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

    def _encode_marked(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        """Encode texts; special tokens' texts that are hidden behind marks stay texts."""
        special = self.chat_template.special
        encoded = self._encode([special.show(text) for text in texts], add_special_tokens)
        end = self.tokenizer.encode("")[len(self.start_ids) :]
        for number, text in enumerate(texts):
            if special.is_hidden(text):
                ids = special.encode(text)
                encoded[number] = [*self.start_ids, *ids, *end] if add_special_tokens else ids
        return encoded

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def _format_parts(self, turns: Sequence[Turn], system: str | Systems) -> list[prompt_format.Part]:
        """The prompt of a built-in or custom format, in parts. Its system prompts are one, joined by empty lines."""
        joined = "\n\n".join(text for _, text in _systems(system))
        return format_parts(self.parsed_format if self.name == "custom" else BUILTIN_FORMATS[self.name], turns, joined)


def _systems(system: str | Systems) -> Systems:
    """System prompts as in `Row.systems`."""
    if isinstance(system, str):
        return ((0, system),) if system else ()
    return system
