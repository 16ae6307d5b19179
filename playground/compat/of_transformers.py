"""transformers' private and fragile APIs: attention, classes of models, and what is replaced as one is built."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_build_lock = threading.RLock()


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


def sees_later_tokens(config: Any) -> bool:
    """Whether a model with this config sees the tokens behind a position, of which it then is to predict the first.

    Encoders like BERT's have a causal class too, which is causal only where their config says so.
    """
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    encoders = {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
    encoders -= {*modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}  # BART's decoder is always causal
    if kind in encoders and not getattr(config, "is_decoder", getattr(config, "causal", False)):
        return True
    texts = (config, getattr(config, "text_config", None))
    both_ways = any(getattr(text, "use_bidirectional_attention", None) in (True, "all") for text in texts)
    return (
        both_ways  # EmbeddingGemma; "vision" means between the parts of an image
        or any(getattr(text, "is_causal", True) is False for text in texts)
        or getattr(config, "attn_type", "") == "bi"  # XLNet, which learns from permutations
        or kind == "cpmant"  # whose code takes all of a text for its context
    )


def layer_configs(config: Any) -> list[Any]:
    """The config of each layer where layers differ in it, such as Gemma 4's; else the config alone.

    Where they differ, reading such a setting from the model's own config raises RuntimeError.
    """
    return list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]


def import_transformers() -> None:
    """Import transformers' models without SciPy, scikit-learn and pandas, where those are installed.

    With any model, transformers imports the losses of models that find objects in images, which take SciPy (5.23), and
    a kind of assisted generation, which takes scikit-learn (5.17, no longer 5.23). This program uses neither: while the
    modules of both are imported, the two packages are hidden from them, and from nothing else.
    """
    from transformers import utils

    hidden = {name: getattr(utils, name) for name in ("is_scipy_available", "is_sklearn_available")}
    for name in hidden:
        setattr(utils, name, lambda: False)
    try:
        import transformers.generation.candidate_generator
        import transformers.loss.loss_utils  # noqa: F401
    finally:
        for name, function in hidden.items():
            setattr(utils, name, function)


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


def is_matrix(tensor: Any) -> bool:
    """Whether a tensor is one that `matrices_as_stored` may leave as it is."""
    return tensor.ndim > 1 and tensor.is_floating_point()


@contextlib.contextmanager
def matrices_as_stored(dtype: Any) -> Iterator[None]:
    """Within it, matrices that would be read as `dtype` keep the type of their file, and so stay mapped unread."""
    from transformers import core_model_loading

    library: Any = core_model_loading
    with _build_lock:
        own = library._materialize_copy

        def read(tensor: Any, device: Any = None, wanted: Any = None) -> Any:
            whole = tensor[...]
            return own(whole, device, None if is_matrix(whole) and wanted == dtype else wanted)

        library._materialize_copy = read
        try:
            yield
        finally:
            library._materialize_copy = own


@contextlib.contextmanager
def reading_in_order() -> Iterator[None]:
    """Within it, transformers reads a tensor when its turn comes, instead of in threads that run ahead."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    with _build_lock:
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def reading_threads() -> int:
    """How many threads transformers reads tensors in, where nothing is quantized and nobody asked it for order."""
    from transformers import core_model_loading

    return core_model_loading.GLOBAL_WORKERS


@contextlib.contextmanager
def quantizing_where_read() -> Iterator[None]:
    """Within it, transformers quantizes to LLM.int8() on the device that a weight was read to.

    By itself (5.23) it copies each weight from the GPU to main memory and back first, because `Int8Params.to()` doesn't
    quantize what is on a GPU: half a billion weights take 1.5 s instead of 1.0 (H200). What comes of it is the same.
    """
    from bitsandbytes.nn import Int8Params
    from transformers.integrations.bitsandbytes import Bnb8bitQuantize
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizers_utils import get_module_from_name

    from playground.compat.of_bitsandbytes import quantize_to

    def convert(self: Any, input_dict: dict, full_layer_name: Any = None, model: Any = None, **options: Any) -> dict:
        quantized = {}
        for name, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            if issubclass(get_module_from_name(model, name)[0].source_cls, Conv1D):
                weight = weight.T  # such a layer has its matrix the other way round
            fields = {key: field for key, field in vars(model.get_parameter_or_buffer(name)).items() if key != "SCB"}
            quantized[name] = quantize_to(Int8Params(weight, requires_grad=False, **fields), weight.device)
        return quantized

    operation: Any = Bnb8bitQuantize
    with _build_lock:
        own, operation.convert = operation.convert, convert
        try:
            yield
        finally:
            operation.convert = own


@contextlib.contextmanager
def without_adapter_beside() -> Iterator[None]:
    """Within it, transformers looks for no adapter beside a model's files.

    Its `adapter_kwargs` can't say so: until 5.20 at least it looks into the folder itself, whatever the subfolder.
    """
    from transformers.integrations import peft
    from transformers.models.auto import auto_factory

    with _build_lock:
        modules: tuple[Any, ...] = (peft, auto_factory)
        own = [(module, module.find_adapter_config_file) for module in modules]
        for module, _ in own:
            module.find_adapter_config_file = lambda *arguments, **options: None
        try:
            yield
        finally:
            for module, function in own:
                module.find_adapter_config_file = function


def kept_in_float32(model: Any, dtype: Any) -> set[str]:
    """Names of parameters that transformers reads as float32 in a model of another type."""
    keys = [key.replace("*", ".*") for key in model._get_dtype_plan(dtype)]
    return {name for name, _ in model.named_parameters() if any(re.search(key, name) for key in keys)}


@contextlib.contextmanager
def progress_bars(make_bar: Callable[..., Any]) -> Iterator[None]:
    """Within it, transformers' progress bars are made by `make_bar(*args, **kwargs)` of tqdm's arguments."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda factory, args, kwargs: make_bar(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
