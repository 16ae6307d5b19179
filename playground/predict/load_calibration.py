"""Measure what loading a model takes on this machine, by loading toys of a few shapes from files that are cached.

Seconds of a load grow with the network's tensors, with the bytes of its files, with what is converted or quantized,
and with the tokenizer's file. Each is the difference between two loads that differ in it. Nothing here knows the models
that are predicted later.
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from playground.memory.file_pages import FilePages, drop_count
from playground.memory.ledger import bytes_by_part
from playground.memory.release import defragment, release_memory
from playground.model import float8, int8_fast
from playground.model.load import load_model, model_from_config
from playground.model.tokenizer import load_tokenizer
from playground.settings import Load
from playground.speed import kernels

MAX_SECONDS = {"cpu": 1.2, "cuda": 3.0}  # after which no further kind of weights is begun
HEAD_WIDTH, NARROW = 16, (64, 64)  # a toy's width, and that of its inner layers
WIDE = {"cpu": (768, 1408), "cuda": (2048, 8192)}
SHALLOW, DEEP = 2, 9  # layers of the narrow toys
LINEAR = 7  # linear layers in a toy's layer
LETTERS = 256  # of the toys' vocabulary
TOKENS = (8_000, 48_000)  # of the tokenizers whose reading is timed
KINDS = ("int8", "nf4", "fp4", "int8-fast", "nf4-fast", "fp8")  # the more common ones first
ALIKE = {"fp4": "nf4", "nf4-fast": "nf4", "fp8": "int8-fast"}  # kinds whose layers are made in the same way
MAPS_READ = 5  # times that the process's mappings are read
REPEATS = 2  # of a load, the faster of which counts


def measure_loads(device: str) -> dict[str, float]:
    """What loading takes on a device, as predict/load_seconds.py reads it. Raises OSError where no toy can be saved.

    Seconds: "fixed" of any load, "tensor" of a parameter, "read" of a byte of the files, "convert" of a number to
    another type, "layer:<kind>" and "quantize:<kind>" of a quantized layer and of each of its weights, "tokenizer" of a
    file of "tokenizer_bytes", growing by its power "tokenizer_power"; on a GPU "defragment" of a byte.
    """
    until = kernels.clock() + MAX_SECONDS[device]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, torch.random.fork_rng(devices=[]):
        folder = Path(name)
        shallow, deep = (_save_toy(folder / str(layers), layers, *NARROW) for layers in (SHALLOW, DEEP))
        return _measure(device, shallow, deep, _save_toy(folder / "wide", 1, *WIDE[device]), until)


@dataclass(frozen=True)
class _Toy:
    """A saved model in bfloat16: its folder, and its numbers of layers, parameters in PyTorch's sense, and weights.

    linear: weights of its linear layers that a quantizing load quantizes.
    """

    folder: Path
    layers: int
    tensors: int
    weights: int
    linear: int

    @property
    def stored(self) -> int:
        return (self.folder / "model.safetensors").stat().st_size


def _measure(device: str, shallow: _Toy, deep: _Toy, wide: _Toy, until: float) -> dict[str, float]:
    few, many, plain = (_seconds(toy, device) for toy in (shallow, deep, wide))
    known = {"tensor": _more(many, few, deep.tensors - shallow.tensors), "drop": _drop_seconds(wide)}
    known["fixed"] = max(0.0, few - known["tensor"] * shallow.tensors)
    drops = known["drop"] * drop_count(wide.stored)
    if device == "cpu":  # where weights as they are stored stay mapped
        read, plain = plain, plain + drops
    else:
        read = plain - drops
    known["read"] = _more(read, known["fixed"] + known["tensor"] * wide.tensors, wide.stored)
    known["convert"] = _more(_seconds(wide, device, bits=32), plain, wide.weights)
    known |= _tokenizer_seconds(shallow)
    if device == "cuda":
        known["defragment"] = _defragment_seconds(wide)
    for kind in KINDS:
        if kernels.clock() > until or not _is_loaded_as(kind, device):
            continue
        layer = known.get(f"layer:{ALIKE.get(kind)}")
        if layer is None:
            layer = _more(_seconds(deep, device, kind), many, deep.layers * LINEAR)
        quantizing = _seconds(wide, device, kind) - wide.layers * LINEAR * layer
        known |= {f"layer:{kind}": layer, f"quantize:{kind}": _more(quantizing, plain, wide.linear)}
    return known


def _more(seconds: float, other: float, count: int) -> float:
    """How many seconds each of so many things takes that one load has and the other doesn't."""
    return max(0.0, seconds - other) / count


