"""Check whether an adapter from elsewhere fits a base model, by names and shapes alone: nothing is loaded for it."""

import copy
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict
from transformers import PreTrainedConfig, PreTrainedModel

from playground import catalog
from playground.errors import PlaygroundError, Problem, problem
from playground.model.adapter_file import PREFIX, AdapterFile, Shape, layer_of, read_adapter
from playground.model.adapter_folder import merged_folder
from playground.model.base_identity import is_certainly_other
from playground.model.config_file import config_of
from playground.model.embedding import embedding_rows, rows_among
from playground.model.load import model_from_config
from playground.model.tensor_names import natural_order
from playground.model.weights import SHOWN, format_shape

MERGED_UNCHECKED = {"error.adapter_type", "error.adapter_changes_base"}  # PEFT merges these; what fits them isn't known
NOT_CHECKED = "experts"  # whose tensors transformers stores together and older adapters one by one: PEFT converts them


def check_fit(adapter: AdapterFile, config: PreTrainedConfig, base: str, force: bool = False) -> list[dict]:
    """Raise PlaygroundError unless the adapter's tensors have a place of their shape in the base model, and none is
    lacking, and where it is certain that the adapter was trained on another model than this one; the error names
    both models. base: as settings name it. force: whether an adapter of another model, but of these shapes, is taken.

    Returns `note` events: layers that the adapter's config doesn't name; another base model than this one, or none.
    """
    entry = catalog.models().get(base)
    trained_on, shown = base_name(adapter.trained_on), entry["name"] if entry else base_name(base)
    with torch.device("meta"):
        model = model_from_config(copy.deepcopy(config), torch.bfloat16)
    modules = {name for name, _ in model.named_modules()}
    layers = sorted({layer_of(name) for name in adapter.shapes}, key=natural_order)
    absent = [name for name in layers if name.split(".token_adapter")[0] not in modules]
    if any(NOT_CHECKED in name.split(".") for name in [*absent, *layers]):
        return _name_notes(adapter, base, trained_on, shown, force)
    expected = adapter.shapes if len(absent) == len(layers) else _expected_shapes(adapter, model)
    _check_shapes(adapter, expected, len(absent), trained_on, shown)
    lacking = sorted({layer_of(name) for name in expected if name not in adapter.shapes}, key=natural_order)
    key = "error.adapter_layers" if absent else "error.adapter_lacks"
    if absent or lacking:
        first, *others = absent or lacking
        missing, count = 1 + len(others), len(layers)
        raise problem(key, trained_on=trained_on, model=shown, layer=first, missing=missing, count=count)
    notes = [{"kind": "note", **asdict(note)} for note in unused_layers(adapter.folder, adapter.shapes, expected)]
    return notes + _name_notes(adapter, base, trained_on, shown, force)


def unused_layers(folder: Path, stored: Iterable[str], expected: Iterable[str]) -> list[Problem]:
    """A note on an adapter's layers that its config doesn't name, so that PEFT passes over them; [] without any.

    stored, expected: names of tensors in the file, and by the config. Raises PlaygroundError where the most are unused.
    """
    found = {layer_of(name) for name in stored if ".lora_" in name}
    unused = sorted(found - {layer_of(_with_prefix(name)) for name in expected}, key=natural_order)
    if not unused:
        return []
    without, count, names = len(unused), len(found), unused[:SHOWN]
    if 2 * without > count:
        raise problem("error.adapter_unused", path=folder.name, unused=without, count=count, names=names)
    return [Problem("note.adapter_unused", {"path": folder.name, "unused": without, "count": count, "names": names})]


def check_named_base(folder: Path, base: str) -> PreTrainedConfig:
    """The config of an adapter's base model. Raises PlaygroundError unless the adapter fits the base that it names.

    An adapter that isn't LoRA, or that changes its base model's own weights, isn't compared: it can only be merged.
    """
    config = config_of(base)
    _raise_unless_fitting(folder, base, str(merged_folder(folder)), config.to_json_string())
    return config


