"""Choose the prompt template of a model and its rows: the one that a setting names, or what "auto" stands for."""

import re
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from playground.data.chat_template import ChatTemplate
from playground.data.template import Template
from playground.errors import Problem, problem
from playground.model.load import LoadedModel
from playground.model.tokenizer import is_trained_token
from playground.settings import prompt_format, raise_all

KANA = re.compile(r"[\u3040-\u30ff]")
LANGUAGE_SAMPLE = 50  # texts that are searched for kana


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
        opened = template.chat_template.unwritten
        notes = [{"kind": "note", "key": "note.opened", "values": {"text": opened.strip()}}] if opened.strip() else []
        if tokenizer.eos_token_id in (None, end) or is_trained_token(loaded.model, end):
            return template, notes
        values = {"end": tokenizer.convert_ids_to_tokens(end), "instead": tokenizer.eos_token}
        notes.append({"kind": "note", "key": "note.end_never_learned", "values": values})
        return replace(template, plain_end=True), notes
    if name == "auto" and template.name != "text" and tokenizer.chat_template:
        defect = ChatTemplate(tokenizer).defect()
        if defect:
            values = {"detail": defect, "template": template.name}
            return template, [{"kind": "note", "key": "note.chat_template_broken", "values": values}]
    return template, []
