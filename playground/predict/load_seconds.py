"""Predict the seconds of loading a model, from its config, its files and what this machine was measured to take.

A load makes the network, reads each tensor from the files, converts or quantizes it, and reads the tokenizer. On a GPU
tensors that aren't quantized are read in threads, beside which the network gets them, and others are quantized by the
GPU while the next are read: the longer of both counts. Pages
of the files that aren't in the page cache come from the disk: between the bounds that all or none of it happens while
something is computed, the middle is taken.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from playground import compat
from playground.memory.file_pages import drop_count
from playground.memory.page_cache import cached_share, reading_rate
from playground.model.source import local_folder
from playground.model.weight_files import weight_files
from playground.predict import meta_model
from playground.settings import Load, streamed_count
from playground.speed.rates import Rates

HALF_BYTES = 3  # fewer bytes of files a parameter: stored at 16 bits
TOKEN_BYTES = 75  # of tokenizer.json, by token of the vocabulary, where there is no file yet
MOST_DISK = 0.1  # of the seconds: less than that from the disk isn't worth a word


@dataclass(frozen=True)
class StoredModel:
    """A model's files.

    stored: bytes of its weights. missing: those of them that aren't in the page cache. rate: bytes a second at which
    these are read. tokenizer: bytes of its file. is_here: whether all are on this machine; else they are expected.
    """

    stored: int
    missing: int = 0
    rate: float = 1.0
    tokenizer: int = 0
    is_here: bool = True


def kind_of(load: Load) -> str:
    """The kind of weights that a load makes: "dense" from 16 bits on, or a quantized type; load.bits is decided."""
    return {8: load.quant_type_8bit, 4: load.quant_type}.get(load.bits, "dense")


def stored_model(model: str, config: PreTrainedConfig, parameters: int, threads: int = 1) -> StoredModel | None:
    """A model's files as they lie on this machine, or as they will after a download; None where that isn't known.

    threads: that will read them. Raises OSError, and PlaygroundError for an index of shards that can't be read.
    """
    folder = local_folder(model)
    text: Any = config.get_text_config()
    if folder is None:
        if model.endswith(".gguf") or Path(model).expanduser().exists():
            return None  # converted, or merged, before it is loaded
        item = 4 if getattr(config, "dtype", None) == torch.float32 else 2
        return StoredModel(item * parameters, tokenizer=TOKEN_BYTES * text.vocab_size, is_here=False)
    files = [file for file in weight_files(folder) if file.is_file()]
    if not files:
        return None
    shares = [(cached_share(file), file) for file in files]
    missing = sum(share.size - share.cached for share, _ in shares)
    share, file = max(shares, key=lambda pair: pair[0].missing_piece)
    rate = reading_rate(file, share.missing_at, share.missing_piece, threads) if missing else 1.0
    tokenizer = folder / "tokenizer.json"
    size = tokenizer.stat().st_size if tokenizer.is_file() else TOKEN_BYTES * text.vocab_size
    return StoredModel(sum(share.size for share, _ in shares), missing, rate, size)


def predict_load_seconds(
    config: PreTrainedConfig, load: Load, dtype: torch.dtype, rates: Rates, stored: StoredModel | None = None
) -> dict | None:
    """Seconds of loading a model onto the device of these rates; None where a part of it was never measured.

    load: with its bit width decided; dtype: as of predict.phases.Target. stored: the files of load.model, if they were
    looked at already. Returns {"seconds", "disk": of these, those of waiting for the disk, "stored": where most of the
    files are, "memory", "disk" or "absent", "source" (Rates.trust)}.
    """
    known, kind = rates.loads, kind_of(load)
    is_quantized = load.bits < 16
    if getattr(config, "quantization_config", None) or streamed_count(load):
        return None
    if not known or (is_quantized and f"quantize:{kind}" not in known):
        return None
    dtype = torch.float32 if load.bits == 32 else dtype
    facts = meta_model.model_facts(config, load, dtype, rates.device)
    in_threads = rates.device == "cuda" and not is_quantized
    stored = stored or stored_model(load.model, config, facts.parameters, compat.reading_threads() if in_threads else 1)
    if stored is None:
        return None
    converts = _stored_dtype(config, stored.stored, facts.parameters) != dtype
    read = facts.parameters * dtype.itemsize if in_threads else stored.stored  # there they are converted, then copied
    reading = known["read"] * read + (known["convert"] * facts.parameters * dtype.itemsize if converts else 0.0)
    placing = known["tensor"] * facts.tensors
    if converts or is_quantized or rates.device == "cuda":  # else weights stay mapped, and their pages in memory
        item = stored.stored / facts.parameters
        placing += known["drop"] * drop_count([item * size for size in facts.sizes])
    if is_quantized:
        placing += known[f"layer:{kind}"] * facts.quantized_layers
        quantizing = known[f"quantize:{kind}"] * facts.quantized
        reading = max(reading, quantizing) if rates.device == "cuda" else reading + quantizing
    seconds = known["fixed"] + (max(reading, placing) if in_threads else reading + placing)
    waiting = stored.missing / stored.rate
    disk = waiting - min(waiting, seconds) / 2
    total = seconds + disk + _tokenizer_seconds(known, stored.tokenizer)
    place = "absent" if not stored.is_here else "disk" if disk > MOST_DISK * total else "memory"
    return {"seconds": total, "disk": disk, "stored": place, "source": rates.trust}


def _stored_dtype(config: PreTrainedConfig, stored: int, parameters: int) -> torch.dtype:
    """The type that the files have: by their bytes a parameter, and which of 16 bits by the config."""
    if stored >= HALF_BYTES * parameters:
        return torch.float32
    named = getattr(config, "dtype", None)
    return named if named in (torch.float16, torch.bfloat16) else torch.bfloat16


def _tokenizer_seconds(known: dict[str, float], size: int) -> float:
    """Seconds of reading a tokenizer's file: they grow by a power of its size, measured between two."""
    return known["tokenizer"] * (size / known["tokenizer_bytes"]) ** known["tokenizer_power"]
