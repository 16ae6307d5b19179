"""The built-in prompt formats, up to where the answer begins."""

from typing import NamedTuple


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
