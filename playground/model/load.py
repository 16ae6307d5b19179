"""Load a model at 32, 16, 8 or 4 bits a weight, in the dtype that suits this hardware."""

import contextlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from safetensors import SafetensorError
from transformers import (
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from playground import compat
from playground.errors import problem
from playground.memory.file_pages import FilePages
from playground.memory.ledger import tensors_by_part
from playground.memory.release import defragment_after_load, mmap_large_blocks, release_memory
from playground.model import float8, mapped_weights, nf4_fast, weights
from playground.model.config_file import CONFIG_ERRORS, read_config
from playground.model.conversion_notes import read_notes
from playground.model.dtype import compute_dtype
from playground.model.float8_linear import layer_class, quantize_linears
from playground.model.language_part import check_text_alone, has_text_alone, model_class, without_towers
from playground.model.load_progress import loading_progress
from playground.model.quantize_in_pieces import in_pieces
from playground.model.shares import Shares
from playground.model.streamed_load import place_streamed
from playground.model.streaming import StreamedLayers
from playground.model.tokenizer import fit_tokenizer, read_tokenizer
from playground.model.unquantized import layers_left_unquantized
from playground.settings import Load, has_own_layers, is_fast_nf4, is_int8, stored_quant_type, streamed_count

# A model as its folder has it, without running its code. For use within `compat.without_adapter_beside()`: transformers
# would also load an adapter from the same folder.
PLAIN_MODEL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


@dataclass
class LoadedModel:
    """A model in memory with its tokenizer, the dtype it computes in, and the reason for that dtype.

    notes: `note` events on what its files ask for or hold that isn't used. streamed: layers that wait in main memory.
    split: layers whose quantized weights are split over processes. pages: of the files that its matrices wait in until
    they are split over processes (`mapped_weights`), else None.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: str
    dtype: torch.dtype
    reason: str  # key in the words table
    notes: list[dict] = field(default_factory=list)
    streamed: StreamedLayers | None = None
    split: StreamedLayers | None = None
    pages: FilePages | None = None

    @property
    def streamed_count(self) -> int:
        """How many layers are streamed."""
        return len(self.streamed.numbers) if self.streamed else 0


def resolve_device(settings: Load) -> str:
    """Return "cuda" or "cpu" for these settings. Raises PlaygroundError if they require CUDA and there is none."""
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise problem("error.no_cuda")
    return "cuda" if available and settings.device != "cpu" else "cpu"


def load_model(
    folder: Path,
    settings: Load,
    on_progress: Callable[..., None],
    initial_device: str | None = None,
    split: bool = False,
    shares: Shares | None = None,
) -> LoadedModel:
    """Load the model and tokenizer of `folder` at the chosen bit width, frozen and in evaluation mode.

    on_progress: called with (done, total, unit) as tensors are read.
    initial_device: where the weights go first, if not to the device that the settings resolve to.
    split: whether its matrices wait in the files until they are split over processes (`mapped_weights`). shares: where
    quantized weights are split over processes as they are loaded.

    Code that comes with a model is never run: `trust_remote_code` is off, and weights are read as safetensors or with
    torch's tensors-only reader. Raises PlaygroundError if the folder holds no usable language model.
    """
    folder = Path(folder)
    compat.leave_out_cudnn_attention()
    device = resolve_device(settings)
    dtype, reason = compute_dtype(settings, device)
    config = _checked_config(folder)
    settings = weights.with_stored_quantization(config, settings)
    tokenizer = read_tokenizer(folder, config)
    release_memory()  # parsing takes four times what the tokenizer keeps, which mustn't add to the weights' peak
    streams = bool(streamed_count(settings) or shares)
    by_layer = streams or has_own_layers(settings)
    first = "cpu" if by_layer else initial_device or device
    pages = FilePages(folder)

    def progressed(*step: Any) -> None:
        pages.drop()
        on_progress(*step)

    if has_own_layers(settings):  # a CPU's trial, which separately mapped blocks would disturb
        layer_class(settings).products.has_products(device)
    where = initial_device if shares and initial_device else device
    with mmap_large_blocks(), in_pieces(settings.bits, where if by_layer else first):
        quantization = None if streams else quantization_config(settings, dtype)
        model, notes = _read_model(folder, config, quantization, dtype, first, progressed, by_layer or split)
        if split and not has_text_alone(model):
            mapped_weights.read(model)  # a text is tried below
        streamed = _place(model, settings, dtype, where, progressed, shares) if by_layer else None
    if settings.bits == 4 and device == "cpu":
        compat.disable_cpu_repacking(model.modules())
    if not streams and is_fast_nf4(settings) and float8.has_products(device):
        nf4_fast.prepare(model)
    if not streams and settings.bits < 16 and not has_own_layers(settings) and device == "cuda":
        defragment_after_load(model)
    model.requires_grad_(False)
    model.eval()
    check_text_alone(model)
    fit_tokenizer(tokenizer, model, folder.name)
    pages.drop(0)
    release_memory()
    if device == "cpu" and not split:
        page_in_weights(model)
    kept = pages if split else None
    loaded = LoadedModel(model, tokenizer, device, dtype, reason, notes, pages=kept)
    loaded.split, loaded.streamed = (streamed, None) if shares else (None, streamed)
    return loaded


def _checked_config(folder: Path) -> PreTrainedConfig:
    """The folder's config, of a language model whose weight files are whole. Raises PlaygroundError."""
    with _load_errors(folder):
        config = read_config(folder / "config.json", folder.name)
        weights.check_files(folder)
        model_class(config)
    return config


@contextlib.contextmanager
def _load_errors(folder: Path) -> Iterator[None]:
    """A context in which errors of reading the folder become PlaygroundErrors."""
    try:
        yield
    except UnpicklingError as error:
        raise problem("error.unsafe_weights", path=folder.name) from error
    except (*CONFIG_ERRORS, SafetensorError) as error:
        raise problem("error.load", path=folder.name, detail=str(error).split("\n")[0][:240]) from error


def _read_model(
    folder: Path,
    config: PreTrainedConfig,
    quantization: BitsAndBytesConfig | None,
    dtype: torch.dtype,
    device: str,
    on_progress: Callable[..., None],
    waits: bool,
) -> tuple[PreTrainedModel, list[dict]]:
    """Read the folder's weights with transformers, whose errors become PlaygroundErrors.

    waits: whether matrices wait in the files. Returns `note` events too.
    """
    with _load_errors(folder):
        attention = compat.drop_unavailable_attention(config)
        if config.model_type == "rwkv":
            config.rescale_every = 0  # for float16 alone, and its code fails at 4 bits
        stored = getattr(config, "quantization_config", None)
        quantized = {} if stored else {"quantization_config": quantization}
        with loading_progress(on_progress), quantizable_linear_layers(config), contextlib.ExitStack() as reading:
            reading.enter_context(compat.without_adapter_beside())
            reading.enter_context(compat.quantizing_where_read())
            if device == "cpu":
                reading.enter_context(compat.reading_in_order())  # threads would be ahead by any number of tensors
            if waits:
                reading.enter_context(compat.matrices_as_stored(dtype))
            model, info = model_class(config).from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map={"": device},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **PLAIN_MODEL,
                **quantized,
            )
    weights.check_fit(folder, info["missing_keys"], info["mismatched_keys"])
    if stored:
        set_compute_dtype(model, dtype)
    if waits:
        mapped_weights.mark_waiting(model, dtype)
    towers, unused = without_towers(config, model, sorted(info["unexpected_keys"]))
    return model, [*read_notes(folder), *_file_notes(folder, attention, towers, unused)]


