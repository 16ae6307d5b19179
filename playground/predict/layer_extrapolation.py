"""A deep network's tape from that of a shallow one: layers are alike, so a few are traced and stand for all of them.

`few` leaves out of a config whole periods of layers that are alike (a period is one layer, or a pattern of several: windows,
layers that are computed twice). The tape of what is left notes which layer each event belongs to (trace.py). In every pass
over the layers, forward or backward, two neighbouring periods must be the same, event by event; what was left out is put
between them. Where they aren't, or where anything else drops what they made, there is no answer, and all layers are traced.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from playground.settings import Settings

MAX_PERIOD = 12  # layers of a period; a longer one saves little
DEPTHS = (
    ("num_layers", "num_decoder_layers"),
    ("encoder_layers", "decoder_layers"),
)  # what configs with an encoder call them
FIRST_LAYERS, LAST_LAYERS = (
    2,
    1,
)  # layers at a stack's beginning and end that are as no other: the first one's input learns nothing, which the second one's backward pass ends with


class LayersDiffer(Exception):
    """Layers that should be the same weren't."""


@dataclass(frozen=True)
class Region:
    """Of the shallow network: from layer `first` on two periods that are alike, between which `more` others were left out."""

    first: int
    period: int
    more: int

    @property
    def end(self) -> int:
        return self.first + 2 * self.period


