"""Every private or fragile API of torch, transformers, peft, bitsandbytes and datasets that this program relies on.

One function for each, and for each one contract test (tests/unit/test_compat.py) whose message names the library and
its version when it changes. Libraries are imported inside the functions: the page's process imports this module, and no
torch.
"""

import contextlib
import contextvars
import copy
import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

_build_lock = threading.RLock()
_own_files_only: contextvars.ContextVar[bool] = contextvars.ContextVar("own_files_only", default=False)
HUB_FOLDER = re.compile(r"hf://datasets/[^/@]+/[^/@]+@")

# torch


def storage_id(tensor: Any) -> int:
    """The identity of a tensor's storage, equal for views of one storage; meta tensors have one too."""
    return tensor.untyped_storage()._cdata


def viewed_tensor(tensor: Any) -> Any:
    """The tensor that a view was made from; the tensor itself if it is no view."""
    return tensor._base if tensor._is_view() else tensor


def local_shard(tensor: Any) -> Any:
    """This process's part of a weight that FSDP2 shards; any other tensor as it is."""
    return getattr(tensor, "_local_tensor", tensor)


def clear_cublas_workspaces() -> None:
    """Free cuBLAS' workspaces, which torch allocates at the first product: 96 MiB on an H100."""
    import torch

    torch._C._cuda_clearCublasWorkspaces()


def dispatch_mode() -> type:
    """The class whose `__torch_dispatch__` sees every operator call within its context."""
    from torch.utils._python_dispatch import TorchDispatchMode

    return TorchDispatchMode


def operator_name(operator: Any) -> str:
    """An operator's qualified name without its overload, such as "aten::mm"."""
    return operator._schema.name


def operator_arguments(operator: Any) -> tuple[list[Any], list[Any]]:
    """The arguments and returns of an operator's schema; `alias_info` is None unless one is a view or written to."""
    return operator._schema.arguments, operator._schema.returns


def reads_a_number(operator: Any) -> bool:
    """Whether an operator reads a tensor's value into Python (`item()`), which a meta tensor doesn't have."""
    import torch

    return operator is torch.ops.aten._local_scalar_dense.default


def in_backward_pass() -> bool:
    """Whether autograd is computing gradients in this thread now."""
    import torch

    return torch._C._current_graph_task_id() != -1


def in_recomputation() -> bool:
    """Whether a checkpointed layer is being computed again: in a backward pass, under checkpoint's hooks."""
    import torch

    return in_backward_pass() and torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def flash_attention(*args: Any, **options: Any) -> Any:
    """The operator behind scaled_dot_product_attention where CUDA takes the flash kernel; returns its output."""
    import torch

    return torch.ops.aten._scaled_dot_product_flash_attention(*args, **options)[0]


def efficient_attention(*args: Any, **options: Any) -> Any:
    """The operator behind scaled_dot_product_attention where CUDA takes the memory-efficient kernel: its output."""
    import torch

    return torch.ops.aten._scaled_dot_product_efficient_attention(*args, **options)[0]


def allow_autocast_on_meta() -> None:
    """Let library code enter or leave autocast for tensors on the meta device, which torch doesn't know for that."""
    import torch

    own = torch.autocast.__init__
    if not hasattr(own, "__wrapped__"):

        @functools.wraps(own)
        def init(self: Any, device_type: str, *args: Any, **options: Any) -> None:
            own(self, "cpu" if device_type == "meta" else device_type, *args, **options)

        torch.autocast.__init__ = init  # type: ignore[method-assign]


def safe_softmax(scores: Any, dim: int) -> Any:
    """Softmax that gives zeros, not NaN, for rows that are masked entirely."""
    import torch

    return torch._safe_softmax(scores, dim)


def foreach_copy(targets: list[Any], sources: list[Any]) -> None:
    """Copy each source into its target with few kernel launches."""
    import torch

    torch._foreach_copy_(targets, sources)


def foreach_add(targets: list[Any], sources: list[Any]) -> None:
    """Add each source to its target with few kernel launches."""
    import torch

    torch._foreach_add_(targets, sources)


def foreach_zero(targets: list[Any]) -> None:
    """Fill each tensor with zeros with few kernel launches."""
    import torch

    torch._foreach_zero_(targets)


def own_tensors(module: Any) -> Iterator[tuple[str, Any]]:
    """(name, parameter or buffer) that a module itself registers; None where one is registered without a value."""
    yield from module._parameters.items()
    yield from module._buffers.items()


