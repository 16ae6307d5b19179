"""Read a model's config.json as people have it: with data types and quantizations that transformers can't read.

Raises PlaygroundError for a file that no config can be made of: an unknown type, sizes that are missing, broken JSON.
"""

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from playground import catalog, compat
from playground.errors import PlaygroundError, problem
from playground.json_values import read_small_text
from playground.model.adapter_folder import base_model, is_adapter_folder
from playground.model.gguf import check_header
from playground.model.plausible import implausible_sizes
from playground.settings import raise_all

# What transformers raises for a config that it can't use.
CONFIG_ERRORS = (
    *(ValueError, KeyError, OSError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError),
    struct.error,
    StrictDataclassError,
)
MAX_BYTES = 20_000_000  # of a config.json; the largest lists all tokens
# The sizes that every config.json must have, by their names in various families.
REQUIRED_SIZES = (
    ("hidden_size", "n_embd", "n_embed", "d_model", "dim", "emb_dim"),
    (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layer_types", "layers_block_type"),
        *("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"),
    ),
)


def config_of(model: str) -> PreTrainedConfig:
    """The config of a model or shape of the catalog, a folder, a config.json, or a hub id.

    An adapter's folder has that of its base model, once the adapter was compared with it. Raises PlaygroundError for a
    model that neither the catalog nor the hub knows, a file that can't be read, a type that transformers doesn't know,
    and an adapter that doesn't fit the base model that it names.
    """
    from playground.model.source import config_file

    entry, folder = catalog.shape_of(model), Path(model).expanduser()
    try:
        if entry:
            return AutoConfig.for_model(**entry["config"])
        if folder.is_dir() and is_adapter_folder(folder):
            from playground.model.adapter_check import check_named_base

            return check_named_base(folder, base_model(folder))
        file = config_file(model)
        if file.suffix == ".gguf":
            check_header(file)
            return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        config = read_config(file, model)
        compat.drop_unavailable_attention(config)
        return config
    except CONFIG_ERRORS as error:
        raise config_problem(model, error) from error


def read_config(file: Path, model: str) -> PreTrainedConfig:
    """The config in a file. model: how errors call the model. Raises PlaygroundError."""
    try:
        written = json.loads(read_small_text(file, MAX_BYTES))
        values = _mended(written)
        _check(file, values)
        if values == written:
            return AutoConfig.from_pretrained(file, trust_remote_code=False, local_files_only=True)
        with tempfile.TemporaryDirectory() as folder:
            mended = Path(folder) / "config.json"
            mended.write_text(json.dumps(values), encoding="utf-8")
            return AutoConfig.from_pretrained(mended, trust_remote_code=False, local_files_only=True)
    except CONFIG_ERRORS as error:
        raise config_problem(model, error) from error


def config_problem(model: str, error: Exception) -> PlaygroundError:
    """The error for a config that transformers can't use."""
    return problem("error.config", model=model[:120], detail=" ".join(str(error).split())[:240].rstrip("."))


def _mended(value: Any) -> Any:
    """A config's values, in its parts too, in the forms that transformers reads; halves of characters are replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if not isinstance(value, dict):
        return value
    values = {_mended(name): _mended(item) for name, item in value.items()}
    for name in {"dtype", "torch_dtype"} & values.keys():
        if not isinstance(values[name], dict):
            values[name] = _data_type(values[name])
    if "quantization_config" in values:
        values["quantization_config"] = _quantization(values["quantization_config"])
    return {name: item for name, item in values.items() if item is not None or value.get(name) is None}


def _data_type(name: Any) -> str | None:
    """The name of a torch data type without "torch."; None for "auto" and what torch doesn't have."""
    short = str(name).removeprefix("torch.")
    return short if isinstance(getattr(torch, short, None), torch.dtype) else None


def _quantization(written: Any) -> Any:
    """A stored quantization, bitsandbytes' by name also where an old file doesn't name it; None for none at all."""
    if not isinstance(written, dict) or written.get("quant_method"):
        return written if written else None
    if written.get("load_in_8bit") or written.get("load_in_4bit"):
        return written | {"quant_method": "bitsandbytes"}
    return None if not written or "load_in_8bit" in written or "load_in_4bit" in written else written


def _check(file: Path, values: Any) -> None:
    """Raise PlaygroundError for a config.json of an unknown type or without its sizes.

    For missing sizes, transformers would use those of the family's best-known model.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise problem("error.config_kind", path=str(file))
    if kind not in CONFIG_MAPPING:
        raise problem("error.model_type", path=str(file), kind=kind[:60], version=transformers.__version__)
    raise_all(list(implausible_sizes(values)))
    stored = values.get("quantization_config")
    if stored is not None and not isinstance(stored, dict):
        raise ValueError(f"quantization_config is {type(stored).__name__}, not an object")
    for name in (name for names in REQUIRED_SIZES for name in names):
        if isinstance(values.get(name), int) and values[name] <= 0:
            raise ValueError(f"{name} is {values[name]}")
    text = values.get("text_config")
    if isinstance(text, dict) and "model_type" in text:
        return  # such files name their language model's family and only what differs from it (LLaVA)
    present = set(values).union(*(part for part in values.values() if isinstance(part, dict)))
    lacking = [names[0] for names in REQUIRED_SIZES if not present & set(names)]
    if lacking:
        raise problem("error.config_sizes", path=str(file), lacking=lacking)
