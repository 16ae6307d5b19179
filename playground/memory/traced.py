"""A network of shapes under a tape: of few layers where they can stand for all (few.py), of all where they can't; and what was asked before is remembered."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps

import torch
from transformers import PreTrainedConfig

from playground.errors import PlaygroundError
from playground.memory import shape
from playground.memory.few import Few, Unalike, few, layers, stretched
from playground.memory.trace import OUTSIDE, Tape
from playground.model.load import Loaded
from playground.model.tensors import tensors
from playground.settings import Load, Settings
from playground.train.layers import Dial

REMEMBERED = 256  # predictions of a phase
KEPT = 12  # networks of few layers, some MB each


@dataclass(frozen=True)
class Place:
    """Where it is to run. device: "cuda" or "cpu"; dtype: what is computed in; capacity: bytes of that memory, 0: no limit."""

    device: str
    dtype: torch.dtype
    capacity: int = 0


def remembered(predict: Callable) -> Callable:
    """The same function, which answers for the same config and arguments without asking again; but for `tune`, all of the settings that count is how the model is loaded."""
    answers: OrderedDict[tuple, dict] = OrderedDict()
    tunes = predict.__name__ == "tune"

    @wraps(predict)
    def answer(config: PreTrainedConfig, settings: Settings, place: Place, *args, **more) -> dict:
        counts = (settings.load, settings.lora, settings.train, place) if tunes else (settings.load, replace(place, capacity=0))
        key = (shape.key(config), *counts, *map(_hashable, args), *((name, _hashable(value)) for name, value in more.items()))
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


class Deeper(Exception):
    """Every so many layers are computed twice, as was planned only now: more of them have to be traced."""

    def __init__(self, every: int):
        self.every = every


class Traced:
    """A network of shapes, and the tape of what it does, its weights there already unless it is `empty`. few: what it stands for; None: for itself."""

    def __init__(self, config: PreTrainedConfig, load: Load, place: Place, few: Few | None, empty: bool = False):
        self.held, self.tape, self.few = shape.held(few.config if few else config, load, place.dtype, place.device), Tape(), few
        if few:
            few.check(self.held.model)
        self.know()
        if not empty:
            hold_weights(self.tape, self.held)
        self.tape.layer = OUTSIDE
        self.weights = sum(size * self.count(layer) for (_, size, _), layer in zip(*self.tape.by_layers()))  # bytes, of the whole network

    def again(self) -> "Traced":
        """The same network with a tape of its own, that begins as this one ends."""
        other = copy.copy(self)
        other.tape = self.tape.again()
        for parameter in self.held.model.parameters():
            parameter.grad = None
        return other

    def know(self) -> None:
        """Tell the tape which layer each weight belongs to."""
        if self.few:
            stack, model = layers(self.held.model), self.held.model
            inside = {id(tensor) for layer in stack for _, tensor in tensors(layer)}
            self.tape.know(OUTSIDE, (tensor for _, tensor in tensors(model) if id(tensor) not in inside))
            for number, layer in enumerate(stack):
                self.tape.know(number, (tensor for _, tensor in tensors(layer)))

    def check(self, dial: Dial) -> None:
        """Raises Deeper if more layers are needed to stand for all under this dial."""
        every = every_of(dial.checkpointing)
        if self.few and self.few.every % every:
            raise Deeper(every)

    def count(self, layer: int) -> int:
        """How many layers of the whole network this one stands for."""
        return self.few.counts[layer] if self.few and layer != OUTSIDE else 1

    def events(self) -> list[tuple[int, int, str]]:
        """The whole network's. Raises Unalike where few layers can't stand for all."""
        return stretched(*self.tape.by_layers(), self.few.regions) if self.few else self.tape.events


_kept: OrderedDict[tuple, Traced] = OrderedDict()
_planned: dict[tuple, int] = {}  # of networks, by their layers' kinds: every how manieth layer `auto` last chose to compute twice


def every_of(checkpointing: str) -> int:
    return int(checkpointing) if checkpointing.isdigit() else 1


def of_few(trace: Callable, config: PreTrainedConfig, settings: Settings, place: Place, every: int = 1, begin: Callable = lambda traced, settings, place: None) -> dict:
    """What `trace` says of few layers, where they can stand for all, else of all. every: as of `few`.

    begin: what is done to a network first; few layers it is done to are kept. It depends on how the model is loaded, on
    what learns and on nothing else.
    """
    kinds = shape.whole(config, settings.load, place.dtype, place.device).kinds
    every = max(every, _planned.get(kinds, 1)) if settings.train.checkpointing == "auto" else every
    try:
        while fewer := few(config, settings, kinds, every):
            try:
                told = trace(_begun(config, place, fewer, begin), fewer.settings, place)
            except Deeper as error:
                every = error.every
                continue
            except Exception:
                _kept.clear()  # who knows in which state it was left
                raise
            if "checkpointing" in told:
                _planned[kinds] = every_of(told["checkpointing"])
                while len(_planned) > shape.REMEMBERED:
                    _planned.pop(next(iter(_planned)))
            return told
    except (Unalike, PlaygroundError):  # what is really wrong is so for all layers
        pass
    traced = Traced(config, settings.load, place, None)
    begin(traced, settings, place)
    return trace(traced, settings, place)


def _begun(config: PreTrainedConfig, place: Place, fewer: Few, begin: Callable) -> Traced:
    """That network once it has begun, kept from before if it is among the last ones."""
    chosen = fewer.settings
    key = (shape.key(fewer.config), fewer.regions, fewer.every, place.device, place.dtype, begin, chosen.load, chosen.lora, chosen.train.method, chosen.train.seed)
    if key not in _kept:
        made = Traced(config, chosen.load, place, fewer)
        begin(made, chosen, place)
        _kept[key] = made
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key].again()


def hold_weights(tape: Tape, held: Loaded) -> None:
    for part, tensor in tensors(held.model):
        tape.hold(part, tensor)
