"""Adapter folders given as a model: find the base model that they name, and merge both once into a folder."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground import catalog, compat
from playground.catalog.machine_paths import is_machine_path
from playground.errors import problem
from playground.json_values import read_small_json
from playground.replacement import new_folder
from playground.settings.limits import current_limits

CONFIG = "adapter_config.json"
MERGING = 2  # raised where what is made of an adapter changes, so that what an earlier version made isn't used


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter alone; one with a model's config too is a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_model(folder: Path) -> str:
    """The base model that an adapter names: a catalog id where it has that model, a folder, or a hub id.

    Raises PlaygroundError if the config can't be read or names none, or a folder that doesn't exist.
    """
    try:
        named = read_small_json(folder / CONFIG).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise problem("error.adapter_config", path=folder.name) from error
    if not isinstance(named, str) or not named:
        raise problem("error.adapter_base", path=folder.name, base="–")
    for id, entry in catalog.models().items():
        if named in (id, catalog.source_of(entry, "hub")):
            return id
    if current_limits() and is_machine_path(named):  # who opens a shared page learns of no folder of the machine
        raise problem("error.adapter_base", path=folder.name, base=named)
    try:
        for path in (Path(named).expanduser(), folder / named):
            if path.is_dir():
                return str(path)
    except (OSError, ValueError, RuntimeError) as error:  # a name that no path can have, or of nobody's home
        raise problem("error.adapter_base", path=folder.name, base=named[:120]) from error
    if Path(named).is_absolute() or named.startswith("."):
        raise problem("error.adapter_base", path=folder.name, base=named)
    return named


def merged_folder(folder: Path) -> Path:
    """Where the merged model is kept; an adapter that was changed gets another place."""
    files = sorted(file for file in folder.iterdir() if file.name.startswith("adapter_"))
    states = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    key = hashlib.sha256("\n".join([str(folder.resolve()), str(MERGING), *states]).encode()).hexdigest()[:12]
    return catalog.cache_folder() / "models" / f"merged-{folder.name[:60]}-{key}"


def merge(adapter: Path, base: Path, folder: Path, on_progress: Callable[..., None]) -> None:
    """Merge an adapter into its base model, at 16 bits in main memory, and save both as one model.

    Raises PlaygroundError for an adapter that doesn't fit the base model, weights that can't be read, and a base model
    that lacks some.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoTokenizer

    from playground.model.adapter_check import unused_layers
    from playground.model.adapter_file import tensor_shapes
    from playground.model.conversion_notes import save_notes, unused_tensors
    from playground.model.embedding import embedding_rows, resize_embedding, rows_in_adapter
    from playground.model.merged_weights import merged_model, save_merged
    from playground.model.saved_adapter import UNREADABLE

    try:
        model, unused = _read_base(base, on_progress)
        rows = rows_in_adapter(model, adapter)
        if rows > embedding_rows(model):
            resize_embedding(model, rows)
        tuned = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
        placed = get_peft_model_state_dict(tuned, save_embedding_layers=False)
        passed_over = unused_layers(adapter, tensor_shapes(adapter), placed)
        has_tokenizer = any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
        tokenizer = AutoTokenizer.from_pretrained(adapter if has_tokenizer else base, local_files_only=True)
    except UNREADABLE as error:
        raise problem("error.adapter", path=adapter.name, detail=str(error).split("\n")[0][:200]) from error
    with new_folder(folder) as partial:
        save_merged(merged_model(tuned, torch.bfloat16), partial, on_progress)
        tokenizer.save_pretrained(partial)
        save_notes(partial, [*unused_tensors(base.name, unused), *passed_over])


def _read_base(base: Path, on_progress: Callable[..., None]) -> tuple[Any, list[str]]:
    """A base model at 16 bits in main memory, and the tensors in its files that it has no place for."""
    import torch

    from playground.model.config_file import read_config
    from playground.model.language_part import model_class, without_towers
    from playground.model.load import PLAIN_MODEL
    from playground.model.load_progress import loading_progress
    from playground.model.weights import check_files, check_fit

    check_files(base)
    config = read_config(base / "config.json", base.name)
    with loading_progress(on_progress), compat.without_adapter_beside():
        model, info = model_class(config).from_pretrained(
            base,
            config=config,
            dtype=torch.bfloat16,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **PLAIN_MODEL,
        )
    check_fit(base, info["missing_keys"], info["mismatched_keys"])
    return model, without_towers(config, model, sorted(info["unexpected_keys"]))[1]
