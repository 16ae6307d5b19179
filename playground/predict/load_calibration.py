"""Measure what loading a model takes on this machine, by loading toys of a few shapes from files that are cached.

Seconds of a load grow with the network's tensors, with the bytes of its files, with what is converted or quantized,
and with the tokenizer's file. Each is the difference between two loads that differ in it. Nothing here knows the models
that are predicted later.
"""

import itertools
import json
import math
import mmap
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from playground import compat
from playground.memory.file_pages import FilePages, drop_count
from playground.memory.release import mmap_large_blocks, release_memory
from playground.model import float8, int8_fast
from playground.model.load import load_model, model_from_config
from playground.model.tokenizer import load_tokenizer
from playground.settings import Load
from playground.speed import kernels

MAX_SECONDS = {"cpu": 1.2, "cuda": 3.0}  # after which none but the most common kinds of weights is begun
HEAD_WIDTH, NARROW = 16, (64, 64)  # a toy's width, and that of its inner layers
WIDE = {"cpu": (1024, 2816), "cuda": (2048, 8192)}
SHALLOW, DEEP = 2, 14  # layers of the narrow toys
LINEAR = 7  # linear layers in a toy's layer
LETTERS = 256  # of the toys' vocabulary
TOKENS = (8_000, 48_000)  # of the tokenizers whose reading is timed
ALWAYS = ("int8", "nf4")
KINDS = (*ALWAYS, "int8-fast", "fp8")  # the more common ones first
MATRIX = (1024, 1024)  # that is quantized to compare kinds of 4 bits
# Whose quantizing to int8 is timed: what it takes in passing fits no hole that the C library keeps, as those of small
# matrices do by chance, in a fifth of the time
LARGE = (4096, 2048)
PIECE = 64 * 2**20  # bytes of a file whose reading is timed
MAPS_READ = 5  # times that the process's mappings are read
REPEATS = 2  # of a load, the faster of which counts


def measure_loads(device: str) -> dict[str, float]:
    """What loading takes on a device, as predict/load_seconds.py reads it. Raises OSError where no toy can be saved.

    Tensors are read one after the other, as all are on a CPU and those on a GPU that are quantized.

    Seconds: "fixed" of any load, "tensor" of a parameter, "read" of a byte of the files, "convert" of a byte of weights
    that have another type than their file, "layer:<kind>" and "quantize:<kind>" of a quantized layer and of each of its
    weights, "tokenizer" of a file of "tokenizer_bytes", growing by its power "tokenizer_power", "drop" of giving back
    what was read of the files.
    """
    until = kernels.clock() + MAX_SECONDS[device]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, torch.random.fork_rng(devices=[]):
        folder = Path(name)
        shallow, deep = (_save_toy(folder / str(layers), layers, *NARROW) for layers in (SHALLOW, DEEP))
        with compat.reading_in_order():
            return _measure(device, shallow, deep, _save_toy(folder / "wide", 1, *WIDE[device]), until)


@dataclass(frozen=True)
class _Toy:
    """A saved model in bfloat16: its folder, how many layers it has, and the weights of each parameter.

    linear: weights of its linear layers, which a quantizing load quantizes.
    """

    folder: Path
    layers: int
    sizes: Sequence[int]
    linear: int

    @property
    def tensors(self) -> int:
        return len(self.sizes)

    @property
    def weights(self) -> int:
        return sum(self.sizes)


def _measure(device: str, shallow: _Toy, deep: _Toy, wide: _Toy, until: float) -> dict[str, float]:
    few, many, plain = (_seconds(toy, device) for toy in (shallow, deep, wide))
    known = {"tensor": _seconds_each(many, few, deep.tensors - shallow.tensors)}
    known["fixed"] = max(0.0, few - known["tensor"] * shallow.tensors)
    known |= {"drop": _drop_seconds(wide), "read": _read_seconds(wide.folder / "piece", device)}
    if device == "cpu":  # there, weights of the file's dtype stay mapped, and no pages are released
        plain += known["drop"] * drop_count([torch.bfloat16.itemsize * size for size in wide.sizes])
    known["convert"] = _seconds_each(_seconds(wide, device, bits=32), plain, wide.weights * torch.float32.itemsize)
    known |= _tokenizer_seconds(shallow)
    for kind in KINDS:
        if (kernels.clock() > until and kind not in ALWAYS) or not _is_loaded_as(kind, device):
            continue
        layer = _seconds_each(_seconds(deep, device, kind), many, deep.layers * LINEAR)
        if kind == "int8":
            weight = _quantizing_seconds(kind, device, LARGE) / math.prod(LARGE)
        else:
            repeats = REPEATS if device == "cuda" else 1
            quantizing = _seconds(wide, device, kind, repeats=repeats) - wide.layers * LINEAR * layer
            weight = _seconds_each(quantizing, plain, wide.linear)
        known |= {f"layer:{kind}": layer, f"quantize:{kind}": weight}
    if "quantize:nf4" in known:
        fp4 = known["quantize:nf4"] * _quantizing_seconds("fp4", device) / _quantizing_seconds("nf4", device)
        known |= {"layer:fp4": known["layer:nf4"], "quantize:fp4": fp4}
        if _is_loaded_as("nf4-fast", device):
            known |= {f"{part}:nf4-fast": known[f"{part}:nf4"] for part in ("layer", "quantize")}
    return known


