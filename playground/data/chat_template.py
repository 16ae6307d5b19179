"""A tokenizer's chat template: prompts rendered with it, split into template and content, and its end of turn."""

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from playground.data.conversation import Turn
from playground.errors import PlaygroundError, problem
from playground.settings import prompt_format

MAX_END_CHARS = 40  # a longer text after an answer isn't taken for an end of turn


class ChatTemplate:
    """The chat template that a tokenizer comes with, a Jinja program that may raise anything or drop messages."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def prompt(self, turns: Sequence[Turn], system: str = "") -> str:
        """Render turns, up to where the last turn's answer begins if it has none. Raises PlaygroundError."""
        return self._render(self._messages(turns, system))

    def parts(self, turns: Sequence[Turn], system: str = "") -> list[prompt_format.Part]:
        """Split the prompt into ("template", …) and ("content", …) parts.

        The contents are located by rendering placeholders instead of them; where the template alters them, the whole
        prompt is one content part. Raises PlaygroundError.
        """
        messages = self._messages(turns, system)
        text = self._render(messages)
        placeholders = [f"\ue000{number}\ue001" for number in range(len(messages))]
        frame = self._render([{**message, "content": mark} for message, mark in zip(messages, placeholders)])
        parts: list[prompt_format.Part] = []
        position = 0
        for message, placeholder in zip(messages, placeholders):
            before, separator, frame = frame.partition(placeholder)
            spellings = (message["content"], message["content"].strip())  # many templates strip contents
            content = next((c for c in spellings if text.startswith(before + c, position)), None)
            if not separator or content is None:
                return [("content", text)]
            parts += [("template", before), ("content", content)]
            position += len(before) + len(content)
        parts.append(("template", text[position:]))
        return [part for part in parts if part[1]]

    def end_of_turn_ids(self) -> list[int]:
        """The first token that the template puts behind an answer, in a list; empty if it puts none there."""
        end = self.prompt([Turn("?", "!")]).removeprefix(self.prompt([Turn("?")]) + "!").strip()
        ids = self.tokenizer.encode(end, add_special_tokens=False) if len(end) < MAX_END_CHARS else []
        return ids[:1]

    def defect(self) -> str | None:
        """Why the template can't be used, or None: it raises, or drops a message."""
        try:
            text = self.prompt([Turn("Q1", "A1"), Turn("Q2")])
        except PlaygroundError as error:
            return error.problems[0].values["detail"]
        lost = [content for content in ("Q1", "A1", "Q2") if content not in text]
        return f"{', '.join(lost)} lost" if lost else None

    @cached_property
    def _supports_system(self) -> bool:
        """Whether the template accepts a system message: some raise, others drop it."""
        try:
            text = self._render([{"role": "system", "content": "S0S"}, {"role": "user", "content": "Q1Q"}])
        except PlaygroundError:
            return False
        return "S0S" in text and "Q1Q" in text

    def _messages(self, turns: Sequence[Turn], system: str) -> list[dict[str, str]]:
        """Turns as messages; a system prompt that the template doesn't support precedes the first question."""
        messages = [{"role": "system", "content": system}] if system and self._supports_system else []
        for turn in turns:
            before = [system] if system and not messages else []
            question = "\n\n".join([*before, turn.instruction, *([turn.input] if turn.input else [])])
            messages.append({"role": "user", "content": question})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
            )
        except Exception as error:  # a template is its author's program, and may raise anything
            raise problem("error.chat_template", detail=str(error).split("\n")[0][:160]) from error
        assert isinstance(text, str)  # as tokenize=False
        return text
