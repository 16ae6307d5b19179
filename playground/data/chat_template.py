"""A tokenizer's chat template: prompts and whole turns rendered with it, and what it writes around an answer."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from playground.background import memory_limit, time_limit
from playground.data.conversation import Turn
from playground.data.special_tokens import SpecialTokens
from playground.errors import PlaygroundError, problem
from playground.json_values import valid_text
from playground.settings import prompt_format

Message = dict[str, str]
Systems = Sequence[tuple[int, str]]  # system prompts: the number of the turn that each precedes, and its text
MAX_SECONDS = 10.0  # that a template may run for one conversation; real ones take a millisecond
MAX_CHARACTERS = 50_000_000  # of a rendered conversation
MAX_BYTES = 2**30  # that rendering may take
ENDLESS: dict[int, str] = {}  # by a template's hash, what it took too much of once: it isn't waited for again
MARK = "\ue000{}\ue001"  # in place of a content, to find where a template writes it
QUESTION, ANSWER, NEXT = (MARK.format(number) for number in range(3))
ADDED = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # how templates spell tokens


class Conversation(NamedTuple):
    """A rendered conversation up to and with its end token; from `start` on it is what the assistant writes."""

    text: str
    start: int


class ChatTemplate:
    """The chat template that a tokenizer comes with, a Jinja program that may raise anything or drop messages."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def prompt(self, turns: Sequence[Turn], systems: Systems = ()) -> str:
        """Render turns, up to where the last turn's answer begins if it has none. Raises PlaygroundError."""
        return self._render(self._messages(turns, systems))

    def prompt_ids(self, turns: Sequence[Turn], systems: Systems = ()) -> list[int]:
        """The prompt's tokens; a special token's text in a turn stays text."""
        return self.special.encode(self.prompt(*self._hidden(turns, systems)))

    def conversation(self, turns: Sequence[Turn], systems: Systems, answer: str, end: str = "") -> Conversation:
        """Render turns and the answer to the last one, special tokens' texts in them hidden.

        end: the text that ends the answer instead of the template's end token. Raises PlaygroundError.
        """
        turns, systems = self._hidden(turns, systems)
        messages = self._messages(turns, systems)
        prompt, text = self._render(messages), self._render([*messages, _assistant(self.special.hide(answer))])
        closed, start = self._closed(messages, text, end), len(prompt)
        if not text.startswith(prompt):
            start = self._answer_start(messages)
            if not prompt.startswith(text[:start]):  # some forget the system prompt of a question that is answered
                prompt = prompt.removesuffix(self.unwritten)
                closed, start = prompt + closed[start:], len(prompt)
        return Conversation(closed, start)

    def parts(self, turns: Sequence[Turn], systems: Systems, answer: str, end: str = "") -> list[prompt_format.Part]:
        """Split a conversation into ("template", …), ("content", …), ("answer", …) and ("end", …) parts.

        The contents are located by rendering marks instead of them; where the template alters them, all that precedes
        the answer is one content part. Raises PlaygroundError.
        """
        text, start = self.conversation(turns, systems, answer, end)
        text, start = self.special.show(text), len(self.special.show(text[:start]))
        messages = [*self._messages(turns, systems), _assistant(answer)]
        marks = [MARK.format(number) for number in range(len(messages))]
        frame = self._render([{**message, "content": mark} for message, mark in zip(messages, marks)])
        parts: list[prompt_format.Part] = []
        position = 0
        for message, mark in zip(messages, marks):
            before, separator, frame = frame.partition(mark)
            spellings = (message["content"], message["content"].strip())  # many templates strip contents
            content = next((c for c in spellings if text.startswith(before + c, position)), None)
            if not separator or content is None:
                closing = end or self.end
                answered = text[start:].removesuffix(closing)
                return [("content", text[:start]), ("answer", answered), ("end", text[start + len(answered) :])]
            parts += [("template", before), ("answer" if mark == marks[-1] else "content", content)]
            position += len(before) + len(content)
        parts.append(("end", text[position:]))
        return [part for part in parts if part[1]]

    @cached_property
    def special(self) -> SpecialTokens:
        """The tokenizer's special tokens, and those that the template writes around turns."""
        return SpecialTokens(self.tokenizer, ADDED.findall(self._followed))

    @cached_property
    def end(self) -> str:
        """The text that ends an answer, up to and with its end token; "" if the template writes none.

        It is what follows an answer, up to the first special tokens; a template that puts nothing behind a last
        answer ends it with the token that begins the next question.
        """
        end, bos = self.special.run(self._tail), self.tokenizer.bos_token
        if not end and not self._tail.strip():
            return "" if bos and bos in self.end_before_question else self.end_before_question
        tokens, others = self.special.find(end), self.special.find(self.end_before_question)
        both = shared_length(tokens, others)  # some put the end of the text behind the end of the turn
        return end.removesuffix("".join(tokens[both:])) if both else end

    @cached_property
    def end_before_question(self) -> str:
        """The text that ends an answer which a question follows, up to and with its end token; "" if there is none."""
        return self.special.run(self._followed.partition(ANSWER)[2].partition(NEXT)[0])

    def end_ids(self) -> list[int]:
        """The token that ends an answer, in a list; empty if the template writes none."""
        return self.special.encode(self.end)[-1:]

    @cached_property
    def opening(self) -> str:
        """What the template writes of an assistant's turn before the answer begins; at its end a prompt ends."""
        prompt = self._render([_user(QUESTION)])
        question = self._render([_user(QUESTION)], False)
        text = self._render([_user(QUESTION), _assistant(ANSWER)])
        asked = text.find(QUESTION) + len(QUESTION)
        begin = asked
        if len(question) < len(prompt) and prompt.startswith(question) and text.startswith(question):
            begin = max(begin, len(question))
        opening = text[begin : shared_length(prompt, text)]
        earlier = self._followed.partition(QUESTION)[2][begin - asked :]  # of an answer that a question follows
        return opening[: shared_length(opening, earlier)] or opening

    @cached_property
    def answer_prefix(self) -> str:
        """What the template writes at the beginning of every answer, such as a space or an empty reasoning block."""
        prompt, text = self._render([_user("?")]), self._render([_user("?"), _assistant(ANSWER)])
        return text[_parting(prompt, text) :].partition(ANSWER)[0]

    @cached_property
    def unwritten(self) -> str:
        """What a prompt ends with that no rendered answer has, such as an opened reasoning block; mostly ""."""
        prompt, text = self._render([_user("?")]), self._render([_user("?"), _assistant(ANSWER)])
        return prompt[_parting(prompt, text) :]

    def defect(self) -> str | None:
        """Why the template can't be used, or None: it raises, or drops a message."""
        try:
            text = self.prompt([Turn("Q1", "A1"), Turn("Q2")])
        except PlaygroundError as error:
            return error.problems[0].values["detail"]
        lost = [content for content in ("Q1", "A1", "Q2") if content not in text]
        return f"{', '.join(lost)} lost" if lost else None

    @cached_property
    def _followed(self) -> str:
        """A question, its answer and another question as the template renders them; "" if it doesn't."""
        try:
            return self._render([_user(QUESTION), _assistant(ANSWER), _user(NEXT)], False)
        except PlaygroundError:
            return ""

    @cached_property
    def _supports_system(self) -> bool:
        """Whether the template accepts a system message: some raise, others drop it."""
        try:
            text = self._render([_system("S0S"), _user("Q1Q")])
        except PlaygroundError:
            return False
        return "S0S" in text and "Q1Q" in text

    @cached_property
    def _tail(self) -> str:
        """What the template writes behind a last answer."""
        return self._render([_user("?"), _assistant(ANSWER)]).partition(ANSWER)[2]

    def _closed(self, messages: list[Message], text: str, end: str) -> str:
        """A conversation with what follows its answer replaced by the end."""
        tail = self._tail
        if not text.endswith(tail):  # the template writes another one here
            tail = self._render([*messages, _assistant(ANSWER)]).partition(ANSWER)[2]
        without_tail = text.removesuffix(tail)
        return without_tail + (end or self.end or tail + str(self.tokenizer.eos_token or ""))

    def _answer_start(self, messages: list[Message]) -> int:
        """Where an answer begins that doesn't continue its prompt."""
        marked = self._render([*messages, _assistant(ANSWER)])
        return len(marked.partition(ANSWER)[0].removesuffix(self.answer_prefix))

    def _hidden(self, turns: Sequence[Turn], systems: Systems) -> tuple[Sequence[Turn], Systems]:
        """Turns and system prompts with special tokens' texts hidden."""
        hide = self.special.hide
        turns = [
            replace(
                turn,
                instruction=hide(turn.instruction),
                input=hide(turn.input),
                answer=turn.answer and hide(turn.answer),
            )
            for turn in turns
        ]
        return turns, [(number, hide(text)) for number, text in systems]

    def _messages(self, turns: Sequence[Turn], systems: Systems) -> list[Message]:
        """Turns as messages. System prompts that the template doesn't take where they stand are joined at the start,
        or precede the first question if it takes none.
        """
        if not systems or not self._supports_system:
            return _interleaved(turns, (), "\n\n".join(text for _, text in systems if text))
        apart = _interleaved(turns, systems)
        if [number for number, _ in systems] == [0] or self._keeps(apart, [text for _, text in systems]):
            return apart
        return _interleaved(turns, [(0, "\n\n".join(text for _, text in systems if text))])

    def _keeps(self, messages: list[Message], texts: Sequence[str]) -> bool:
        """Whether the template renders messages with all of these texts."""
        try:
            rendered = self._render(messages)
        except PlaygroundError:
            return False
        return all(text.strip() in rendered for text in texts)

    def _render(self, messages: list[Message], add_generation_prompt: bool | None = None) -> str:
        """Render messages; with the beginning of an answer if the last one isn't an answer, unless said otherwise."""
        if add_generation_prompt is None:
            add_generation_prompt = messages[-1]["role"] != "assistant"
        return self._apply(messages, add_generation_prompt, self._takes_parts)

    def _apply(self, messages: list[Message], add_generation_prompt: bool, in_parts: bool) -> str:
        """Run the template. in_parts: contents as lists of parts, [{"type": "text", "text": …}], not as strings."""
        given: list[dict] = [*messages]
        if in_parts:
            given = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
        known = hash(str(self.tokenizer.chat_template))
        if known in ENDLESS:
            raise problem("error.chat_template", detail=ENDLESS[known])
        try:
            with time_limit(MAX_SECONDS), memory_limit(MAX_BYTES):
                text = self.tokenizer.apply_chat_template(
                    given, tokenize=False, add_generation_prompt=add_generation_prompt
                )
        except (TimeoutError, MemoryError) as error:
            is_slow = isinstance(error, TimeoutError)
            ENDLESS[known] = f"no end after {MAX_SECONDS:g} s" if is_slow else f"more than {MAX_BYTES >> 20} MiB"
            raise problem("error.chat_template", detail=ENDLESS[known]) from error
        except Exception as error:  # a template is its author's program, and may raise anything
            raise problem("error.chat_template", detail=str(error).split("\n")[0][:160]) from error
        assert isinstance(text, str)  # as tokenize=False
        if len(text) > MAX_CHARACTERS:
            raise problem("error.chat_template", detail=f"{len(text):,} characters")
        return valid_text(text)

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template takes contents in parts alone, as those of models that also see images do (LLaVA)."""

        def writes_question(in_parts: bool) -> bool:
            try:
                return "Q1Q" in self._apply([_user("Q1Q")], True, in_parts)
            except PlaygroundError:
                return False

        return not writes_question(False) and writes_question(True)


def _interleaved(turns: Sequence[Turn], systems: Systems, before_question: str = "") -> list[Message]:
    """Turns as messages, each system prompt before its turn; before_question: text that precedes the first question."""
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        messages += [_system(text) for at, text in systems if at == number]
        texts = [before_question if not number else "", turn.instruction, turn.input]
        messages.append(_user("\n\n".join(text for text in texts if text)))
        if turn.answer is not None:
            messages.append(_assistant(turn.answer))
    return messages


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _parting(prompt: str, text: str) -> int:
    """How many characters a prompt and a rendered conversation share, without the beginning of a token."""
    shared = shared_length(prompt, text)
    tokens = [token for one in (prompt, text) for token in ADDED.finditer(one)]
    return min((token.start() for token in tokens if token.start() < shared < token.end()), default=shared)


def shared_length(one: Sequence, other: Sequence) -> int:
    """How many items both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