def _quantizing_seconds(kind: str, device: str, shape: tuple[int, int] = MATRIX) -> float:
    """Those of quantizing a matrix with bitsandbytes, with the blocks of memory that a load gets for it."""
    from bitsandbytes.nn import Int8Params, Params4bit

    values = torch.randn(kernels.PATTERN, dtype=torch.bfloat16)
    matrix = values.repeat(-(-math.prod(shape) // len(values))).view(shape).to(device)

    def quantize() -> None:
        weight: Any = Int8Params(matrix, requires_grad=False, has_fp16_weights=False)
        if kind != "int8":
            weight = Params4bit(matrix, requires_grad=False, quant_type=kind)
        compat.quantize_to(weight, device)

    with mmap_large_blocks():
        return min(_timed(quantize) for _ in range(REPEATS))


def _seconds_each(seconds: float, other: float, count: int) -> float:
    """Seconds of each of the `count` parts that the first of two loads has beyond the second."""
    return max(0.0, seconds - other) / count


def _is_loaded_as(kind: str, device: str) -> bool:
    """Whether weights of this kind are loaded as such on a device, instead of as another one (engine/load.py)."""
    if kind == "int8-fast":
        return int8_fast.has_products(device)
    return kind not in ("nf4-fast", "fp8") or float8.has_products(device)


def _seconds(toy: _Toy, device: str, kind: str = "", bits: int = 16, repeats: int = REPEATS) -> float:
    """Seconds of loading a toy; kind: of quantized weights."""
    return min(_timed(lambda: _load(toy, device, kind, bits)) for _ in range(repeats))


def _load(toy: _Toy, device: str, kind: str = "", bits: int = 16) -> Any:
    quantized: dict[str, Any] = {}
    if kind:
        is_8_bit = kind in ("int8", "int8-fast", "fp8")
        quantized = {"bits": 8, "quant_type_8bit": kind} if is_8_bit else {"bits": 4, "quant_type": kind}
    options: dict[str, Any] = {"bits": bits, "dtype": "auto" if bits == 32 else "bfloat16", "device": device}
    options |= quantized
    return load_model(toy.folder, Load(model=str(toy.folder), **options), lambda *step: None)


def _timed(run: Callable[[], Any]) -> float:
    release_memory()  # the heap's free pages are released before any load
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
    """Those of giving back pages once, most of which go to reading the list of the process's mappings.

    Each time right after the one before, as in a load: where the heap's free pages were released, it takes half as long
    again.
    """
    pages, moments = FilePages(toy.folder), [kernels.clock()]
    for _ in range(MAPS_READ):
        pages.drop(-sys.maxsize)
        moments.append(kernels.clock())
    return statistics.median(end - begin for begin, end in itertools.pairwise(moments))


def _read_seconds(file: Path, device: str) -> float:
    """Those of bringing a byte of a mapped file to where weights go: on a CPU they stay there (load.page_in_weights).

    Of a file that was read from the disk: the system maps its pages faster than those of one that was just written.
    """
    file.write_bytes(bytes(PIECE))

    def read() -> None:
        mapped = torch.from_file(str(file), False, PIECE, dtype=torch.uint8)
        mapped[:: mmap.PAGESIZE].sum() if device == "cpu" else mapped.to(device)

    if hasattr(os, "posix_fadvise"):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while stream.read(2**22):
                pass
    return min(_timed(read) for _ in range(REPEATS)) / PIECE


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
    with torch.device("meta"):
        model: Any = model_from_config(config, torch.bfloat16)
    model.to_empty(device="cpu")
    values = torch.randn(kernels.PATTERN, dtype=torch.bfloat16)
    for parameter in model.parameters():
        repeated = values.repeat(-(-parameter.numel() // len(values)))
        parameter.data = repeated[: parameter.numel()].view(parameter.shape)
    model.save_pretrained(folder)
    _save_tokenizer(folder, LETTERS)
    sizes = [parameter.numel() for parameter in model.parameters()]
    linear = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name)
    return _Toy(folder, layers, sizes, linear)


def _save_tokenizer(folder: Path, tokens: int) -> Path:
    """Save a tokenizer with a vocabulary of `tokens`, a merge for each of two letters; return its file."""
    letters = [chr(0x4E00 + number) for number in range(LETTERS)]  # of three bytes, as most of a large vocabulary's
    pairs = [(first, second) for first in letters for second in letters][: tokens - LETTERS]
    tokens_in_lines = enumerate([*letters, *map("".join, pairs)])
    vocabulary = ",\n      ".join(f'"{text}": {number}' for number, text in tokens_in_lines)  # indented as usual
    merges = ",\n      ".join(f'[\n        "{first}",\n        "{second}"\n      ]' for first, second in pairs)
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}  # as in most families
    parts = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor", "decoder"))
    head = json.dumps({"version": "1.0", "added_tokens": [], "normalizer": blank, **parts})[:-1]
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": letters[0], "eos_token": letters[1]}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    file = folder / "tokenizer.json"
    model = f'{{"type": "BPE", "vocab": {{{vocabulary}}}, "merges": [{merges}]}}'
    file.write_text(f'{head}, "model": {model}}}', encoding="utf-8")
    return file
