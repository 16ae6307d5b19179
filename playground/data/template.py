"""How a row is written for the model: the Alpaca format, the talk's 指示/入力, the model's own chat template, a form of the person's, or not at all."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from playground.data.source import Row
from playground.errors import PlaygroundError, Problem, problem
from playground.model.load import LoadedModel
from playground.model.tokenizer import is_trained_token
from playground.settings import prompt_format, raise_all

# The prompt format of Stanford Alpaca (Taori et al. 2023), which alpaca-lora and the talk's recipe train on.
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
# The talk's own, with a mark where the answer begins.
TALK_INPUT = "指示: {instruction} 入力: {input}\n回答: "
TALK = "指示: {instruction}\n回答: "
PLAIN = {
    "alpaca": (ALPACA, ALPACA_INPUT, "\n\n"),
    "talk": (TALK, TALK_INPUT, "\n"),
    "text": ("{instruction}", "{instruction}", "\n"),
}
KANA = re.compile(r"[\u3040-\u30ff]")
AT_ONCE = 256  # texts of one call of a tokenizer


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation; `answer` is None in the turn that is to be answered."""

    instruction: str
    answer: str | None = None
    input: str = ""


def turns(row: Row) -> list[Turn]:
    """What was said before a row's question, and that question."""
    return [*(Turn(question, answer) for question, answer in row.before), Turn(row.instruction, input=row.input)]


@dataclass(frozen=True)
class Template:
    """A way of writing prompts for one tokenizer. `name` is chat, alpaca, talk, text or own.

    `encoder`: an encoder reads the prompt and a decoder writes the answer, each a text of its own; elsewhere the answer
    goes on where the prompt ends. `plain_end`: answers close with the end-of-text token, also in a chat. `form`: the text
    of an own template. A system prompt that a template has no place for stands before the first question.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    encoder: bool = False
    plain_end: bool = False
    form: str = ""

    def prompt(self, turns: Sequence[Turn], system: str = "") -> str:
        """The text up to where the last turn's answer begins.

        Raises PlaygroundError where the model's own template can't write it.
        """
        return (
            self._chat(turns, system)
            if self.name == "chat"
            else "".join(text for _, text in self._plain(turns, system))
        )

    def parts(self, turns: Sequence[Turn], system: str = "") -> list[prompt_format.Part]:
        """The prompt in pieces: ("template", what this template puts there) or ("content", what it was given)."""
        return self._chat_parts(turns, system) if self.name == "chat" else self._plain(turns, system)

    def ids(self, turns: Sequence[Turn], system: str = "") -> list[int]:
        """The prompt's tokens, with the beginning-of-text token where this tokenizer uses one; for an encoder, also the end's."""
        return self._prompts([self.prompt(turns, system)])[0]

    def asks(self, row: Row) -> bool:
        """Whether a row has a prompt; one that is text alone has none, in whichever template."""
        return self.name != "text" and any((row.instruction, row.input, row.before, row.system))

    def tokens(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], list[int]]]:
        """Each row's prompt and its answer, with what tells the model to stop, as tokens.

        Raises PlaygroundError for text alone where an encoder wants a prompt to read.
        """
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            asking = [row for row in part if self.asks(row)]
            if self.encoder and len(asking) < len(part):
                raise problem("error.text_encoder")
            prompts = iter(self._prompts([self.prompt(turns(row), row.system) for row in asking]))
            answers = self._encoded([row.output for row in part], self.encoder)
            for row, answer in zip(part, answers):
                yield (
                    next(prompts) if self.asks(row) else list(self.beginning),
                    self._without_end(answer) + self.closing,
                )

    @cached_property
    def beginning(self) -> list[int]:
        """What a text without a prompt begins with: the beginning-of-text token, where this tokenizer uses one."""
        return self._without_end(self.tokenizer.encode(""))

    @cached_property
    def closing(self) -> list[int]:
        """The tokens that close an answer: what an own template puts there, and the end."""
        return (
            self._encoded([self.written.closing], False)[0] + self.end_ids()
            if self.name == "custom"
            else self.end_ids()
        )

    @cached_property
    def written(self) -> prompt_format.PromptFormat:
        """The own template, read."""
        return prompt_format.parse_format(self.form)

    def end_ids(self) -> list[int]:
        """The tokens that end an answer: the chat template's end of turn, else the end-of-text token."""
        if self.name == "chat" and not self.plain_end:
            closed = self._chat([Turn("?", "!")]).removeprefix(self._chat([Turn("?")]) + "!").strip()
            ids = self.tokenizer.encode(closed, add_special_tokens=False) if len(closed) < 40 else []
            if ids:
                return ids[:1]
        if self.tokenizer.eos_token_id is None:
            raise problem("error.no_end")
        return [self.tokenizer.eos_token_id]

    def answer(self, text: str) -> str:
        """What was answered, without what an own template closes it with."""
        closing = self.written.closing.strip() if self.name == "custom" else ""
        return text.rstrip().removesuffix(closing) if closing and text.rstrip().endswith(closing) else text

    def _prompts(self, texts: list[str]) -> list[list[int]]:
        found = self._encoded(texts, self.name != "chat")
        return found if self.encoder or self.name == "chat" else [self._without_end(ids) for ids in found]

    def _encoded(self, texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(
            texts, add_special_tokens=special, verbose=False, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def _plain(self, turns: Sequence[Turn], system: str) -> list[prompt_format.Part]:
        parts: list[prompt_format.Part] = []
        for number, turn in enumerate(turns):
            used = self._form(turn)
            parts += [("template", self._gap)] if number else []
            given = {"instruction": turn.instruction, "input": turn.input, "system": "" if number else system}
            for name, first in (("input", False), ("system", True)):
                if name not in used.names and given[name]:
                    given["instruction"] = "\n\n".join(
                        (given[name], given["instruction"]) if first else (given["instruction"], given[name])
                    )
            parts += used.asked(given)
            if turn.answer is not None:
                parts += [("content", turn.answer), ("template", used.closing)]
        return [part for part in parts if part[1]]

    @property
    def _gap(self) -> str:
        return "\n" if self.name == "custom" else PLAIN[self.name][2]

    def _form(self, turn: Turn) -> prompt_format.PromptFormat:
        return (
            self.written
            if self.name == "custom"
            else prompt_format.parse_format(PLAIN[self.name][bool(turn.input)] + "{answer}")
        )

    def _messages(self, turns: Sequence[Turn], system: str) -> list[dict]:
        messages = [{"role": "system", "content": system}] if system and self._has_system else []
        for turn in turns:
            above = [system] if system and not messages else []
            asked = "\n\n".join([*above, turn.instruction, *([turn.input] if turn.input else [])])
            messages.append({"role": "user", "content": asked})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": turn.answer})
        return messages

    @cached_property
    def _has_system(self) -> bool:
        """Whether the model's own template has a place for a system prompt: some raise, others drop it."""
        try:
            written = self._rendered([{"role": "system", "content": "S0S"}, {"role": "user", "content": "Q1Q"}])
        except PlaygroundError:
            return False
        return "S0S" in written and "Q1Q" in written

    def _chat(self, turns: Sequence[Turn], system: str = "") -> str:
        return self._rendered(self._messages(turns, system))

    def _chat_parts(self, turns: Sequence[Turn], system: str) -> list[prompt_format.Part]:
        """The same in pieces, found by writing marks in the place of what was said; in one piece where that tells nothing."""
        messages, whole = self._messages(turns, system), self._chat(turns, system)
        marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
        frame = self._rendered([{**message, "content": mark} for message, mark in zip(messages, marks)])
        parts, at = [], 0
        for message, mark in zip(messages, marks):
            before, found, frame = frame.partition(mark)
            said = next(
                (
                    text
                    for text in (message["content"], message["content"].strip())
                    if whole.startswith(before + text, at)
                ),
                None,
            )
            if not found or said is None:
                return [("content", whole)]
            parts += [("template", before), ("content", said)]
            at += len(before) + len(said)
        return [part for part in (*parts, ("template", whole[at:])) if part[1]]

    def _rendered(self, messages: list[dict]) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
            )
        except Exception as error:  # a template is a program of its author's, and may raise anything
            raise problem("error.chat_template", detail=str(error).split("\n")[0][:160]) from error


def choose_template(
    wanted: str, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], encoder: bool = False, own: str = ""
) -> Template:
    """The template asked for. "auto" is text alone where there are no questions, else the model's own chat template where it
    works, else the talk's for Japanese, else Alpaca's.

    `texts`: some of what will be asked; `encoder`: whether the model has one; `own`: the form of an own template. Raises
    PlaygroundError where "chat" is asked of a model without one, for text alone where there is an encoder, and for a form
    that has no place for the answer, or another fault.
    """
    if wanted == "chat" and not tokenizer.chat_template:
        raise problem("error.no_chat_template")
    if wanted == "custom":
        raise_all([Problem(key, values) for key, values in prompt_format.problems(own)])
        return Template("custom", tokenizer, encoder, form=own)
    if wanted == "auto" and len(texts) and not any(text.strip() for text in texts):
        wanted = "text"
    if wanted == "auto":
        japanese = any(KANA.search(text) for text in texts[:50])
        wanted = (
            "chat"
            if tokenizer.chat_template and not chat_template_problem(tokenizer)
            else "talk"
            if japanese
            else "alpaca"
        )
    if wanted == "text" and encoder:
        raise problem("error.text_encoder")
    return Template(wanted, tokenizer, encoder)


