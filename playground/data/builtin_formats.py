"""Prompt formats written out: the built-in ones, up to where the answer begins, and turns in any format."""

from collections.abc import Sequence
from typing import NamedTuple

from playground.data.conversation import Turn
from playground.settings import prompt_format


class BuiltinFormat(NamedTuple):
    """A prompt format without and with an input, and the text between two turns of a conversation."""

    without_input: str
    with_input: str
    separator: str


# The prompt format of Stanford Alpaca (Taori et al. 2023), which alpaca-lora and the talk's recipe train on.
ALPACA = BuiltinFormat(
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "\n\n",
)
# The format that the talk shows, with a mark where the answer begins.
TALK = BuiltinFormat("指示: {instruction}\n回答: ", "指示: {instruction} 入力: {input}\n回答: ", "\n")
TEXT = BuiltinFormat("{instruction}", "{instruction}", "\n")
BUILTIN_FORMATS = {"alpaca": ALPACA, "talk": TALK, "text": TEXT}


def format_parts(
    format: BuiltinFormat | prompt_format.PromptFormat, turns: Sequence[Turn], system: str
) -> list[prompt_format.Part]:
    """Turns in a format, in parts, up to where the last one's answer begins."""
    separator = format.separator if isinstance(format, BuiltinFormat) else "\n"
    parts: list[prompt_format.Part] = []
    for number, turn in enumerate(turns):
        parsed = _parsed(format, turn)
        parts += [("template", separator)] if number else []
        parts += parsed.prompt_parts(_values(parsed, turn, "" if number else system))
        if turn.answer is not None:
            parts += [("content", turn.answer), ("template", parsed.closing)]
    return [part for part in parts if part[1]]


def _parsed(format: BuiltinFormat | prompt_format.PromptFormat, turn: Turn) -> prompt_format.PromptFormat:
    if isinstance(format, prompt_format.PromptFormat):
        return format
    return prompt_format.parse_format((format.with_input if turn.input else format.without_input) + "{answer}")


def _values(format: prompt_format.PromptFormat, turn: Turn, system: str) -> dict[str, str]:
    """The values of a format's fields; an input and a system prompt without a field join the instruction."""
    instruction = turn.instruction
    if "input" not in format.names and turn.input:
        instruction = f"{instruction}\n\n{turn.input}"
    if "system" not in format.names and system:
        instruction = f"{system}\n\n{instruction}"
    return {"instruction": instruction, "input": turn.input, "system": system}