def varlen_attention() -> tuple[Callable | None, bool]:
    """torch.nn.attention.varlen's function (torch ≥ 2.10), and whether grouped heads need a flag (≥ 2.12)."""
    import inspect

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None, False
    return varlen_attn, "enable_gqa" in inspect.signature(varlen_attn).parameters


# transformers


def attention_implementation(config: Any) -> str:
    """Which attention a model's config asks for: "sdpa", "eager" or a registered name."""
    return config._attn_implementation


def drop_unavailable_attention(config: Any) -> str:
    """Let a model whose attention isn't installed use torch's; return the name that it asked for, or ""."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.utils import is_flash_attn_2_available

    name = attention_implementation(config) or ""
    known = name in ("", "eager", "sdpa") or name in ALL_ATTENTION_FUNCTIONS.valid_keys()
    if known and not (name.startswith("flash_attention") and not is_flash_attn_2_available()):
        return ""
    config._attn_implementation = None
    return name


def knows_config(auto: Any, config: Any) -> bool:
    """Whether an auto class has a model class for a config."""
    return type(config) in auto._model_mapping


def model_class_for(config: Any, auto: Any) -> Any:
    """The model class that an auto class chooses for a config."""
    from transformers.models.auto.auto_factory import _get_model_class

    return _get_model_class(config, auto._model_mapping)


def layer_configs(config: Any) -> list[Any]:
    """The config of each layer where layers differ in it, such as Gemma 4's; else the config alone.

    Where they differ, reading such a setting from the model's own config raises RuntimeError.
    """
    return list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]


@contextlib.contextmanager
def empty_timm_towers() -> Iterator[None]:
    """Within it, image towers of the package timm (Gemma 3n has one) are built empty, without that package."""
    from transformers import PreTrainedModel
    from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel

    tower: Any = TimmWrapperModel
    with _build_lock:
        own = tower.__init__
        tower.__init__ = PreTrainedModel.__init__
        try:
            yield
        finally:
            tower.__init__ = own


def can_set_attention(model: Any) -> bool:
    """Whether a model's attention can be exchanged by name; an older family's can't."""
    return getattr(model, "_can_set_attn_implementation", lambda: True)()


def modules_not_to_quantize(model: Any) -> list[str]:
    """Modules that transformers leaves unquantized: the head, tied weights, those kept in float32 (T5's wo)."""
    from transformers.quantizers.base import get_keys_to_not_convert

    names = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    # It leaves out the last module. While a model is loaded that is the head; once that is tied, what precedes it.
    last, *_ = reversed(list(model.named_parameters()))
    loaded_last, *_ = reversed(list(model.named_parameters(remove_duplicate=False)))
    module = last[0].removesuffix(".weight")
    if last[0] != loaded_last[0] and module not in model.all_tied_weights_keys.values():
        names = [name for name in names if name != module]
    return names


@contextlib.contextmanager
def left_unquantized(suffixes: Sequence[str]) -> Iterator[None]:
    """Within it, quantizing also leaves out the layers whose names end with one of these."""
    from transformers.quantizers import base

    library: Any = base
    with _build_lock:
        own = library.get_keys_to_not_convert
        library.get_keys_to_not_convert = lambda model: [*own(model), *suffixes]
        try:
            yield
        finally:
            library.get_keys_to_not_convert = own


def replace_linear_layers(model: Any, skip: list[str], quantization: Any) -> None:
    """Put bitsandbytes' layers in the place of linear ones, as transformers does when it loads a model."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(model, skip, quantization)


@contextlib.contextmanager
def falcon_as_linear() -> Iterator[None]:
    """Within it, Falcon is built from nn.Linear.

    Its own class computes the same, but transformers' bitsandbytes integration replaces only modules of the exact type
    nn.Linear, and would leave a Falcon unquantized. One thread at a time, so that each restores what it found.
    """
    from torch import nn
    from transformers.models.falcon import modeling_falcon

    library: Any = modeling_falcon
    with _build_lock:
        own = library.FalconLinear
        library.FalconLinear = nn.Linear
        try:
            yield
        finally:
            library.FalconLinear = own


@contextlib.contextmanager
def progress_bars(make_bar: Callable[..., Any]) -> Iterator[None]:
    """Within it, transformers' progress bars are made by `make_bar(*args, **kwargs)` of tqdm's arguments."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda factory, args, kwargs: make_bar(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def drop_python_vocabulary(tokenizer: Any) -> None:
    """Drop the vocabulary and merges that transformers keeps as Python objects next to the tokenizers library's own.

    They are read when a tokenizer is made and never again; Gemma 3's are 147 of 258 MiB.
    """
    for name in ("_vocab", "_merges"):
        if tokenizer.is_fast and isinstance(getattr(tokenizer, name, None), (dict, list)):
            setattr(tokenizer, name, None)


