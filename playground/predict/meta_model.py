"""A model of the right shape without weights: built on the meta device from its config alone, in any bit width."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import bitsandbytes.functional
import torch
import transformers
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

from playground import catalog
from playground.errors import problem
from playground.model import adapt
from playground.model.load import LoadedModel, model_class
from playground.model.weights import with_stored_quantization
from playground.predict import layer_extrapolation
from playground.settings import Load

PAD = 2
UNUSABLE = (
    ValueError,
    KeyError,
    OSError,
    TypeError,
    AttributeError,
    StrictDataclassError,
)  # what transformers raises of a config
SIZES = (
    ("hidden_size", "n_embd", "n_embed", "d_model"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
)  # by their names in various families
REMEMBERED = 32  # networks
_known: dict[tuple, "ModelFacts"] = {}


def config_of(model: str) -> PreTrainedConfig:
    """The config of a catalog's model or shape, a folder, a config.json, or a hub id.

    Raises PlaygroundError: unknown to the catalog and the hub, not readable, a type that transformers doesn't know.
    """
    from playground.model.source import config_file

    entry = catalog.shape_of(model)
    try:
        if entry:
            return AutoConfig.for_model(**entry["config"])
        file = config_file(model)
        if file.suffix == ".gguf":
            return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        _check(file)
        return AutoConfig.from_pretrained(file, trust_remote_code=False, local_files_only=True)
    except UNUSABLE as error:
        raise problem("error.config", model=model[:120], detail=_in_one_line(error)) from error


def _check(file: Path) -> None:
    """Raise PlaygroundError for a config.json of an unknown type, or without its sizes, which transformers would fill up with those of its best-known model."""
    values = json.loads(file.read_text(encoding="utf-8"))
    kind = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise problem("error.config_kind", path=str(file))
    if kind not in CONFIG_MAPPING:
        raise problem("error.model_type", path=str(file), kind=kind[:60], version=transformers.__version__)
    given = set(values) | set(values.get("text_config") or {})
    lacking = [names[0] for names in SIZES if not given & set(names)]
    if lacking:
        raise problem("error.config_sizes", path=str(file), lacking=lacking)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:240].rstrip(".")


def build(config: PreTrainedConfig, load: Load, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The network on the meta device, its linear layers in `load.bits` as transformers and bitsandbytes have them.

    device: what it stands for, "cuda" or "cpu": the training core takes other ways there.

    Raises PlaygroundError for a config that no language model can be made of.
    """
    try:
        with torch.device("meta"):
            model = model_class(config).from_config(copy.deepcopy(config), dtype=dtype)  # which writes the type into it
    except (*UNUSABLE, RuntimeError, ZeroDivisionError) as error:
        raise problem("error.config", model=config.model_type, detail=_in_one_line(error)) from error
    if load.bits < 16:
        quantize(model, load, dtype)
    model.stands_for = device
    return model.requires_grad_(False).eval()


def quantize(model: PreTrainedModel, load: Load, dtype: torch.dtype) -> None:
    """Put bitsandbytes' layers in the place of linear ones, where transformers would."""
    wanted = BitsAndBytesConfig(
        load_in_4bit=load.bits == 4,
        load_in_8bit=load.bits == 8,
        bnb_4bit_quant_type=load.quant_type,
        bnb_4bit_use_double_quant=load.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    biases = {name: module.bias for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    books = dict(bitsandbytes.functional.name2qmap)
    replace_with_bnb_linear(model, [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())], wanted)
    for name, module in model.named_modules():
        if isinstance(module, (Linear4bit, Linear8bitLt)):
            module.weight = module.weight._quantize("meta")
            module.bias = biases.get(name)  # in the model's own type
            if isinstance(module, Linear8bitLt):
                module.state.CB, module.state.SCB = module.weight.CB, module.weight.SCB
    bitsandbytes.functional.name2qmap.clear()  # a code book that was first made here has no values: no real layer may get it
    bitsandbytes.functional.name2qmap.update(books)
    setattr(model, f"is_loaded_in_{load.bits}bit", True)  # as transformers says it to PEFT


def config_key(config: PreTrainedConfig) -> tuple[str, str | None]:
    """What two configs have in common that make the same network."""
    return config.to_json_string(use_diff=False), config._attn_implementation


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a whole network: few.py's kinds of its layers, its parameters, and those of them in linear layers."""

    kinds: tuple[tuple, ...]
    parameters: int
    linear: int


def model_facts(config: PreTrainedConfig, load: Load, dtype: torch.dtype, device: str) -> ModelFacts:
    """Remembered for the last networks."""
    known = (config_key(config), load, dtype, device)
    if known not in _known:
        model = build_loaded(config, load, dtype, device).model
        linear = {
            id(m.weight): m.in_features * m.out_features if hasattr(m, "in_features") else m.weight.numel()
            for m in adapt.linear_layers(model).values()
        }
        _known[known] = ModelFacts(
            layer_extrapolation.layer_kinds(model),
            sum(linear.get(id(p), p.numel()) for p in model.parameters()),
            sum(linear.values()),
        )
        while len(_known) > REMEMBERED:
            _known.pop(next(iter(_known)))
    return _known[known]


def build_loaded(config: PreTrainedConfig, load: Load, dtype: torch.dtype, device: str) -> LoadedModel:
    """What `load` would return for it; of the tokenizer, the pad token is all."""
    return LoadedModel(
        build(config, with_stored_quantization(config, load), dtype, device),
        SimpleNamespace(pad_token_id=PAD),
        "meta",
        dtype,
        "",
    )
