"""Loading a model at 32, 16, 8 or 4 bits a weight, and giving all of it back."""

import contextlib
import logging
import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import psutil
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.falcon import modeling_falcon
from transformers.utils import logging as transformers_logging

from playground.errors import problem
from playground.memory.ledger import tensors_by_part
from playground.memory.release import MIN_FRAGMENTATION, defragment, mmap_large_blocks, release_memory
from playground.model import weights
from playground.model.tokenizer import load_tokenizer
from playground.settings import Load

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # "inputs will be cast", once a call, at int8


CLEARLY = 1.2  # times as fast: below that, noise would choose between two runs of the same settings


@dataclass
class LoadedModel:
    """A model in memory: its network, its tokenizer, the type it computes in and why that one was chosen."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: str
    dtype: torch.dtype
    reason: str  # key in the words table


def resolve_device(settings: Load) -> str:
    """ "cuda" or "cpu" for these settings. Raises PlaygroundError where CUDA is asked for and isn't there."""
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise problem("error.no_cuda")
    return "cuda" if there and settings.device != "cpu" else "cpu"


def compute_dtype(settings: Load, device: str) -> tuple[torch.dtype, str]:
    """The type to compute in, and the words key of the reason.

    bfloat16 has float32's range, so training needs no loss scaling; cards before Ampere have only fast float16.
    """
    if settings.bits == 32:
        return torch.float32, "dtype.float32"
    if settings.dtype != "auto":
        return getattr(torch, settings.dtype), "dtype.chosen"
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "dtype.cuda_bf16") if fast else (torch.float16, "dtype.cuda_fp16")
    return torch.bfloat16, "dtype.cpu_bf16" if _bf16_speed() >= 1 else "dtype.cpu_slow_bf16"


def default_bits(device: str) -> int:
    """16 where half precision is computed at least as fast as float32, else 32. On a CPU that is measured."""
    return 16 if device == "cuda" or _bf16_speed() >= CLEARLY else 32


@cache
def _bf16_speed() -> float:
    """How many times as fast as float32 this CPU multiplies bfloat16 matrices, measured once (about 0.1 s).

    What the CPU says of itself doesn't settle it: AVX-512 bf16 without AMX can be the slower of the two. The quickest of
    many products counts, because whatever else the machine does can only slow one down.
    """

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(256, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        took = []
        for _ in range(25):
            began = time.perf_counter()
            left @ right
            took.append(time.perf_counter() - began)
        return min(took)

    return seconds(torch.float32) / seconds(torch.bfloat16)


def load_model(folder: Path, settings: Load, on_progress: Callable, place: str | None = None) -> LoadedModel:
    """The model of `folder` at the chosen bit width, on its device or at first elsewhere (`place`).

    `tell(done, total, unit)` hears of the progress.

    Never runs code that comes with a model: `trust_remote_code` is off, and weights are read as safetensors or with
    torch's tensors-only reader. Raises PlaygroundError for what isn't a language model.
    """
    device = resolve_device(settings)
    dtype, reason = compute_dtype(settings, device)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        stored = getattr(config, "quantization_config", None)
        weights.with_stored_quantization(config, settings)
        weights.check_files(Path(folder))
        few = {} if stored else {"quantization_config": _quantization(settings, dtype)}
        with loading_progress(on_progress), mmap_large_blocks():
            model, found = model_class(config).from_pretrained(
                folder,
                dtype=dtype,
                device_map={"": place or device},
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **few,
            )
    except UnpicklingError as error:
        raise problem("error.unsafe_weights", path=Path(folder).name) from error
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise problem("error.load", path=Path(folder).name, detail=str(error).split("\n")[0][:240]) from error
    weights.check_fit(Path(folder), found["missing_keys"], found["mismatched_keys"])
    if stored:
        set_compute_dtype(model, dtype)
    if settings.bits == 4 and device == "cpu":
        disable_cpu_repacking(model)
    if settings.bits < 16 and device == "cuda":
        defragment_after_load(model)
    model.requires_grad_(False)
    model.eval()
    tokenizer = load_tokenizer(Path(folder), model)
    if device == "cpu":
        release_memory()  # reading a tokenizer leaves four times what it keeps
        page_in_weights(model)
    return LoadedModel(model, tokenizer, device, dtype, reason)


def model_class(config: PreTrainedConfig) -> type:
    """transformers' class for the language models of this config: with an encoder (T5, mT5, BART), or without one."""
    if (
        config.model_type == "falcon"
    ):  # its own linear class computes the same, but bitsandbytes' integration passes it over
        modeling_falcon.FalconLinear = nn.Linear
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def set_compute_dtype(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Have weights that were stored at 4 bits compute in this type, whatever their repo says: it may name one that is slow here."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype, module.compute_type_is_set = dtype, True


def disable_cpu_repacking(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place on CPU.

    One forward pass without gradients would pack them for its AVX-512 kernel, after which no gradient flows through
    the layer any more: chat, then train, breaks silently (bitsandbytes issue 2078).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def unquantized_share(model: PreTrainedModel) -> float:
    """The share, from 0 to 1, of the weights between embedding and head that a quantizing load left as they are.

    bitsandbytes quantizes linear layers alone: experts that are held together are one parameter. And T5 needs the range of
    a wider type in its `wo`.
    """
    few = [m for m in model.modules() if isinstance(m, (Linear4bit, Linear8bitLt))]
    outside = [*few, *(m for m in model.modules() if isinstance(m, nn.Embedding)), model.get_output_embeddings()]
    apart = {id(p) for module in outside if module is not None for p in module.parameters()}
    whole = sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in apart)
    return whole / max(1, whole + sum(m.in_features * m.out_features for m in few))


def page_in_weights(model: PreTrainedModel) -> None:
    """Read weights that lie in their file's pages (safetensors maps it): loaded means in memory, not at the first answer."""
    for storage in {tensor.untyped_storage() for _, tensor in tensors_by_part(model)}:
        torch.empty(0, dtype=torch.uint8).set_(storage)[:: mmap.PAGESIZE].sum()


def defragment_after_load(model: PreTrainedModel) -> None:
    """After a load that quantized on the card: close the holes that it left, if they are many and main memory allows."""
    release_memory()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    if reserved - allocated > MIN_FRAGMENTATION * reserved and psutil.virtual_memory().available > 1.2 * allocated:
        defragment(model)


@contextlib.contextmanager
def loading_progress(on_progress: Callable):
    """Within it, transformers' own progress bars are reported through `tell` instead of being drawn."""

    class Bar:
        def __init__(self, iterable=None, total=None, **kwargs):
            self.iterable, self.n = iterable, 0
            self.total = total if total is not None else len(iterable) if hasattr(iterable, "__len__") else 0

        def __iter__(self):
            for item in self.iterable:
                yield item
                self.update()

        def update(self, n=1):
            self.n += n
            on_progress(self.n, max(self.total, self.n), "tensors")

        def __getattr__(self, name):  # set_description, close, ...: nothing is drawn
            return lambda *args, **kwargs: None

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

    before = transformers_logging.set_tqdm_hook(lambda factory, args, kwargs: Bar(*args, **kwargs))
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def _quantization(settings: Load, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if settings.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    if settings.bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=settings.quant_type,
            bnb_4bit_use_double_quant=settings.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    return None
