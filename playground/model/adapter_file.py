"""Read an adapter's folder without its weights: its config as people have it, and its tensors' names and shapes.

LLaMA-Factory, Unsloth, alpaca-lora and PEFT of any version write such folders. Nothing in them is run, and pickled
weights are read as tensors only.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import LoraConfig

from playground.errors import PlaygroundError, Problem, problem
from playground.json_values import read_small_json
from playground.model.adapter_folder import CONFIG
from playground.model.name_patterns import check_patterns
from playground.model.tensor_names import natural_order
from playground.model.weights import SHOWN, file_problems

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # PEFT reads the first of them that exists
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
LORA_TASKS = (None, "CAUSAL_LM", "SEQ_2_SEQ_LM")
# Ways to begin an adapter that take its start out of the base model's weights, so that the base would answer otherwise.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
PREFIX = "base_model.model."
LORA_PART = re.compile(r"\.(lora_[A-Za-z_]+)(\.weight|\.bias)?$")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA adapter on disk, as far as its config and its weights' header tell.

    trained_on: the base model that it names, "" for none; of a path, the whole path. shapes: by tensor name.
    notes: `note` events on what was chosen or left out while reading.
    """

    folder: Path
    config: LoraConfig
    trained_on: str
    shapes: dict[str, Shape]
    notes: list[dict]

    @property
    def layers(self) -> list[str]:
        """The names of the layers that the file has LoRA matrices for, in the network's order."""
        return sorted({layer_of(name) for name in self.shapes if ".lora_" in name}, key=natural_order)


def read_adapter(folder: Path) -> AdapterFile:
    """Read a folder's adapter, or the newest of its checkpoints'.

    Raises PlaygroundError for a folder without an adapter, one that isn't LoRA, and weights that are missing, cut off,
    empty, or something else than tensors.
    """
    folder, notes = _with_config(folder)
    values = _read_config(folder)
    ignored = sorted(name for name, value in values.items() if value and name not in _known_fields())
    if ignored:
        notes.append(_note("note.adapter_config_ignored", path=folder.name, names=ignored[:SHOWN]))
    shapes = tensor_shapes(folder)
    if not any(".lora_" in name for name in shapes):
        raise problem("error.adapter_empty", path=folder.name, count=len(shapes))
    trained_on = values.get("base_model_name_or_path")
    config = _lora_config(folder, values, _whole_modules(shapes))
    return AdapterFile(folder, config, trained_on if isinstance(trained_on, str) else "", shapes, notes)


