"""Merge an adapter into its base model tensor by tensor, and write the result as safetensors of 16 bits.

One tensor at a time is unquantized, merged and written, so that beside the model as it is loaded only the largest
tensor takes memory; a family whose files name experts one by one takes all of it. LoRA: W + s·B·A (Hu et al. 2021,
arXiv 2106.09685), DoRA by PEFT's own formula; a module that was trained itself takes the place of the base model's.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from playground import compat

SHARD_BYTES = 5 * 10**9  # of one file, as hubs prefer it
FILE_NAME = "model.safetensors"
DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of the merged model that is computed when it is needed, on the device of the model.

    source: what it is made from; tensors of one source are the same tensor under several names.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]
    source: object = None

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class MergedModel:
    """What is written: the tensors under the names of the family's files, and the base model's config.

    untied: whether head and embedding, one tensor in the base model, have become two by training one of them.
    """

    base: PreTrainedModel
    tensors: list[LazyTensor]
    untied: bool

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """How many numbers all tensors have."""
        return sum(tensor.size for tensor in self.tensors)


def merged_model(model: PreTrainedModel | PeftModel, dtype: torch.dtype) -> MergedModel:
    """The tensors of a model with its adapter merged into it, or of a model without one; dtype: of their numbers."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    tensors = list(_tensors(base, dtype))
    sources = {tensor.name: tensor.source for tensor in tensors}
    pairs = [(name, to) for name, to in base.all_tied_weights_keys.items() if name in sources and to in sources]
    tied = {name for name, to in pairs if sources[name] == sources[to]}
    untied = len(tied) < len(pairs)
    kept = [tensor for tensor in tensors if tensor.name not in tied]
    return MergedModel(base, compat.as_in_files(base, kept, _renamed), untied)


def _renamed(name: str, tensor: Tensor | None, before: LazyTensor | None) -> LazyTensor:
    """A tensor under the name that it has in files: one that was, or one that several became."""
    if before is not None:
        return LazyTensor(name, before.shape, before.dtype, before.make, before.source)
    assert tensor is not None
    return LazyTensor(name, tuple(tensor.shape), tensor.dtype, lambda: tensor, name)


def _tensors(base: PreTrainedModel, dtype: torch.dtype) -> Iterator[LazyTensor]:
    """Every parameter and persistent buffer, wrapped layers under the names of the layers that they wrap."""
    wrapped: tuple[str, ...] = ()
    for name, module in base.named_modules(remove_duplicate=False):
        if name.startswith(wrapped) and wrapped:
            continue
        if isinstance(module, LoraLayer):
            wrapped += (f"{name}.",)
            yield from _lora_tensors(name, module, dtype)
        elif isinstance(module, ModulesToSaveWrapper):
            wrapped += (f"{name}.",)
            trained = module.modules_to_save[module.active_adapters[0]]
            for inner, part in trained.named_modules():
                yield from _own_tensors(f"{name}.{inner}" if inner else name, part, dtype)
        else:
            yield from _own_tensors(name, module, dtype)


def _lora_tensors(name: str, layer: LoraLayer, dtype: torch.dtype) -> Iterator[LazyTensor]:
    base, adapter = layer.get_base_layer(), layer.active_adapters[0]
    for tensor in _own_tensors(name, base, dtype):
        if tensor.name == f"{name}.weight" and compat.has_lora(layer, adapter):

            def make() -> Tensor:
                return _as_in_file(base, compat.merged_weight(layer, adapter)).to(dtype)

            yield LazyTensor(tensor.name, tensor.shape, dtype, make, tensor.name)
        else:
            yield tensor


def _own_tensors(name: str, module: nn.Module, dtype: torch.dtype) -> Iterator[LazyTensor]:
    """The tensors of one module, unquantized."""
    buffers = ((key, value) for key, value in module.named_buffers(recurse=False) if compat.is_persistent(module, key))
    for key, tensor in [*module.named_parameters(recurse=False), *buffers]:
        full = f"{name}.{key}" if name else key
        if key == "weight" and compat.is_quantized(tensor):
            shape = _as_in_file(module, torch.empty(_size(module), device="meta")).shape
            yield LazyTensor(full, tuple(shape), dtype, partial(_unquantized, module, dtype), id(tensor))
        else:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            yield LazyTensor(full, tuple(tensor.shape), kind, partial(tensor.detach().to, kind), id(tensor))


def _unquantized(module: nn.Module, dtype: torch.dtype) -> Tensor:
    return _as_in_file(module, compat.unquantized_weight(module)).to(dtype)


def _size(layer: Any) -> tuple[int, int]:
    return layer.out_features, layer.in_features


def _as_in_file(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight as its family's files have it: GPT-2's layers, (in, out), become linear ones when they are quantized."""
    return weight.T if getattr(module, "source_cls", None) is Conv1D else weight


def save_merged(
    merged: MergedModel, folder: Path, on_progress: Callable[..., None], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write weights, config and generation config into an empty folder, which transformers reads at any bit width.

    on_progress: called with (done, total) bytes. Raises OSError where the disk is full, and what on_progress raises.
    """
    done, total = 0, merged.nbytes
    shards = _shards(merged.tensors, shard_bytes)
    names = [FILE_NAME]
    if len(shards) > 1:
        names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    for file, shard in zip(names, shards):
        for written in write_safetensors(shard, folder / file):
            done += written
            on_progress(done, total)
    if len(shards) > 1:
        where = {tensor.name: file for file, shard in zip(names, shards) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{FILE_NAME}.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    _save_configs(merged, folder)


def write_safetensors(tensors: list[LazyTensor], file: Path) -> Iterator[int]:
    """Write a safetensors file (https://github.com/huggingface/safetensors#format); yield the bytes of each tensor."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(file, "wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors:
            stream.write(tensor_bytes(tensor.make()))
            yield tensor.nbytes


@torch.no_grad()
def tensor_bytes(tensor: Tensor) -> memoryview:
    """A tensor's numbers in order, little-endian as on every machine that torch runs on."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _shards(tensors: list[LazyTensor], shard_bytes: int) -> list[list[LazyTensor]]:
    """The tensors in groups of at most `shard_bytes`; a larger tensor is alone in its group."""
    shards: list[list[LazyTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _save_configs(merged: MergedModel, folder: Path) -> None:
    """The config without the quantization that the model was loaded with, and the generation config."""
    config = type(merged.base.config).from_dict(_config_values(merged))
    config.save_pretrained(folder)
    if merged.base.can_generate():
        merged.base.generation_config.save_pretrained(folder)


def _config_values(merged: MergedModel) -> dict:
    base = merged.base
    values = base.config.to_dict()
    values.pop("quantization_config", None)
    values["architectures"] = [type(base).__name__]
    floats = [tensor.dtype for tensor in merged.tensors if tensor.dtype.is_floating_point]
    values["dtype"] = str(max(set(floats), key=floats.count)).removeprefix("torch.")
    if merged.untied and not hasattr(base.config, "scale_decoder_outputs"):  # T5 reads its own meaning into the flag
        values["tie_word_embeddings"] = False
    return values
