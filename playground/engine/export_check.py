"""Checks of an export that need no model: disk space, and whether its family and tokenizer can be written as GGUF."""

from pathlib import Path

from playground.errors import PlaygroundError
from playground.export.destination import check_space
from playground.export.gguf_families import family_of
from playground.export.gguf_tokenizer import vocabulary
from playground.export.order import ExportOrder, estimated_bytes
from playground.model.config_file import config_of
from playground.model.source import local_folder
from playground.model.tokenizer import read_tokenizer


def check_before_loading(order: ExportOrder, model: str, folder: Path) -> None:
    """Raise PlaygroundError for a GGUF file that couldn't be written, or an export that doesn't fit on the disk.

    order: of weights, not of an adapter. model: as settings name it. What the model's files don't tell is found out
    once it is loaded.
    """
    source = local_folder(model)
    if order.to == "gguf" and source:
        _check_gguf(source)
    need = estimated_bytes(order, model, 0)
    if need:
        check_space(folder, need)


def _check_gguf(source: Path) -> None:
    config = config_of(str(source))
    if config.get_text_config() is not config:  # of a multimodal model, whose language part has another config
        return
    family_of(config)
    try:
        tokenizer = read_tokenizer(source, config)
    except PlaygroundError:  # as the loading will say
        return
    vocabulary(tokenizer, config.vocab_size)