def _place(
    model: PreTrainedModel,
    settings: Load,
    dtype: torch.dtype,
    device: str,
    on_progress: Callable[..., None],
    shares: Shares | None,
) -> StreamedLayers | None:
    """Quantize and place a model whose matrices wait in its files, layer by layer; return its streamed layers."""
    if not streamed_count(settings) and not shares:
        quantize_to_8_bits(model, settings, device, on_progress)
        return None
    stored = getattr(model.config, "quantization_config", None)
    quantization = None if stored else quantization_config(settings, dtype)
    on_card = torch.cuda.device(device) if device.startswith("cuda") else contextlib.nullcontext()
    with quantizable_linear_layers(model.config), on_card:  # a thread begins with card 0 as its current one
        return place_streamed(model, settings, quantization, device, on_progress, shares)


def _file_notes(folder: Path, attention: str, towers: list[str], unused: list[str]) -> list[dict]:
    """`note` events: an attention that isn't installed, towers left out, tensors that the network has no place for."""
    notes = [{"kind": "note", "key": "note.attention", "values": {"name": attention}}] if attention else []
    if towers:
        shown = {"path": folder.name, "names": towers[: weights.SHOWN]}
        notes.append({"kind": "note", "key": "note.language_part", "values": shown})
    if unused:
        values = {"path": folder.name, "count": len(unused), "names": unused[: weights.SHOWN]}
        notes.append({"kind": "note", "key": "note.unused_tensors", "values": values})
    return notes


def quantization_config(settings: Load, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How bitsandbytes stores the weights at this bit width and computes with them in `dtype`; None from 16 bits on."""
    if is_int8(settings):
        return BitsAndBytesConfig(load_in_8bit=True)
    if settings.bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=stored_quant_type(settings),
            bnb_4bit_use_double_quant=settings.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    return None


def quantize_to_8_bits(
    model: PreTrainedModel, settings: Load, device: str, on_progress: Callable[..., None] = lambda *step: None
) -> None:
    """Quantize a model in main memory, layer by layer, as each arrives on the device; the rest follows it.

    The layers are those that bitsandbytes would quantize. on_progress: called with (done, total, "tensors").
    """
    with quantizable_linear_layers(model.config):
        kind = layer_class(settings)
        skip, multiplies = compat.modules_not_to_quantize(model), kind.products.has_products(device)
        quantize_linears(
            model, skip, device, multiplies, kind, on_layer=lambda done, total: on_progress(done, total, "tensors")
        )
    mapped_weights.read(model)
    model.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides the signature


def model_from_config(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Build an untrained model, with layers that can be quantized. transformers writes the dtype into `config`."""
    with quantizable_linear_layers(config):
        return model_class(config).from_config(config, dtype=dtype)


@contextlib.contextmanager
def quantizable_linear_layers(config: PreTrainedConfig) -> Iterator[None]:
    """A context to build, load or quantize a model in: every linear layer can be quantized but those that must not."""
    with contextlib.ExitStack() as stack:
        if config.model_type == "falcon":
            stack.enter_context(compat.falcon_as_linear())
        left_out = layers_left_unquantized(config)
        if left_out:
            stack.enter_context(compat.left_unquantized(left_out))
        yield


def set_compute_dtype(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Set the dtype that 4-bit layers compute in; weights stored at 4 bits may name one that is slow here."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            compat.set_4bit_compute_dtype(module, dtype)


def page_in_weights(model: PreTrainedModel) -> None:
    """Read memory-mapped weights (safetensors) into memory now: loaded means in memory, not at the first answer."""
    for storage in {tensor.untyped_storage() for _, tensor in tensors_by_part(model)}:
        torch.empty(0, dtype=torch.uint8).set_(storage)[:: mmap.PAGESIZE].sum()
