"""GGUF files: recognize, check, and convert once into a folder that then loads at any bit width in seconds."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground import catalog, compat
from playground.errors import problem
from playground.model.gguf_header import DamagedHeader, read_metadata
from playground.model.plausible import implausible_sizes
from playground.replacement import new_folder
from playground.settings import raise_all

HUB_FILE = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)/([\w./ -]+\.gguf)", re.ASCII)  # owner/name/file.gguf
CONVERSION = 2  # raised where what is made of a file changes, so that what an earlier version made isn't used
SPLIT_FILE = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def parse_hub_file(model: str) -> tuple[str, str] | None:
    """Split owner/name/file.gguf into (repo, file); None for any other form."""
    match = HUB_FILE.fullmatch(model)
    return (match[1], match[2]) if match else None


def converted_folder(file: Path) -> Path:
    """Return where this file's conversion is kept; a file of the same name elsewhere, or a newer one, gets its own."""
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {CONVERSION}".encode()).hexdigest()[:12]
    return catalog.cache_folder() / "models" / f"gguf-{file.stem[:60]}-{key}"


def check_file(file: Path) -> None:
    """Raise PlaygroundError if a file isn't GGUF, is one part of several, or is shorter than its tensor table says."""
    with open(file, "rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise problem("error.gguf_not", file=file.name, begins=repr(magic)[2:-1])
    if SPLIT_FILE.search(file.name):
        raise problem("error.gguf_part", file=file.name)
    check_header(file)
    from gguf import GGUFReader

    size = file.stat().st_size
    try:
        expected = max((int(t.data_offset) + int(t.n_bytes) for t in GGUFReader(file).tensors), default=0)
    except Exception as error:  # numpy and gguf raise many kinds for a file that ends too early
        raise problem(
            "error.gguf_damaged", file=file.name, size_bytes=size, detail=str(error).split("\n")[0][:120]
        ) from error
    if expected > size:
        raise problem("error.cut_off", file=file.name, size_bytes=size, whole_bytes=expected)


def check_header(file: Path) -> None:
    """Raise PlaygroundError if a file claims more than it holds, sizes that no model has, or isn't a model's."""
    try:
        metadata = read_metadata(file)
    except (DamagedHeader, OSError) as error:
        size, detail = file.stat().st_size, str(error)[:120]
        raise problem("error.gguf_damaged", file=file.name, size_bytes=size, detail=detail) from error
    kind = metadata.get("general.type") or "model"
    if kind != "model":  # "adapter", "mmproj", "imatrix", or a vocabulary alone: the rest would be random numbers
        raise problem("error.gguf_type", file=file.name, type=str(kind)[:60])
    raise_all(list(implausible_sizes(metadata)))


def convert(file: Path, folder: Path, on_progress: Callable[..., None]) -> None:
    """De-quantize a GGUF file into a folder of bfloat16 safetensors. Needs main memory for the whole model at 16 bits.

    Raises PlaygroundError for what transformers can't read from GGUF (an architecture, a way to scale positions), and
    for a file that lacks tensors.
    """
    import torch

    from playground.model.conversion_notes import save_notes, unused_tensors

    model, tokenizer, left_out = _read(file, on_progress)
    if {p.dtype for p in model.parameters()} != {torch.bfloat16}:
        raise problem("error.unexpected", kind="GGUF", detail="weights stayed packed")
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with new_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        save_notes(partial, unused_tensors(file.name, left_out))


def _read(file: Path, on_progress: Callable[..., None]) -> tuple[Any, Any, list[str]]:
    """A file's model, its tokenizer, and the tensors that the network has no place for."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from playground.model.gguf_rope import TENSORS, check_rope, set_rope
    from playground.model.language_part import model_class
    from playground.model.load_progress import loading_progress
    from playground.model.weights import check_fit

    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        scaled = set_rope(file, read_metadata(file), config)
        with loading_progress(on_progress), compat.gguf_tensors_left_out() as left_out:
            model, info = model_class(config).from_pretrained(
                file.parent,
                config=config,
                gguf_file=file.name,
                dtype=torch.bfloat16,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers' reader raises all of these for values and architectures that it doesn't expect
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise problem("error.load", path=file.name, detail=str(error).split("\n")[0][:240]) from error
    check_fit(file, info["missing_keys"], info["mismatched_keys"])
    if scaled:
        check_rope(file, config, model)
    return model, tokenizer, [name for name in left_out if name not in TENSORS]