def tensor_shapes(folder: Path) -> dict[str, Shape]:
    """The shapes of an adapter's tensors by name. Raises PlaygroundError for weights that can't be read."""
    # A run's adapter lies in a folder of that name, within the one that tells which run it is.
    owner = f"{folder.parent.name}/{folder.name}" if folder.name == "adapter" else folder.name
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        found = sorted(item.name for item in folder.iterdir())[:SHOWN]
        raise problem("error.adapter_no_weights", path=owner, found=found)
    problems = [Problem(p.key, {**p.values, "file": f"{owner}/{file.name}"}) for p in file_problems(file)]
    if problems:
        raise PlaygroundError(*problems)
    if file.suffix == ".safetensors":
        with open(file, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    try:
        tensors = torch.load(file, map_location="meta", weights_only=True)
        return {str(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    except UnpicklingError as error:
        raise problem("error.unsafe_weights", path=folder.name) from error
    except (OSError, RuntimeError, ValueError, AttributeError, EOFError) as error:
        raise problem("error.adapter", path=folder.name, detail=str(error).split("\n")[0][:200]) from error


def layer_of(tensor: str) -> str:
    """The module that a tensor of an adapter belongs to, as the base model names it."""
    return LORA_PART.sub("", tensor).removeprefix(PREFIX).removesuffix(".weight").removesuffix(".bias")


def _with_config(folder: Path) -> tuple[Path, list[dict]]:
    """The folder that has the adapter: itself, or the newest checkpoint in it, which a note names."""
    if not folder.is_dir():
        raise problem("error.no_folder", path=str(folder))
    if (folder / CONFIG).is_file():
        return folder, []
    numbers = {
        int(match[1]): item
        for item in folder.iterdir()
        if (match := CHECKPOINT.fullmatch(item.name)) and (item / CONFIG).is_file()
    }
    if not numbers:
        found = sorted(item.name for item in folder.iterdir())[:SHOWN] or ["–"]
        raise problem("error.adapter_not_here", path=folder.name, found=found)
    newest = numbers[max(numbers)]
    return newest, [_note("note.adapter_checkpoint", path=folder.name, chosen=newest.name, count=len(numbers))]


def _read_config(folder: Path) -> dict[str, Any]:
    """The values of an adapter_config.json. Raises PlaygroundError for another kind of adapter than LoRA."""
    try:
        values = read_small_json(folder / CONFIG)
        kind = values.get("peft_type", "LORA" if "r" in values else None)
    except (OSError, ValueError, AttributeError) as error:
        raise problem("error.adapter_config", path=folder.name) from error
    if kind is None:
        raise problem("error.adapter_config", path=folder.name)
    check_patterns(values, folder.name)
    if kind != "LORA":
        raise problem("error.adapter_type", path=folder.name, type=str(kind)[:60])
    if values.get("task_type") not in LORA_TASKS:
        raise problem("error.adapter_task", path=folder.name, task=str(values["task_type"])[:60])
    start = str(values.get("init_lora_weights")).lower()
    if start.startswith(CHANGES_BASE):
        raise problem("error.adapter_changes_base", path=folder.name, setting=f"init_lora_weights: {start[:40]}")
    for name, harmless in (("bias", "none"), ("layer_replication", None)):
        if values.get(name) not in (None, harmless, []):
            raise problem("error.adapter_changes_base", path=folder.name, setting=f"{name}: {str(values[name])[:40]}")
    return values


def _known_fields() -> set[str]:
    return {field.name for field in fields(LoraConfig)}


def _whole_modules(shapes: dict[str, Shape]) -> list[str]:
    """The modules that are saved whole beside LoRA's matrices; PEFT saves embedding and head so after they have grown.

    Read as PEFT's `modules_to_save`, they answer on the tuned side alone; else they would replace the base model's own.
    """
    others = (".lora_", ".base_layer.", ".token_adapter.")
    return sorted({layer_of(name) for name in shapes if not any(part in name for part in others)})


def check_values(values: dict[str, Any], shown: str) -> None:
    """Raise PlaygroundError for the first value of an adapter's config that PEFT can't use. shown: the adapter."""
    for name, is_usable in USABLE.items():
        value = values.get(name)
        if value is not None and not is_usable(value):
            raise problem("error.adapter_value", path=shown, name=name, value=str(value)[:60])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MOST < value < MOST


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_RANK


def _is_alpha(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _is_pattern(is_usable: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_usable, value.values()))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


MOST, MOST_RANK = 10**9, 2**16
USABLE: dict[str, Callable[[Any], bool]] = {
    "r": _is_rank,
    "lora_alpha": _is_alpha,
    "lora_dropout": lambda value: _is_number(value) and 0 <= value < 1,
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern"), _are_texts),
    "modules_to_save": lambda value: isinstance(value, list) and _are_texts(value),
    "rank_pattern": _is_pattern(_is_rank),
    "alpha_pattern": _is_pattern(_is_alpha),
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out", "inference_mode"), _is_flag),
    # An adapter for a part of each text, and one of another library: neither is computed as LoRA is.
    **dict.fromkeys(("alora_invocation_tokens", "megatron_config"), lambda value: not value),
}


def _lora_config(folder: Path, values: dict[str, Any], whole_modules: list[str]) -> LoraConfig:
    """PEFT's config of these values, with its defaults for what older versions don't have or leave null.

    Raises PlaygroundError for a value that can't be used.
    """
    check_values(values, folder.name)
    known = {name: value for name, value in values.items() if name in _known_fields() and value is not None}
    named = known.get("modules_to_save") or []
    known["modules_to_save"] = [*named, *(name for name in whole_modules if not _is_named(name, named))] or None
    try:
        return LoraConfig(**known)
    except (TypeError, ValueError) as error:
        raise problem("error.adapter_value", path=folder.name, name=CONFIG, value=str(error)[:160]) from error


def _is_named(module: str, names: list[str]) -> bool:
    return any(f".{module}".endswith(f".{name}") for name in names)


def _note(key: str, **values: Any) -> dict:
    return {"kind": "note", "key": key, "values": values}
