"""How a row is written for the model: the Alpaca format, the talk's 指示/入力, or the model's own chat template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from playground.errors import PlaygroundError, problem
from playground.model.load import Loaded
from playground.model.tokenizer import learned

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
PLAIN = {"alpaca": (ALPACA, ALPACA_INPUT, "\n\n"), "talk": (TALK, TALK_INPUT, "\n")}
KANA = re.compile(r"[\u3040-\u30ff]")


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation; `answer` is None in the turn that is to be answered."""

    instruction: str
    answer: str | None = None
    input: str = ""


@dataclass(frozen=True)
class Template:
    """A way of writing prompts for one tokenizer. `name` is chat, alpaca or talk.

    `encoder`: an encoder reads the prompt and a decoder writes the answer, each a text of its own; elsewhere the answer
    goes on where the prompt ends. `plain_end`: answers close with the end-of-text token, also in a chat.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    encoder: bool = False
    plain_end: bool = False

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text up to where the last turn's answer begins.

        Raises PlaygroundError where the model's own template can't write it.
        """
        if self.name == "chat":
            return self._chat(turns)
        plain, with_input, gap = PLAIN[self.name]
        written = []
        for turn in turns:
            form = with_input if turn.input else plain
            written.append(form.format(instruction=turn.instruction, input=turn.input) + (turn.answer or ""))
        return gap.join(written)

    def ids(self, turns: Sequence[Turn]) -> list[int]:
        """The prompt's tokens, with the beginning-of-text token where this tokenizer uses one; for an encoder, also the end's."""
        text = self.prompt(turns)
        if self.name == "chat":
            return self.tokenizer.encode(text, add_special_tokens=False)
        ids = self.tokenizer.encode(text)
        return ids if self.encoder else self._without_end(ids)

    def answer_ids(self, answer: str) -> list[int]:
        """An answer's tokens, with what tells the model to stop."""
        return self._without_end(self.tokenizer.encode(answer, add_special_tokens=self.encoder)) + self.end_ids()

    def end_ids(self) -> list[int]:
        """The tokens that close an answer: the chat template's end of turn, else the end-of-text token."""
        if self.name == "chat" and not self.plain_end:
            closed = self._chat([Turn("?", "!")]).removeprefix(self._chat([Turn("?")]) + "!").strip()
            ids = self.tokenizer.encode(closed, add_special_tokens=False) if len(closed) < 40 else []
            if ids:
                return ids[:1]
        if self.tokenizer.eos_token_id is None:
            raise problem("error.no_end")
        return [self.tokenizer.eos_token_id]

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def _chat(self, turns: Sequence[Turn]) -> str:
        messages = []
        for turn in turns:
            asked = f"{turn.instruction}\n\n{turn.input}" if turn.input else turn.instruction
            messages.append({"role": "user", "content": asked})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": turn.answer})
        open_end = turns[-1].answer is None
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_end)
        except Exception as error:  # a template is a program of its author's, and may raise anything
            raise problem("error.chat_template", detail=str(error).split("\n")[0][:160]) from error


def choose(wanted: str, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], encoder: bool = False) -> Template:
    """The template asked for; "auto" is the model's own chat template where it works, else the talk's for Japanese, else Alpaca's.

    `texts`: some of what will be asked; `encoder`: whether the model has one. Raises PlaygroundError where "chat" is asked of a model without one.
    """
    if wanted == "chat" and not tokenizer.chat_template:
        raise problem("error.no_chat_template")
    if wanted == "auto":
        japanese = any(KANA.search(text) for text in texts[:50])
        wanted = "chat" if tokenizer.chat_template and not trouble_in_chat(tokenizer) else "talk" if japanese else "alpaca"
    return Template(wanted, tokenizer, encoder)


def trouble_in_chat(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why the model's own chat template can't be used, or None: it raises, or loses what it is given."""
    try:
        written = Template("chat", tokenizer).prompt([Turn("Q1", "A1"), Turn("Q2")])
    except PlaygroundError as error:
        return error.problems[0].values["detail"]
    lost = [part for part in ("Q1", "A1", "Q2") if part not in written]
    return f"{', '.join(lost)} lost" if lost else None


def choose_for(held: Loaded, wanted: str, texts: Sequence[str]) -> tuple[Template, list[dict]]:
    """`choose` for a model in memory, and what is to be said of it as `note` events."""
    template = choose(wanted, held.tokenizer, texts, held.model.config.is_encoder_decoder)
    if template.name == "chat":
        [end, *_] = template.end_ids()
        if held.tokenizer.eos_token_id in (None, end) or learned(held.model, end):
            return template, []
        names = {"end": held.tokenizer.convert_ids_to_tokens(end), "instead": held.tokenizer.eos_token}
        return replace(template, plain_end=True), [{"kind": "note", "key": "note.end_never_learned", "values": names}]
    trouble = trouble_in_chat(held.tokenizer) if wanted == "auto" and held.tokenizer.chat_template else None
    return template, [{"kind": "note", "key": "note.chat_template_broken", "values": {"detail": trouble, "template": template.name}}] if trouble else []