@lru_cache(maxsize=16)  # one forecast asks for the same config several times
def _raise_unless_fitting(folder: Path, base: str, adapter_state: str, base_state: str) -> None:
    """adapter_state, base_state: change where the files do."""
    try:
        adapter = read_adapter(folder)
    except PlaygroundError as error:
        if {found.key for found in error.problems} <= MERGED_UNCHECKED:
            return
        raise
    try:
        check_fit(adapter, config_of(base), base)
    except PlaygroundError as error:
        found, shown = error.problems[0], base_name(base)
        missing, count, layer = (found.values.get(name, 0) for name in ("missing", "count", "layer"))
        if found.key == "error.adapter_lacks":
            raise problem(
                "error.adapter_base_lacks", path=folder.name, base=shown, missing=missing, count=count, layer=layer
            ) from error
        if found.key in ("error.adapter_layers", "error.adapter_shapes"):
            raise problem(
                "error.adapter_base_other",
                path=folder.name,
                base=shown,
                missing=missing,
                wrong=found.values.get("wrong", 0),
                count=count,
                layer=layer,
            ) from error
        raise


def _check_shapes(adapter: AdapterFile, expected: dict[str, Shape], missing: int, trained_on: str, shown: str) -> None:
    """Raise PlaygroundError where a tensor has another shape than expected. missing: layers that the model lacks."""
    wrong = [name for name in adapter.shapes if expected.get(name, adapter.shapes[name]) != adapter.shapes[name]]
    if wrong:
        first = min(wrong, key=natural_order)
        raise problem(
            "error.adapter_shapes",
            trained_on=trained_on,
            model=shown,
            layer=layer_of(first),
            given=format_shape(adapter.shapes[first]),
            wanted=format_shape(expected[first]),
            wrong=len({layer_of(name) for name in wrong}),
            missing=missing,
            count=len({layer_of(name) for name in adapter.shapes}),
        )


def base_name(named: str) -> str:
    """The name to show for an adapter's base model: a hub id, the last part of a path, or "–" where it names none."""
    if not named:
        return "–"
    is_path = named.startswith(("/", "\\", ".", "~")) or named[1:2] == ":" or named.count("/") > 1
    return named.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if is_path else named


def is_same_base(trained_on: str, base: str) -> bool:
    """Whether an adapter names this very base model: a catalog id by its hub id, a folder by its path."""
    entry = catalog.models().get(base)
    names = {base, catalog.source_of(entry, "hub") if entry else None}
    try:
        folder = Path(base).expanduser()
        return trained_on in names or (folder.is_dir() and Path(trained_on).expanduser().resolve() == folder.resolve())
    except (OSError, ValueError):  # a name that no path can have
        return False


def _name_notes(adapter: AdapterFile, base: str, trained_on: str, shown: str, force: bool) -> list[dict]:
    if is_same_base(adapter.trained_on, base):
        return []
    if not force and is_certainly_other(adapter, base):
        raise problem("error.adapter_other_model", trained_on=trained_on, model=shown)
    key = "note.adapter_other_base" if adapter.trained_on else "note.adapter_no_base"
    return [{"kind": "note", "key": key, "values": {"trained_on": trained_on, "model": shown}}]


def _expected_shapes(adapter: AdapterFile, model: PreTrainedModel) -> dict[str, Shape]:
    """The tensors that PEFT makes for the adapter's config in this network, whose tensors have no values."""
    rows = rows_among(adapter.shapes, model)
    if rows > embedding_rows(model):
        model.resize_token_embeddings(rows, mean_resizing=False)
    config: Any = replace(
        adapter.config, init_lora_weights=False, base_model_name_or_path=None, modules_to_save=_present(adapter, model)
    )
    try:
        adapted = get_peft_model(model, config, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, re.error) as error:
        raise problem("error.adapter", path=adapter.folder.name, detail=str(error).split("\n")[0][:200]) from error
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {_with_prefix(name): tuple(tensor.shape) for name, tensor in tensors.items()}


def _present(adapter: AdapterFile, model: PreTrainedModel) -> list[str] | None:
    """The modules saved whole that the network has; PEFT looks for all of them."""
    modules = [f".{name}" for name, _ in model.named_modules()]
    wanted: Iterable[str] = adapter.config.modules_to_save or ()
    return [name for name in wanted if any(module.endswith(f".{name}") for module in modules)] or None


def _with_prefix(name: str) -> str:
    return name if name.startswith(PREFIX) else PREFIX + name
