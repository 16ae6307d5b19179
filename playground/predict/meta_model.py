"""Build a model without weights: on the meta device, from its config alone, at any bit width."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import PreTrainedConfig, PreTrainedModel

from playground import compat
from playground.model import adapt, nf4_fast
from playground.model.config_file import CONFIG_ERRORS, config_problem
from playground.model.config_file import config_of as config_of  # the first step of most predictions
from playground.model.float8_linear import Float8Linear, layer_class, quantize_linears
from playground.model.load import LoadedModel, model_from_config, quantizable_linear_layers, quantization_config
from playground.model.weights import with_stored_quantization
from playground.predict import shallow_model
from playground.predict.lru import LruCache
from playground.settings import Load, has_own_layers, is_fast_nf4

compat.allow_4bit_copies_on_meta()  # for DoRA
compat.allow_autocast_on_meta()  # PEFT's adapters of experts leave autocast

PAD_TOKEN_ID = 2
MAX_KNOWN_MODELS = 32


def build(config: PreTrainedConfig, load: Load, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Build the network on the meta device, linear layers at `load.bits` as transformers and bitsandbytes make them.

    device: that it represents, "cuda" or "cpu": the training code runs differently on each. Raises PlaygroundError for
    a config that no language model can be built from.
    """
    try:
        with torch.device("meta"):
            model = model_from_config(copy.deepcopy(config), dtype)  # it writes the type into the config
    except (*CONFIG_ERRORS, RuntimeError) as error:
        raise config_problem(config.model_type, error) from error
    if load.bits < 16:
        quantize(model, load, dtype, device)
    model.stands_for = device  # type: ignore[assignment]  # the training code asks for it
    return model.requires_grad_(False).eval()


def quantize(model: PreTrainedModel, load: Load, dtype: torch.dtype, device: str) -> None:
    """Replace linear layers by quantized ones, those that transformers would replace.

    device: that the model represents.
    """
    if has_own_layers(load):
        with quantizable_linear_layers(model.config):
            quantize_linears(model, compat.modules_not_to_quantize(model), "meta", device == "cuda", layer_class(load))
        return
    config = quantization_config(load, dtype)
    biases = {name: module.bias for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    with compat.separate_code_books(), quantizable_linear_layers(model.config):
        compat.replace_linear_layers(model, compat.modules_not_to_quantize(model), config)
        for name, module in model.named_modules():
            if isinstance(module, (Linear4bit, Linear8bitLt)):
                layer: Any = module
                layer.weight = compat.quantize_to(layer.weight, "meta")
                layer.bias = biases.get(name)  # in the model's dtype
                if isinstance(module, Linear8bitLt):
                    layer.state.CB, layer.state.SCB = layer.weight.CB, layer.weight.SCB
    if is_fast_nf4(load) and device == "cuda":
        nf4_fast.prepare(model)
    setattr(model, f"is_loaded_in_{load.bits}bit", True)  # the flag by which PEFT recognizes a quantized model


def config_key(config: PreTrainedConfig) -> tuple[str, str | None]:
    """Equal for configs that make the same network."""
    return config.to_json_string(use_diff=False), compat.attention_implementation(config)


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a whole network.

    kinds: of its repeated layers, by stack (shallow_model.layer_kinds). parameters: how many it has. linear: how many
    of them are in linear layers. quantized: how many are in quantized layers, of which there are `quantized_layers`.
    sizes: how many numbers each of its tensors has that PyTorch calls a parameter.
    """

    kinds: tuple[tuple[shallow_model.LayerKind, ...], ...]
    parameters: int
    linear: int
    quantized: int = 0
    quantized_layers: int = 0
    sizes: tuple[int, ...] = ()

    @property
    def layers(self) -> int:
        """How many repeated layers it has, in all stacks."""
        return sum(map(len, self.kinds))

    @property
    def tensors(self) -> int:
        """How many parameters it has as PyTorch counts them."""
        return len(self.sizes)


_known_models: LruCache[ModelFacts] = LruCache(MAX_KNOWN_MODELS)


def model_facts(config: PreTrainedConfig, load: Load, dtype: torch.dtype, device: str) -> ModelFacts:
    """Count a network's parameters and classify its layers; remembered for the last networks."""

    def compute() -> ModelFacts:
        model = build_loaded(config, load, dtype, device).model
        linear = {id(layer.weight): unquantized_size(layer) for layer in adapt.linear_layers(model).values()}
        kinds = (Linear4bit, Linear8bitLt, Float8Linear)
        quantized = [module for module in model.modules() if isinstance(module, kinds)]
        sizes = linear | {id(layer.weight): unquantized_size(layer) for layer in quantized}
        tensors = [sizes.get(id(parameter), parameter.numel()) for parameter in model.parameters()]
        return ModelFacts(
            kinds=shallow_model.layer_kinds(model),
            parameters=sum(tensors),
            linear=sum(linear.values()),
            quantized=sum(map(unquantized_size, quantized)),
            quantized_layers=len(quantized),
            sizes=tuple(tensors),
        )

    return _known_models.get_or_compute((config_key(config), load, dtype, device), compute)


def unquantized_size(layer: Any) -> int:
    """How many parameters a linear layer's weight has; at 4 bits its tensor has half as many elements."""
    return layer.in_features * layer.out_features if hasattr(layer, "in_features") else layer.weight.numel()


def build_loaded(config: PreTrainedConfig, load: Load, dtype: torch.dtype, device: str) -> LoadedModel:
    """What load.load_model would return for this config, without weights; its tokenizer has nothing but a pad token."""
    model = build(config, with_stored_quantization(config, load), dtype, device)
    return LoadedModel(model, cast(Any, SimpleNamespace(pad_token_id=PAD_TOKEN_ID)), "meta", dtype, "")