# peft


BASE_ROWS = "__base__"  # the adapter name of rows that no adapter applies to, in a batch with `adapter_names`


def is_plain_lora(layer: Any, adapter: str) -> bool:
    """Whether a LoRA layer computes Wx + b + s·B·A·x for this adapter: no variant (DoRA), no LoRA bias, not merged."""
    return adapter in layer.lora_A and not (
        layer.merged or layer.lora_variant.get(adapter) or layer.lora_bias.get(adapter)
    )


def has_lora(layer: Any, adapter: str) -> bool:
    """Whether a LoRA layer has weights of this adapter."""
    return adapter in layer.lora_A or adapter in layer.lora_embedding_A


def merged_weight(layer: Any, adapter: str) -> Any:
    """The weight of a LoRA layer, unquantized, with an adapter merged into it, as PEFT (0.21) merges it.

    PEFT's own `merge` would quantize the result again, or write it over the base model's weight, which a tied head
    shares.
    """
    import torch

    with torch.no_grad():
        weight, variant = unquantized_weight(layer.get_base_layer()), layer.lora_variant.get(adapter)
        if variant:
            return variant.merge_safe(layer, adapter, weight.clone())
        return weight.float() + layer.get_delta_weight(adapter).float()


def as_in_files(model: Any, tensors: list, renamed: Callable[[str, Any, Any], Any]) -> list:
    """Tensors of a model (with `name` and `make()`) as the family's files name and split them.

    renamed(name, tensor, before): the tensor `before` under another name, or one of several that were made of others,
    as transformers joins a file's experts into one tensor when it loads a model.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, revert_weight_conversion

    conversions = get_model_conversion_mapping(model, add_legacy=False)
    if not conversions:
        return tensors
    if all(isinstance(conversion, WeightRenaming) for conversion in conversions):
        none = torch.empty(0)
        names = (next(iter(revert_weight_conversion(model, {tensor.name: none}))) for tensor in tensors)
        return [renamed(name, None, tensor) for name, tensor in zip(names, tensors)]
    whole = revert_weight_conversion(model, {tensor.name: tensor.make() for tensor in tensors})
    return [renamed(name, tensor, None) for name, tensor in whole.items()]


def is_persistent(module: Any, buffer: str) -> bool:
    """Whether a buffer of a module belongs to the model's files."""
    return buffer not in module._non_persistent_buffers_set


# bitsandbytes


def is_quantized(weight: Any) -> bool:
    """Whether a weight is packed bytes of bitsandbytes, or this program's bytes of float8."""
    return type(weight).__name__ in ("Params4bit", "Int8Params") or is_float8(weight)


def is_float8(weight: Any) -> bool:
    """Whether a weight is a `Float8Linear`'s: e4m3 or integer codes with a scale a row."""
    return hasattr(weight, "row_scales")


def unquantized_weight(layer: Any) -> Any:
    """The weight of a layer as a matrix of numbers, without moving or changing the layer."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    if type(weight).__name__ == "Params4bit":
        return dequantize_4bit(weight.data, weight.quant_state)
    if is_float8(weight):
        codes = weight.data if weight.dtype == torch.int8 else weight.data.view(torch.float8_e4m3fn)
        return codes.to(torch.float32) * weight.row_scales[:, None]
    if type(weight).__name__ == "Int8Params":
        return weight.data.to(torch.float32) * (int8_row_scales(layer)[:, None].to(weight.device) / 127)
    return weight.detach()


def import_bitsandbytes() -> None:
    """Import bitsandbytes without torch's compiler, 1.2 s sooner: its kernels are compiled at their first call instead.

    For processes that call none: a run's memory would grow by the compiler in the middle of it. At import,
    bitsandbytes (0.50) passes kernels that this program may never call to torch.compile.
    """
    import torch

    compile_now = torch.compile

    def compile_later(function: Callable, **options: Any) -> Callable:
        compiled = functools.cache(lambda: compile_now(function, **options))
        return functools.wraps(function)(lambda *arguments, **named: compiled()(*arguments, **named))

    torch.compile = compile_later  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    finally:
        torch.compile = compile_now


def quantize_to(weight: Any, device: str) -> Any:
    """Quantize an unquantized Params4bit or Int8Params onto a device, "meta" included, which `.to()` doesn't do."""
    return weight._quantize(device)


