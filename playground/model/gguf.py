"""GGUF files: recognized, checked, and converted once into a folder that loads at any bit width in seconds."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from playground import catalog
from playground.errors import problem

ON_HUB = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)/([\w./ -]+\.gguf)", re.ASCII)  # owner/name/file.gguf
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def parse_hub_file(model: str) -> tuple[str, str] | None:
    """(repo, file) of a model written as owner/name/file.gguf, or None."""
    found = ON_HUB.fullmatch(model)
    return found and (found[1], found[2])


def converted_folder(file: Path) -> Path:
    """Where the converted model of this very file is kept; another file of that name, or a newer one, has its own."""
    seen = file.stat()
    mark = hashlib.sha256(f"{file.resolve()} {seen.st_size} {seen.st_mtime_ns}".encode()).hexdigest()[:12]
    return catalog.cache_folder() / "models" / f"gguf-{file.stem[:60]}-{mark}"


def check_file(file: Path) -> None:
    """Raises PlaygroundError for what isn't a GGUF file, is one part of several, or is shorter than its table of tensors says."""
    with open(file, "rb") as stream:
        begins = stream.read(4)
    if begins != b"GGUF":
        raise problem("error.gguf_not", file=file.name, begins=repr(begins)[2:-1])
    if PART.search(file.name):
        raise problem("error.gguf_part", file=file.name)
    from gguf import GGUFReader

    size = file.stat().st_size
    try:
        ends = max((int(t.data_offset) + int(t.n_bytes) for t in GGUFReader(file).tensors), default=0)
    except Exception as error:  # numpy and gguf raise many kinds for a file that ends too early
        raise problem(
            "error.gguf_damaged", file=file.name, size_bytes=size, detail=str(error).split("\n")[0][:120]
        ) from error
    if ends > size:
        raise problem("error.cut_off", file=file.name, size_bytes=size, whole_bytes=ends)


def convert(file: Path, folder: Path, on_progress: Callable) -> None:
    """De-quantize a GGUF file into bfloat16 safetensors. Needs main memory for the whole model at 16 bits.

    Raises PlaygroundError for an architecture that transformers can't read from GGUF.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from playground.model.load import loading_progress, model_class

    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        with loading_progress(on_progress):
            model = model_class(config).from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise problem("error.load", path=file.name, detail=str(error).split("\n")[0][:240]) from error
    if {p.dtype for p in model.parameters()} != {torch.bfloat16}:
        raise problem("error.unexpected", kind="GGUF", detail="weights stayed packed")
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    fresh = folder.parent / f"{folder.name}.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
