"""A network of shapes under a tape: of few layers where they can stand for all (few.py), of all where they can't; and what was asked before is remembered."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps

import torch
from transformers import PreTrainedConfig

from playground.errors import PlaygroundError
from playground.memory.ledger import tensors_by_part
from playground.model.load import LoadedModel
from playground.predict import meta_model
from playground.predict.allocation_trace import OUTSIDE, AllocationTrace
from playground.predict.layer_extrapolation import (
    LayersDiffer,
    ShallowModel,
    extrapolate,
    repeated_layers,
    shallow_model,
)
from playground.settings import Load, Settings
from playground.train.checkpointing import CheckpointPolicy

REMEMBERED = 256  # predictions of a phase
KEPT = 12  # networks of few layers, some MB each


@dataclass(frozen=True)
class Target:
    """Where it is to run. device: "cuda" or "cpu"; dtype: what is computed in; capacity: bytes of that memory, 0: no limit."""

    device: str
    dtype: torch.dtype
    capacity: int = 0


def cached_prediction(predict: Callable) -> Callable:
    """The same function, which answers for the same config and arguments without asking again; but for `tune`, all of the settings that count is how the model is loaded."""
    answers: OrderedDict[tuple, dict] = OrderedDict()
    tunes = predict.__name__ == "predict_tune"

    @wraps(predict)
    def answer(config: PreTrainedConfig, settings: Settings, place: Target, *args, **more) -> dict:
        counts = (
            (settings.load, settings.lora, settings.train, place)
            if tunes
            else (settings.load, replace(place, capacity=0))
        )
        key = (
            meta_model.config_key(config),
            *counts,
            *map(_hashable, args),
            *((name, _hashable(value)) for name, value in more.items()),
        )
        if key not in answers:
            answers[key] = predict(config, settings, place, *args, **more)
            while len(answers) > REMEMBERED:
                answers.popitem(last=False)
        answers.move_to_end(key)
        return answers[key] | {"parts": dict(answers[key]["parts"])}

    answer.answers = answers
    return answer


def _hashable(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


class MoreLayersNeeded(Exception):
    """Every so many layers are computed twice, as was planned only now: more of them have to be traced."""

    def __init__(self, every: int):
        self.every = every


class TracedModel:
    """A network of shapes, and the tape of what it does, its weights there already unless it is `empty`. few: what it stands for; None: for itself."""

    def __init__(
        self, config: PreTrainedConfig, load: Load, place: Target, shallow: ShallowModel | None, empty: bool = False
    ):
        self.loaded, self.tape, self.few = (
            meta_model.build_loaded(shallow.config if shallow else config, load, place.dtype, place.device),
            AllocationTrace(),
            shallow,
        )
        if shallow:
            shallow.check(self.loaded.model)
        self.know()
        if not empty:
            book_weights(self.tape, self.loaded)
        self.tape.layer = OUTSIDE
        self.weights = sum(
            size * self.count(layer) for (_, size, _), layer in zip(*self.tape.by_layers())
        )  # bytes, of the whole network

    def again(self) -> "TracedModel":
        """The same network with a tape of its own, that begins as this one ends."""
        other = copy.copy(self)
        other.tape = self.tape.again()
        for parameter in self.loaded.model.parameters():
            parameter.grad = None
        return other

    def know(self) -> None:
        """Tell the tape which layer each weight belongs to."""
        if self.few:
            stack, model = repeated_layers(self.loaded.model), self.loaded.model
            inside = {id(tensor) for layer in stack for _, tensor in tensors_by_part(layer)}
            self.tape.know(OUTSIDE, (tensor for _, tensor in tensors_by_part(model) if id(tensor) not in inside))
            for number, layer in enumerate(stack):
                self.tape.know(number, (tensor for _, tensor in tensors_by_part(layer)))

    def check(self, policy: CheckpointPolicy) -> None:
        """Raises Deeper if more layers are needed to stand for all under this dial."""
        every = checkpoint_interval(policy.checkpointing)
        if self.few and self.few.every % every:
            raise MoreLayersNeeded(every)

    def count(self, layer: int) -> int:
        """How many layers of the whole network this one stands for."""
        return self.few.counts[layer] if self.few and layer != OUTSIDE else 1

    def events(self) -> list[tuple[int, int, str]]:
        """The whole network's. Raises Unalike where few layers can't stand for all."""
        return extrapolate(*self.tape.by_layers(), self.few.regions) if self.few else self.tape.events


_kept: OrderedDict[tuple, TracedModel] = OrderedDict()
_planned: dict[
    tuple, int
] = {}  # of networks, by their layers' kinds: every how manieth layer `auto` last chose to compute twice


def checkpoint_interval(checkpointing: str) -> int:
    return int(checkpointing) if checkpointing.isdigit() else 1


def trace_shallow(
    trace: Callable,
    config: PreTrainedConfig,
    settings: Settings,
    place: Target,
    every: int = 1,
    begin: Callable = lambda traced, settings, place: None,
) -> dict:
    """What `trace` says of few layers, where they can stand for all, else of all. every: as of `few`.

    begin: what is done to a network first; few layers it is done to are kept. It depends on how the model is loaded, on
    what learns and on nothing else.
    """
    kinds = meta_model.model_facts(config, settings.load, place.dtype, place.device).kinds
    every = max(every, _planned.get(kinds, 1)) if settings.train.gradient_checkpointing == "auto" else every
    try:
        while fewer := shallow_model(config, settings, kinds, every):
            try:
                told = trace(_begun(config, place, fewer, begin), fewer.settings, place)
            except MoreLayersNeeded as error:
                every = error.every
                continue
            except Exception:
                _kept.clear()  # who knows in which state it was left
                raise
            if "checkpointing" in told:
                _planned[kinds] = checkpoint_interval(told["checkpointing"])
                while len(_planned) > meta_model.REMEMBERED:
                    _planned.pop(next(iter(_planned)))
            return told
    except (LayersDiffer, PlaygroundError):  # what is really wrong is so for all layers
        pass
    traced = TracedModel(config, settings.load, place, None)
    begin(traced, settings, place)
    return trace(traced, settings, place)


def _begun(config: PreTrainedConfig, place: Target, fewer: ShallowModel, begin: Callable) -> TracedModel:
    """That network once it has begun, kept from before if it is among the last ones."""
    chosen = fewer.settings
    key = (
        meta_model.config_key(fewer.config),
        fewer.regions,
        fewer.every,
        place.device,
        place.dtype,
        begin,
        chosen.load,
        chosen.lora,
        chosen.train.method,
        chosen.train.seed,
    )
    if key not in _kept:
        made = TracedModel(config, chosen.load, place, fewer)
        begin(made, chosen, place)
        _kept[key] = made
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key].again()


def book_weights(tape: AllocationTrace, loaded: LoadedModel) -> None:
    for part, tensor in tensors_by_part(loaded.model):
        tape.hold(part, tensor)