@dataclass(frozen=True)
class ShallowModel:
    """A shallow network that stands for a deep one: its config, the settings that do to it what those asked for do to the deep one, and what was left out."""

    config: PreTrainedConfig
    settings: Settings
    regions: tuple[Region, ...]
    every: int  # so many layers may be treated in turn
    kinds: tuple  # of the layers that it has to have

    @cached_property
    def counts(self) -> list[int]:
        """How many layers of the deep network each layer stands for."""
        counts = [1] * len(self.kinds)
        for region in self.regions:
            counts[region.first : region.first + region.period] = [1 + region.more] * region.period
        return counts

    def check(self, model: PreTrainedModel) -> None:
        """Raises Unalike if its layers aren't those of the deep one."""
        if tuple(kind for stack in layer_kinds(model) for kind in stack) != self.kinds:
            raise LayersDiffer


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """A model's repeated layers, an encoder's before its decoder's."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def layer_kinds(model: PreTrainedModel) -> tuple[tuple, ...]:
    """Of each stack what each of its layers is: equal for layers that compute the same on weights of the same shapes."""
    stacks: dict[str, list[tuple]] = {}
    config, total = model.config.get_text_config(), len(repeated_layers(model))
    listed = [value for value in vars(config).values() if isinstance(value, (list, tuple)) and len(value) == total]
    named = [
        (name.rpartition(".")[0], m) for name, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)
    ]
    for n, (stack, layer) in enumerate(named):
        stacks.setdefault(stack, []).append((*(str(value[n]) for value in listed), *_kind(layer)))
    return tuple(map(tuple, stacks.values()))


def shallow_model(
    config: PreTrainedConfig, settings: Settings, kinds: tuple[tuple, ...], every: int = 1
) -> ShallowModel | None:
    """As few layers as stand for all, each `every`-th of which is treated apart; None where none can be left out.

    kinds: of the whole network.
    """
    all_of, stacks = [kind for stack in kinds for kind in stack], [len(stack) for stack in kinds]
    named = [word for name in settings.lora.target_modules.split(",") for word in name.strip().split(".")]
    if any(word.isdigit() for word in named) or len(stacks) != 1 + config.is_encoder_decoder:
        return None
    last = settings.lora.layers if settings.train.method == "lora" and settings.lora.layers < len(all_of) else 0
    regions, left_out, short, at = [], set(), [], 0
    for size in stacks:
        short.append(size)
        for start, end in _split(at, at + size, len(all_of) - last if last else 0):
            region = _region(all_of, start, end, every)
            if region:
                regions.append(replace(region, first=region.first - len(left_out)))
                left_out |= set(range(region.first + region.period, region.first + region.period * (1 + region.more)))
                short[-1] -= region.period * region.more
        at += size
    cut = _cut(config, stacks, short, left_out) if regions else None
    if cut is None:
        return None
    kept = tuple(kind for n, kind in enumerate(all_of) if n not in left_out)
    lora = (
        replace(settings.lora, layers=last - sum(n >= len(all_of) - last for n in left_out))
        if last
        else replace(settings.lora, layers=0)
    )
    return ShallowModel(cut, replace(settings, lora=lora), tuple(regions), every, kept)


def extrapolate(
    events: Sequence[tuple[int, int, str]], labels: Sequence[int], regions: Sequence[Region]
) -> list[tuple[int, int, str]]:
    """The deep network's events, of the shallow one's and the layer of each (-1: none). Raises Unalike."""
    events, labels = list(events), list(labels)
    for region in reversed(regions):  # the last first, so that the numbers of those before it stay
        events, labels = _stretch(events, labels, region)
    return events


# --- which layers are left out ---


def _kind(layer: nn.Module) -> Iterator[tuple]:
    for name, module in layer.named_modules():
        plain = tuple(
            (k, v)
            for k, v in vars(module).items()
            if isinstance(v, (bool, int, float, str)) and k not in ("layer_idx", "layer_id", "layer_number", "training")
        )
        loaded = tuple(
            (k, t.shape, t.dtype) for k, t in (*module._parameters.items(), *module._buffers.items()) if t is not None
        )
        yield name, type(module), plain, loaded


def _split(start: int, end: int, at: int) -> list[tuple[int, int]]:
    return [(start, at), (at, end)] if start < at < end else [(start, end)]


def _region(all_of: tuple, start: int, end: int, every: int) -> Region | None:
    """Where, among layers `start` to `end` of the deep network, periods can be left out."""
    first = start + FIRST_LAYERS
    for own in range(1, MAX_PERIOD + 1):
        period = math.lcm(own, every)
        more = (end - first - LAST_LAYERS) // period - 2
        if period <= MAX_PERIOD and more > 0 and all(all_of[n] == all_of[n + own] for n in range(first, end - own)):
            return Region(first, period, more)
    return None


def _cut(
    config: PreTrainedConfig, stacks: Sequence[int], short: Sequence[int], left_out: set[int]
) -> PreTrainedConfig | None:
    """The config with fewer layers in each stack; None where it isn't known what their numbers are called."""
    made = copy.deepcopy(config)
    inner = made.get_text_config()
    names = (
        next((names for names in DEPTHS if all(hasattr(inner, name) for name in names)), None)
        if config.is_encoder_decoder
        else ("num_hidden_layers",)
    )
    if names is None or any(getattr(inner, name) != size for name, size in zip(names, stacks)):
        return None
    for name, value in list(vars(inner).items()):
        if isinstance(value, (list, tuple)) and len(value) == sum(stacks):
            vars(inner)[name] = [one for n, one in enumerate(value) if n not in left_out]
    for name, size in zip(names, short):
        setattr(inner, name, size)
    return made


# --- what was left out is put back ---


def _stretch(events: list, labels: list, region: Region) -> tuple[list, list]:
    blocks, place = _blocks(labels, region)
    steps = {key: _steps(events, block, place, key[1]) for key, block in blocks.items()}
    second, shift = region.first + region.period, region.more * region.period
    deep, made = range(region.first, region.end + shift), _Written()
    between = {
        key: _alike(own, steps[key[0], key[1] + region.period], labels, key[1], region.period)
        for key, own in steps.items()
        if key[1] < second
    }
    at = 0
    while at < len(events):
        if at not in place:
            made.outside(
                at,
                events[at],
                place.get(events[at][0]),
                labels[at] + shift if labels[at] >= region.end else labels[at],
                lambda n: n if n < second else n + shift,
            )
            at += 1
            continue
        sweep, rises = place[at][0], place[at][1] == region.first
        for layer in deep if rises else reversed(deep):
            if layer < second:
                made.layer(sweep, layer, steps[sweep, layer])
            elif layer >= second + shift:
                made.layer(sweep, layer, steps[sweep, layer - shift])
            else:
                made.layer(sweep, layer, between[sweep, region.first + (layer - region.first) % region.period])
        at += sum(len(blocks[sweep, layer]) for layer in range(region.first, region.end))
    _check_dropped(made, blocks, region)
    return made.events, made.labels


