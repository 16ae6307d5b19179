"""Choose a shallow network that represents a deep one: which repeated layers can be left out of a config.

Whole periods of equal layers are left out. A period is one layer, or a pattern of several: sliding windows, layers that
are checkpointed. What the shallow network allocates is extrapolated to the deep one by layer_extrapolation.py.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from playground import compat
from playground.model.adapt import is_expression
from playground.settings import Lora, Settings

MAX_PERIOD = 12  # layers; leaving out a longer period saves little
# Layers at a stack's beginning and end that are never left out. The first layer's input needs no gradient, and the
# second layer's backward pass ends with that.
FIRST_LAYERS, LAST_LAYERS = 2, 1
# Names of the numbers of layers in configs of encoder-decoder models.
ENCODER_DECODER_DEPTHS = (("num_layers", "num_decoder_layers"), ("encoder_layers", "decoder_layers"))

LayerKind = tuple  # equal for layers that compute the same on weights of the same shapes


class LayersDiffer(Exception):
    """Layers that should compute the same don't; the text says which."""


@dataclass(frozen=True)
class Region:
    """Layers of the shallow network between which others were left out.

    From layer `first` on, there are two equal periods of `period` layers; `more` periods were left out between them.
    """

    first: int
    period: int
    more: int

    @property
    def second(self) -> int:
        """The second period's first layer."""
        return self.first + self.period

    @property
    def end(self) -> int:
        """The layer after the second period."""
        return self.first + 2 * self.period

    @property
    def left_out(self) -> int:
        """How many layers were left out."""
        return self.more * self.period

    def to_deep(self, layer: int) -> int:
        """A shallow layer's number in the deep network."""
        return layer + self.left_out if layer >= self.second else layer


@dataclass(frozen=True)
class ShallowModel:
    """A shallow network that represents a deep one.

    config: of the shallow network. settings: have the same effect on it that the chosen ones have on the deep network.
    regions: where layers were left out, first to last. interval: every how many layers one may be checkpointed. kinds:
    of its layers, an encoder's before its decoder's.
    """

    config: PreTrainedConfig
    settings: Settings
    regions: tuple[Region, ...]
    interval: int
    kinds: tuple[LayerKind, ...]

    @cached_property
    def multiplicities(self) -> list[int]:
        """How many layers of the deep network each layer represents."""
        counts = [1] * len(self.kinds)
        for region in self.regions:
            counts[region.first : region.second] = [1 + region.more] * region.period
        return counts

    def check(self, model: PreTrainedModel) -> None:
        """Raise LayersDiffer unless the model built from `config` has the deep network's kinds of layers."""
        if tuple(kind for stack in layer_kinds(model) for kind in stack) != self.kinds:
            raise LayersDiffer("the shallow network's layers are not those of the deep one")


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """A model's repeated layers, an encoder's before its decoder's."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def layer_kinds(model: PreTrainedModel) -> tuple[tuple[LayerKind, ...], ...]:
    """The kinds of the repeated layers, by stack."""
    stacks: dict[str, list[LayerKind]] = {}
    config, total = model.config.get_text_config(), len(repeated_layers(model))
    per_layer = [value for value in vars(config).values() if isinstance(value, (list, tuple)) and len(value) == total]
    named = [(name, m) for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)]
    for n, (name, layer) in enumerate(named):
        kind = (*(str(value[n]) for value in per_layer), *_kind(layer))
        stacks.setdefault(name.rpartition(".")[0], []).append(kind)
    return tuple(map(tuple, stacks.values()))


def choose_shallow_model(
    config: PreTrainedConfig, settings: Settings, kinds: tuple[tuple[LayerKind, ...], ...], interval: int = 1
) -> ShallowModel | None:
    """The shallowest network that represents the deep one; None where no layer can be left out.

    kinds: of the deep network, by stack. interval: every how many layers one is treated apart, such as checkpointed.
    """
    all_kinds, depths = [kind for stack in kinds for kind in stack], [len(stack) for stack in kinds]
    if _names_a_layer(settings.lora.target_modules) or len(depths) != 1 + config.is_encoder_decoder:
        return None
    adapted = settings.lora.layers if settings.train.method == "lora" and settings.lora.layers < len(all_kinds) else 0
    regions, left_out = _find_regions(all_kinds, depths, len(all_kinds) - adapted if adapted else 0, interval)
    shallow_config = _shorten(config, depths, left_out) if regions else None
    if shallow_config is None:
        return None
    lora = _shallow_lora(settings.lora, adapted, len(all_kinds), left_out)
    kept = tuple(kind for n, kind in enumerate(all_kinds) if n not in left_out)
    return ShallowModel(shallow_config, replace(settings, lora=lora), tuple(regions), interval, kept)


def _names_a_layer(target_modules: str) -> bool:
    """Whether LoRA's target modules name a layer by its number."""
    if is_expression(target_modules):
        return True  # whatever it matches
    return any(word.isdigit() for name in target_modules.split(",") for word in name.strip().split("."))