@contextlib.contextmanager
def separate_code_books() -> Iterator[None]:
    """Within it, code books may be made without values (on meta): no real layer gets one of them afterwards."""
    import bitsandbytes.functional

    books = copy.copy(bitsandbytes.functional.name2qmap)
    try:
        yield
    finally:
        bitsandbytes.functional.name2qmap.clear()
        bitsandbytes.functional.name2qmap.update(books)


def int8_row_scales(layer: Any) -> Any:
    """The scale of each output row of a Linear8bitLt: on its state once it has run, else on its weight."""
    return layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB


def quantization_constants(tensor: Any) -> Iterator[Any]:
    """What a quantized weight carries with it: at 4 bits a scale a block and the code book (both again with double
    quantization, and an offset), at 8 bits a scale a row."""
    state = getattr(tensor, "quant_state", None)
    constants = [getattr(tensor, name, None) for name in ("SCB", "row_scales")]
    while state is not None:
        constants += [state.absmax, state.code, getattr(state, "offset", None)]
        constants.append(getattr(state, "float8_row_scales", None))  # model/nf4_fast.py
        state = getattr(state, "state2", None)
    yield from (constant for constant in constants if constant is not None)


def disable_cpu_repacking(layers: Iterable[Any]) -> None:
    """Stop 4-bit layers from repacking their weights in place on a CPU at the first forward pass without gradients.

    Repacked for the AVX-512 kernel, no gradient flows through them any more: chat, then train, breaks silently
    (bitsandbytes issue 2078).
    """
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def set_4bit_compute_dtype(layer: Any, dtype: Any) -> None:
    """Have a Linear4bit compute in this type, whatever the stored config says."""
    layer.compute_dtype, layer.compute_type_is_set = dtype, True


# datasets


def keep_torch_out_of_datasets() -> None:
    """Have `datasets` stream without torch, which it imports only to share a counter with torch's data loaders."""
    import sys

    import datasets

    if "torch" not in sys.modules:
        datasets.config.TORCH_AVAILABLE = False


class ForeignFiles(ValueError):
    """A hub's data set names a file that isn't its own, as its text."""


@contextlib.contextmanager
def only_own_files() -> Iterator[None]:
    """Have `datasets` look for a hub's data set within its repo alone, whatever paths and addresses its README names.

    What is named elsewhere raises ForeignFiles before it is looked up: later, its existence would show, and an address
    would be asked from here. Only this thread's calls are checked.
    """
    from datasets import data_files

    with _build_lock:
        found = data_files.resolve_pattern
        if not hasattr(found, "checks_files"):
            data_files.resolve_pattern = _checking_files(found)
    token = _own_files_only.set(True)
    try:
        yield
    finally:
        _own_files_only.reset(token)


def _checking_files(resolve: Callable) -> Callable:
    @functools.wraps(resolve)
    def checked(pattern: str, base_path: Any, *arguments: Any, **named: Any) -> list[str]:
        folder, text = str(base_path), str(pattern)
        foreign = text.startswith(("/", "~")) or "\\" in text or ":" in text or ".." in text.split("/")
        if _own_files_only.get() and (foreign or not HUB_FOLDER.match(folder) or ".." in folder.split("/")):
            raise ForeignFiles(text if foreign else folder)
        return resolve(pattern, base_path, *arguments, **named)

    checked.checks_files = True  # type: ignore[attr-defined]
    return checked


def record_cuda_memory(max_entries: int) -> None:
    """Have torch's CUDA allocator keep its last allocations and frees, with the Python code that caused them."""
    import torch

    torch.cuda.memory._record_memory_history(max_entries=max_entries, stacks="python")


def keeps_cuda_memory() -> bool:
    """Whether the allocator keeps its allocations and frees now."""
    import torch

    return torch._C._cuda_isHistoryEnabled()


def cuda_memory_snapshot() -> dict[str, Any]:
    """What the allocator has kept, and all that it holds now; frames of the Python code may be shared."""
    import torch

    return torch.cuda.memory._snapshot()


def forget_cuda_memory() -> None:
    """Have the allocator keep nothing any more."""
    import torch

    torch.cuda.memory._record_memory_history(enabled=None)