class _Written:
    """The deep network's events as they are written. `names`: of what each layer of each pass makes, by its place there."""

    def __init__(self):
        self.events, self.labels = [], []
        self.names: dict[tuple[int, int], list[int]] = {}
        self._apart: dict[
            int, int
        ] = {}  # what is made outside the layers: its name in the shallow network's tape → in this one

    def outside(
        self, at: int, event: tuple[int, int, str], place: tuple | None, label: int, deep: Callable[[int], int]
    ) -> None:
        name, size, part = event
        if name == at:
            self._apart[at] = new = len(self.events)
        else:
            new = self.names[place[0], deep(place[1])][place[2]] if place else self._apart[name]
        self.events.append((new, size, part))
        self.labels.append(label)

    def layer(self, sweep: int, layer: int, steps: list[tuple]) -> None:
        own = self.names[sweep, layer] = list(range(len(self.events), len(self.events) + len(steps)))
        for new, (size, part, what) in zip(own, steps):
            if what is None:
                name = new
            elif isinstance(what, int):
                name = self._apart[what]
            else:
                name = self.names[what[0], layer + what[1]][what[2]]
            self.events.append((name, size, part))
        self.labels += [layer] * len(own)


def _blocks(labels: Sequence[int], region: Region) -> tuple[dict, dict]:
    """Of each pass over the region's layers, each layer's events: {(pass, layer): [at]}; and {at: (pass, layer, how manieth)}."""
    runs: list[tuple[int, int, int]] = []
    for at, label in enumerate(labels):
        if region.first <= label < region.end:
            if runs and runs[-1][0] == label and runs[-1][2] == at:
                runs[-1] = (label, runs[-1][1], at + 1)
            else:
                runs.append((label, at, at + 1))
    blocks, place, size, wanted = {}, {}, 2 * region.period, list(range(region.first, region.end))
    for sweep, n in enumerate(range(0, len(runs), size)):
        part = runs[n : n + size]
        if [run[0] for run in part] not in (wanted, wanted[::-1]) or any(a[2] != b[1] for a, b in pairwise(part)):
            raise LayersDiffer
        for layer, start, end in part:
            blocks[sweep, layer] = range(start, end)
            place.update((at, (sweep, layer, at - start)) for at in range(start, end))
    return blocks, place


def _steps(events: list, block: range, place: dict, layer: int) -> list[tuple]:
    """A layer's events: (bytes, part, what). What: None where it is made; of what is dropped (pass, layers away, how manieth), or outside the region its name."""
    steps = []
    for at in block:
        name, size, part = events[at]
        found = place.get(name)
        steps.append((size, part, None if name == at else (found[0], found[1] - layer, found[2]) if found else name))
    return steps


def _alike(one: list[tuple], other: list[tuple], labels: Sequence[int], layer: int, period: int) -> list[tuple]:
    """What `layer` and the one a period later both do. Beside the region's edge one of them drops what a layer outside made."""
    if len(one) != len(other):
        raise LayersDiffer
    both = []
    for mine, its in zip(one, other):
        if mine != its:
            away = next((step[2] for step in (mine, its) if isinstance(step[2], tuple)), None)
            edge = [(step[2], n) for step, n in ((mine, layer), (its, layer + period)) if isinstance(step[2], int)]
            if mine[:2] != its[:2] or away is None or len(edge) != 1 or labels[edge[0][0]] != edge[0][1] + away[1]:
                raise LayersDiffer
            mine = (*mine[:2], away)
        elif isinstance(mine[2], int):
            raise LayersDiffer
        both.append(mine)
    return both


def _check_dropped(made: _Written, blocks: dict, region: Region) -> None:
    """Raises Unalike unless of what was put in the same is dropped, sooner or later, as of its neighbours."""
    gone = {name for name, size, _ in made.events if size < 0}
    shift = region.more * region.period
    for sweep, layer in blocks:
        if layer < region.first + region.period:
            fates = [
                [name in gone for name in made.names[sweep, n]] for n in range(layer, region.end + shift, region.period)
            ]
            if any(fate != fates[0] for fate in fates):
                raise LayersDiffer