def _find_regions(
    kinds: Sequence[LayerKind], depths: Sequence[int], first_adapted: int, interval: int
) -> tuple[list[Region], set[int]]:
    """Where layers can be left out, and the numbers of those layers in the deep network.

    first_adapted: the first layer with an adapter, which splits its stack in two; 0 where all layers are treated alike.
    """
    regions: list[Region] = []
    left_out: set[int] = set()
    stack_start = 0
    for depth in depths:
        stack_end = stack_start + depth
        for start, end in _split(stack_start, stack_end, first_adapted):
            region = _find_region(kinds, start, end, interval)
            if region:
                regions.append(replace(region, first=region.first - len(left_out)))
                left_out |= set(range(region.second, region.second + region.left_out))
        stack_start = stack_end
    return regions, left_out


def _split(start: int, end: int, at: int) -> list[tuple[int, int]]:
    return [(start, at), (at, end)] if start < at < end else [(start, end)]


def _find_region(kinds: Sequence[LayerKind], start: int, end: int, interval: int) -> Region | None:
    """Where periods can be left out among layers `start` to `end` of the deep network; numbered as in it."""
    first = start + FIRST_LAYERS
    for pattern in range(1, MAX_PERIOD + 1):
        period = math.lcm(pattern, interval)
        more = (end - first - LAST_LAYERS) // period - 2
        if (
            period <= MAX_PERIOD
            and more > 0
            and all(kinds[n] == kinds[n + pattern] for n in range(first, end - pattern))
        ):
            return Region(first, period, more)
    return None


def _shorten(config: PreTrainedConfig, depths: Sequence[int], left_out: set[int]) -> PreTrainedConfig | None:
    """The config without some layers; None where the names of its stacks' depths aren't known."""
    shallow = copy.deepcopy(config)
    inner = shallow.get_text_config()
    candidates = ENCODER_DECODER_DEPTHS if config.is_encoder_decoder else (("num_hidden_layers",),)
    names = next((names for names in candidates if all(hasattr(inner, name) for name in names)), None)
    if names is None or any(getattr(inner, name) != depth for name, depth in zip(names, depths)):
        return None
    for name, value in list(vars(inner).items()):
        if isinstance(value, (list, tuple)) and len(value) == sum(depths):  # a value for each layer
            vars(inner)[name] = [one for n, one in enumerate(value) if n not in left_out]
    start = 0
    for name, depth in zip(names, depths):
        setattr(inner, name, depth - len(left_out & set(range(start, start + depth))))
        start += depth
    return shallow


def _shallow_lora(lora: Lora, adapted: int, depth: int, left_out: set[int]) -> Lora:
    """LoRA's settings for the shallow network.

    Of the deep network's `depth` layers, the last `adapted` have adapters (0: all).
    """
    if not adapted:
        return replace(lora, layers=0)
    return replace(lora, layers=adapted - sum(n >= depth - adapted for n in left_out))


def _kind(layer: nn.Module) -> Iterator[tuple[Any, ...]]:
    """All that a layer's computation and its weights' shapes depend on, module by module."""
    for name, module in layer.named_modules():
        plain = tuple(
            (k, v)
            for k, v in vars(module).items()
            if isinstance(v, (bool, int, float, str)) and k not in ("layer_idx", "layer_id", "layer_number", "training")
        )
        tensors = compat.own_tensors(module)
        shapes = tuple((k, tensor.shape, tensor.dtype) for k, tensor in tensors if tensor is not None)
        yield name, type(module), plain, shapes
