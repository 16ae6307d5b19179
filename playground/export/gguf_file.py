"""Write a merged model as a GGUF file for llama.cpp: F16, Q8_0 or a k-quant, tensor by tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from playground.errors import problem
from playground.export.gguf_families import Family, family_of, float_matrix
from playground.export.gguf_tokenizer import write_tokenizer
from playground.lab import gguf_types
from playground.model.merged_weights import LazyTensor, MergedModel

FILE_TYPES = {
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q5_k": LlamaFileType.MOSTLY_Q5_K_S,
    "q4_k": LlamaFileType.MOSTLY_Q4_K_S,
    "q3_k": LlamaFileType.MOSTLY_Q3_K_S,
    "q2_k": LlamaFileType.MOSTLY_Q2_K,
}
TYPES = tuple(FILE_TYPES)  # of the weights, largest first
HEAD_TYPE = "q6_k"  # of head and embedding in files of fewer bits, as llama.cpp has it
PLAIN = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file: its name there, its type, its bytes, and what it is made from."""

    name: str
    kind: GGMLQuantizationType
    nbytes: int
    shape: tuple[int, ...]
    lazy: LazyTensor


def gguf_tensors(merged: MergedModel, variant: str) -> list[GgufTensor]:
    """The tensors of the file, with the type of each; variant: one of TYPES.

    Raises PlaygroundError for a model that GGUF files can't hold.
    """
    config = merged.base.config
    family = family_of(config)
    if family.always_tied and merged.untied:
        raise problem("error.export_untied", family=config.model_type)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = []
    for tensor in merged.tensors:
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise problem("error.export_tensor", family=config.model_type, name=tensor.name)
        shape = tuple(family.change(tensor.name, _empty(tensor), config).shape)
        kind = tensor_type(name, shape, variant)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(shape))
        tensors.append(GgufTensor(name, kind, count // block * size, shape, tensor))
    return tensors


def tensor_type(name: str, shape: tuple[int, ...], variant: str) -> GGMLQuantizationType:
    """The type of a tensor: vectors stay float32; rows that are no whole blocks get what replaces the type, or F16."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if variant == "f16":
        return GGMLQuantizationType.F16
    if name in ("output.weight", "token_embd.weight") and variant != "q8_0":
        variant = HEAD_TYPE
    kind = gguf_types.type_for_rows(variant, shape[-1])
    return kind if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16


def write_gguf(
    merged: MergedModel,
    tokenizer: PreTrainedTokenizerBase,
    file: Path,
    variant: str,
    name: str,
    on_progress: Callable[..., None],
) -> None:
    """Write the file. name: of the model, in its metadata; on_progress: called with (done, total) bytes.

    The package writes the header; the tensors are appended here, since its own way (numpy's `tofile`) says nothing of a
    full disk.
    """
    config = merged.base.config
    family, tensors = family_of(config), gguf_tensors(merged, variant)
    _write_header(file, family, config, tokenizer, tensors, {"name": name, "file_type": FILE_TYPES[variant]})
    done, total = 0, sum(tensor.nbytes for tensor in tensors)
    with open(file, "ab") as stream:
        _pad(stream)
        for tensor in tensors:
            stream.write(_packed(tensor, family, config).data)
            _pad(stream)
            done += tensor.nbytes
            on_progress(done, total)


def _write_header(
    file: Path,
    family: Family,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    tensors: list[GgufTensor],
    general: dict,
) -> None:
    """Metadata, and the table of the tensors."""
    writer = GGUFWriter(file, family.architecture)
    writer.add_name(general["name"])
    writer.add_file_type(general["file_type"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    family.write_metadata(writer, config)
    write_tokenizer(writer, tokenizer, config.vocab_size)
    for tensor in tensors:
        numbers = np.dtype(PLAIN.get(tensor.kind, np.float32))
        writer.add_tensor_info(tensor.name, tensor.shape, numbers, tensor.nbytes, raw_dtype=tensor.kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _pad(stream: BinaryIO) -> None:
    """Fill up with zeros to where a tensor may begin."""
    stream.write(b"\0" * (-stream.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def _packed(tensor: GgufTensor, family: Family, config: PreTrainedConfig) -> np.ndarray:
    """A tensor's bytes in its type."""
    numbers = float_matrix(family.change(tensor.lazy.name, tensor.lazy.make().float(), config))
    if tensor.kind in PLAIN:
        return np.ascontiguousarray(numbers.cpu().numpy().astype(PLAIN[tensor.kind]))
    return np.ascontiguousarray(gguf_types.pack(numbers, tensor.kind))


def _empty(tensor: LazyTensor) -> Tensor:
    """A tensor of that shape without numbers."""
    return torch.empty(tensor.shape, device="meta")
