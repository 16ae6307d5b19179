"""Tell whether the base model that an adapter names is certainly another than the one at hand, whose shapes are equal.

Certain by weights: both models are on this machine, and the rows that were compared have nothing in common. Certain by
names: two hub ids of one owner, or two whose words differ in size, version or variant alone. Not certain, so a note
says it, and nothing is refused: a path that isn't here, a mirror, a quantized or renamed copy, a further trained model.
"""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from playground import catalog
from playground.catalog.machine_paths import is_machine_path
from playground.errors import PlaygroundError
from playground.model.adapter_file import AdapterFile
from playground.settings.limits import current_limits

HUB_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
# How a copy is stored or converted, which is no part of which model it is.
STORED = re.compile(
    r"[-_.](hf|unsloth|meta|bnb|dynamic|gptq|awq|gguf|ggml|mlx|exl\d|hqq|aqlm|quantized|nf4|(int|fp|bf|float|bfloat)\d+"
    r"|[2-8]-?bits?|w\d+a\d+|[if]?q\d(_\w+)?|\d+g|sharded|safetensors|original|mirror|copy)(?=[-_.]|$)"
)
SIZE = re.compile(r"(\d+x)?\d+(\.\d+)?[bmk]")  # of the model, or of its context
NUMBER, VERSION = re.compile(r"\d+(\.\d+)*"), re.compile(r"v\d+(\.\d+)*")
VARIANTS = {
    *("instruct", "chat", "it", "sft", "dpo", "pt", "base", "coder", "code", "math", "vl", "vision", "thinking"),
    *("small", "medium", "large", "mini", "tiny", "xl", "xxl"),
}
ROWS = 64  # of a weight that are compared
UNRELATED = 0.5  # of the weight's norm: nf4 changes one by 0.09 (tests/bench/README.md), unrelated ones differ by √2
Words = frozenset[str]


def is_certainly_other(adapter: AdapterFile, base: str) -> bool:
    """Whether the base that the adapter names is another model than `base`, as settings name it."""
    change = _change_of_weights(adapter, base)
    if change is not None and change > UNRELATED:
        return True
    return are_other_models(adapter.trained_on, _hub_id(base))


def are_other_models(one: str, other: str) -> bool:
    """Whether two hub ids are certainly of different models; False for anything but hub ids."""
    if not (HUB_ID.fullmatch(one) and HUB_ID.fullmatch(other)):
        return False
    words, more = _words(one), _words(other)
    if words == more or not words & more:  # a copy, or names that tell nothing of each other
        return False
    if one.split("/")[0].lower() == other.split("/")[0].lower():
        return True
    if not all(map(_is_telling, words ^ more)) or (any(map(_is_size, words)) != any(map(_is_size, more))):
        return False  # the name of a further trained model, or one without a size
    # One name alone may have a version ("v2"), as copies do.
    both_differ = bool(words - more) and bool(more - words)
    return both_differ or any(not VERSION.fullmatch(word) for word in words ^ more)


def _words(hub_id: str) -> Words:
    """What a repo's name tells of its model: "Meta-Llama-3-8B-bnb-4bit" and "llama-3-8b-hf" give the same words."""
    name = "-" + hub_id.split("/")[1].lower()
    name = STORED.sub("", STORED.sub("", name))
    parts = re.split(r"[-_]+", name)
    # "llama2" and "qwen2.5" as "llama-2" and "qwen-2.5"; a size or a version stays whole.
    split = (re.sub(r"^([a-z]{2,})(\d)", r"\1-\2", part) for part in parts if part)
    return frozenset(word for part in split for word in part.split("-"))


def _is_size(word: str) -> bool:
    return SIZE.fullmatch(word) is not None


def _is_telling(word: str) -> bool:
    return word in VARIANTS or any(kind.fullmatch(word) for kind in (SIZE, NUMBER, VERSION))


def _hub_id(base: str) -> str:
    """The hub id of a model as settings name it; a folder of the hub's cache has it in its path."""
    entry = catalog.models().get(base)
    if entry:
        return catalog.source_of(entry, "hub") or ""
    cached = re.search(r"models--([^/\\]+)--([^/\\]+)[/\\]snapshots[/\\]", base)
    return f"{cached[1]}/{cached[2]}" if cached else base


def _change_of_weights(adapter: AdapterFile, base: str) -> float | None:
    """How far a weight of the base that the adapter names is from that of `base`, relative to its norm.

    None where not both are on this machine, or where their files have no such weight in the same shape.
    """
    if current_limits() and is_machine_path(adapter.trained_on):  # a shared page tells nothing of the machine's files
        return None
    folders = [_folder(adapter.trained_on), _folder(base)]
    for layer in adapter.layers[:1]:
        one, other = (_rows(folder, layer) if folder else None for folder in folders)
        if one is not None and other is not None and one.shape == other.shape:
            return float((one - other).norm() / other.norm().clamp_min(1e-12))
    return None


def _folder(model: str) -> Path | None:
    from playground.model.source import local_folder

    try:
        return local_folder(model) if model else None
    except (PlaygroundError, OSError, ValueError):  # no model there, or a name that no path can have
        return None


def _rows(folder: Path, layer: str) -> torch.Tensor | None:
    """The first rows of a layer's weight, as float32; None where the files don't have it, or have it quantized."""
    ending = f".{layer.split('.', 1)[-1]}.weight"  # families differ in what stands before the layers
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                name = next((name for name in tensors.keys() if f".{name}".endswith(ending)), None)
                if name is not None:
                    rows = tensors.get_slice(name)[:ROWS]
                    return rows.float() if rows.is_floating_point() and rows.ndim == 2 else None
    except (OSError, SafetensorError):
        pass
    return None