def _is_loaded_as(kind: str, device: str) -> bool:
    """Whether weights of this kind are loaded as such on a device, instead of as another one (engine/load.py)."""
    if kind == "int8-fast":
        return int8_fast.has_products(device)
    return kind not in ("nf4-fast", "fp8") or float8.has_products(device)


def _seconds(toy: _Toy, device: str, kind: str = "", bits: int = 16) -> float:
    """Seconds of loading a toy; kind: of quantized weights."""
    return min(_timed(lambda: _load(toy, device, kind, bits)) for _ in range(REPEATS))


def _load(toy: _Toy, device: str, kind: str = "", bits: int = 16) -> Any:
    quantized: dict[str, Any] = {}
    if kind:
        is_8_bit = kind in ("int8", "int8-fast", "fp8")
        quantized = {"bits": 8, "quant_type_8bit": kind} if is_8_bit else {"bits": 4, "quant_type": kind}
    options: dict[str, Any] = {"bits": bits, "dtype": "auto" if bits == 32 else "bfloat16", "device": device}
    options |= quantized
    return load_model(toy.folder, Load(model=str(toy.folder), **options), lambda *step: None)


def _timed(run: Callable[[], Any]) -> float:
    release_memory()  # as before any load: a heap's free pages were given back
    began = kernels.clock()
    run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return kernels.clock() - began


def _tokenizer_seconds(toy: _Toy) -> dict[str, float]:
    """Those of reading tokenizers of two sizes, and how they grow from one to the other."""
    model, folder = _load(toy, "cpu").model, toy.folder.parent
    sizes, seconds = [], []
    for tokens in TOKENS:
        file = _save_tokenizer(folder / f"tokenizer-{tokens}", tokens)
        sizes.append(file.stat().st_size)
        read = partial(load_tokenizer, file.parent, model)
        seconds.append(min(_timed(read) for _ in range(REPEATS if tokens == TOKENS[0] else 1)))
    power = math.log(seconds[1] / seconds[0]) / math.log(sizes[1] / sizes[0])
    return {"tokenizer": seconds[1], "tokenizer_bytes": sizes[1], "tokenizer_power": max(1.0, power)}


def _drop_seconds(toy: _Toy) -> float:
    pages = FilePages(toy.folder)
    return min(_timed(lambda: pages.drop(-sys.maxsize)) for _ in range(MAPS_READ))


def _defragment_seconds(toy: _Toy) -> float:
    model: nn.Module = _load(toy, "cuda").model
    return _timed(lambda: defragment(model)) / max(1, sum(bytes_by_part(model).values()))


def _save_toy(folder: Path, layers: int, width: int, inner: int) -> _Toy:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=inner,
        vocab_size=LETTERS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    model: Any = model_from_config(config, torch.bfloat16)
    model.save_pretrained(folder)
    _save_tokenizer(folder, LETTERS)
    sizes = [parameter.numel() for parameter in model.parameters()]
    linear = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name)
    return _Toy(folder, layers, len(sizes), sum(sizes), linear)


def _save_tokenizer(folder: Path, tokens: int) -> Path:
    """Save a tokenizer of so many tokens, those of two letters each with a merge; return its file."""
    letters = [chr(0x4E00 + number) for number in range(LETTERS)]  # of three bytes, as most of a large vocabulary's
    pairs = [(first, second) for first in letters for second in letters][: tokens - LETTERS]
    vocabulary = {text: number for number, text in enumerate([*letters, *map("".join, pairs)])}
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}  # as in most families
    parts = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor", "decoder"))
    model = {"type": "BPE", "vocab": vocabulary, "merges": pairs}
    written: dict[str, Any] = {"version": "1.0", "added_tokens": [], "normalizer": blank, **parts, "model": model}
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": letters[0], "eos_token": letters[1]}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(written, ensure_ascii=False, indent=2), encoding="utf-8")
    return file
