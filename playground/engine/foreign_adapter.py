"""Adapters from elsewhere: find one, check it against the base model before that is loaded, and read its tokenizer."""

from collections.abc import Generator
from copy import copy
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from playground.engine.job import JobContext
from playground.engine.model_slot import ModelSlot
from playground.errors import PlaygroundError
from playground.model.adapter_check import check_fit
from playground.model.adapter_file import AdapterFile, read_adapter
from playground.model.adapter_source import fetch_adapter
from playground.model.load import LoadedModel
from playground.model.source import config_available
from playground.model.tokenizer import load_tokenizer
from playground.predict import meta_model
from playground.settings import Load

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def find_adapter(context: JobContext, slot: ModelSlot, adapter: str, load: Load) -> Generator[dict, None, AdapterFile]:
    """Fetch and read an adapter by its folder or hub id, and check that it fits the model of these settings.

    Where the model isn't loaded yet, its config suffices. Yields notes. Raises PlaygroundError.
    """
    folder = yield from fetch_adapter(adapter, context.stop)
    found = read_adapter(folder)
    yield from found.notes
    if slot.loaded and slot.is_loaded_as(load):
        yield from check_fit(found, slot.loaded.model.config, load.model, load.force)
    elif config_available(load.model):
        yield from check_fit(found, meta_model.config_of(load.model), load.model, load.force)
    return found


def adapter_tokenizer(folder: Path, loaded: LoadedModel) -> Generator[dict, None, PreTrainedTokenizerBase | None]:
    """The tokenizer to ask with: the adapter's own, the model's with the adapter's chat template, or None where the
    folder has neither. One that can't be read or doesn't fit the model is left out with a note.
    """
    template = folder / "chat_template.jinja"
    try:
        if any((folder / name).is_file() for name in VOCABULARIES):
            tokenizer = load_tokenizer(folder, loaded.model)
            tokenizer.chat_template = tokenizer.chat_template or loaded.tokenizer.chat_template
            return tokenizer
        if template.is_file():
            tokenizer = copy(loaded.tokenizer)
            tokenizer.chat_template = template.read_text(encoding="utf-8")
            return tokenizer
    except (OSError, ValueError, PlaygroundError) as error:
        values = {"path": folder.name, "detail": str(error).split("\n")[0][:200]}
        yield {"kind": "note", "key": "note.adapter_tokenizer", "values": values}
    return None