def chat_template_problem(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why the model's own chat template can't be used, or None: it raises, or loses what it is given."""
    try:
        written = Template("chat", tokenizer).prompt([Turn("Q1", "A1"), Turn("Q2")])
    except PlaygroundError as error:
        return error.problems[0].values["detail"]
    lost = [part for part in ("Q1", "A1", "Q2") if part not in written]
    return f"{', '.join(lost)} lost" if lost else None


def choose_template_for(
    loaded: LoadedModel, wanted: str, texts: Sequence[str], own: str = ""
) -> tuple[Template, list[dict]]:
    """`choose` for a model in memory, and what is to be said of it as `note` events."""
    template = choose_template(wanted, loaded.tokenizer, texts, loaded.model.config.is_encoder_decoder, own)
    if template.name == "chat":
        [end, *_] = template.end_ids()
        if loaded.tokenizer.eos_token_id in (None, end) or is_trained_token(loaded.model, end):
            return template, []
        names = {"end": loaded.tokenizer.convert_ids_to_tokens(end), "instead": loaded.tokenizer.eos_token}
        return replace(template, plain_end=True), [{"kind": "note", "key": "note.end_never_learned", "values": names}]
    trouble = (
        chat_template_problem(loaded.tokenizer)
        if wanted == "auto" and template.name != "text" and loaded.tokenizer.chat_template
        else None
    )
    return template, [
        {"kind": "note", "key": "note.chat_template_broken", "values": {"detail": trouble, "template": template.name}}
    ] if trouble else []
