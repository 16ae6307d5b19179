"""The tape: every tensor that code makes and drops, recorded while it runs on torch's meta device.

Meta tensors have a shape and no values, so a 7 B model takes no memory and a training step a second, and yet it is the
program's own code that runs: what autograd keeps, what a layer that is computed again makes anew, is there. What a tape
can't see, because a kernel takes it by itself, stands in table.py.
"""

import functools
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from playground.memory import constants
from playground.predict import meta_kernels

OUTSIDE = -1  # of all layers
ROUND = 512  # bytes; torch's caching allocator gives multiples of it


class AllocationTrace(TorchDispatchMode):
    """Within it, `events` grows: (name, bytes, part) where a storage is made, (name, -bytes, part) where it is dropped.

    `part` is the name under which what is made now is booked. Storages that were there before are told of by `hold`. Once it
    knows a network's layers (`know`), it notes which of them each event belongs to: the one whose weight was last looked at.
    """

    def __init__(self):
        super().__init__()
        self.events: list[tuple[int, int, str]] = []
        self.part = "buffers"
        self.layer: int | None = None  # that works now; OUTSIDE: none; None: not known
        self._live: dict[
            int, int
        ] = {}  # a storage's address → where its making stands in `events`, which also is its name
        self._layers: list[int | None] = []  # of each event
        self._owners: dict[int, int] = {}  # the address of a weight's storage → its layer
        self._loose: list[bool] = []  # of each event, whether it is something dropped while no layer works
        self._copied: dict[int, int] = {}  # where something was made while no layer was known → where its original was

    def __enter__(self):
        functional.scaled_dot_product_attention, functional.dropout = meta_kernels.attention, meta_kernels.dropout
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        functional.scaled_dot_product_attention, functional.dropout = (
            meta_kernels.TORCH_ATTENTION,
            meta_kernels.TORCH_DROPOUT,
        )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return False if args[0].dtype == torch.bool else 1  # whether no row is padded: some are
        if self._owners:
            self._look(function, args)
        made = _made(function, args, kwargs or {})
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._note(
                    tensor, "buffers" if function.namespace == "bitsandbytes" else self.part, args[0] if args else None
                )
        for size in constants.kernel_temporaries(function, args, made):
            self.passing(size)
        return made

    def hold(self, part: str, tensor: torch.Tensor) -> None:
        """Book a tensor under `part`, whether it was made outside or is known under another."""
        address = tensor.untyped_storage()._cdata
        self.layer, at = self._owners.get(address, self.layer), self._live.get(address)
        if at is None:
            self._note(tensor, part)
        else:
            self.events[at] = (*self.events[at][:2], part)

    def keep(self, size: int, part: str) -> int:
        """Something that is taken now and stays until `drop`; returns its name."""
        self.events.append((len(self.events), _rounded(size), part))
        self._layers.append(self.layer)
        self._loose.append(False)
        return len(self.events) - 1

    def drop(self, name: int) -> None:
        """What is known under that name is given back."""
        _, size, part = self.events[name]
        self.events.append((name, -size, part))
        loose = self.layer in (None, OUTSIDE)
        self._loose.append(loose)
        self._layers.append(self._layers[name] if loose else self.layer)

    def passing(self, size: int, part: str = "buffers") -> None:
        """Something that a kernel takes and gives back by itself."""
        self.drop(self.keep(size, part))

    def know(self, layer: int, tensors: Iterable[torch.Tensor]) -> None:
        """These belong to that layer (OUTSIDE: to none), and so does the making of those that were made under this tape."""
        for tensor in tensors:
            address = tensor.untyped_storage()._cdata
            self._owners[address] = layer
            at = self._live.get(address)
            while at is not None and self._layers[at] is None:
                self._layers[at] = layer
                at = self._copied.get(at)

    def of(self, tensor: torch.Tensor) -> int:
        """The layer that a tensor belongs to or was made in; OUTSIDE for none."""
        address = tensor.untyped_storage()._cdata
        at = self._live.get(address)
        known = self._owners.get(address, self._layers[at] if at is not None else None)
        return OUTSIDE if known is None else known

    def by_layers(self) -> tuple[list[tuple[int, int, str]], list[int]]:
        """The events and the layer of each. Of what was made before layers were known, it is the one that was made before it.

        What is dropped in a row while no layer works is put in order: Python frees a deep graph in whichever it likes, and what
        is free in the end is the same.
        """
        events, found = list(self.events), []
        for (name, _, _), layer in zip(events, self._layers):
            own = found[name] if layer is None and name < len(found) else None
            found.append(
                layer if layer is not None else own if own not in (None, OUTSIDE) else found[-1] if found else OUTSIDE
            )
        for loose, run in groupby(range(len(events)), self._loose.__getitem__):
            if loose:
                run = list(run)
                order = sorted(run, key=lambda at: (found[at], events[at][0]))
                events[run[0] : run[-1] + 1], found[run[0] : run[-1] + 1] = (
                    [events[at] for at in order],
                    [found[at] for at in order],
                )
        return events, found

    def again(self) -> "AllocationTrace":
        """Another tape that begins as this one ends. What is there stays there: that it is dropped would be told to this one."""
        other = AllocationTrace()
        other.part, other.layer = self.part, self.layer
        other.events, other._layers, other._loose = list(self.events), list(self._layers), list(self._loose)
        other._live, other._owners, other._copied = dict(self._live), dict(self._owners), dict(self._copied)
        return other

    def _look(self, function, args: tuple) -> None:
        """Whose weights an operator is given: their layer works now."""
        if function.__name__.startswith("_foreach"):  # of all layers at once
            self.layer = OUTSIDE
        for one in args:
            if isinstance(one, torch.Tensor):
                owner = self._owners.get(one.untyped_storage()._cdata)
                if owner is not None:
                    self.layer = owner
                    return

    def _note(self, tensor: torch.Tensor, part: str, original=None) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._live or not storage.nbytes():
            return
        if self.layer is None and isinstance(original, torch.Tensor):
            self._copied[len(self.events)] = self._live.get(original.untyped_storage()._cdata)
        self._live[storage._cdata] = len(self.events)
        self.keep(storage.nbytes(), part)
        weakref.finalize(storage, self._gone, storage._cdata).atexit = False

    def _gone(self, address: int) -> None:
        self.drop(self._live.pop(address))
        self._owners.pop(address, None)


def peak(events: list[tuple[int, int, str]]) -> tuple[int, dict[str, int]]:
    """The most bytes that were there at once, and by part at that moment."""
    now, most, at, parts = 0, 0, -1, {}
    for n, (_, size, _part) in enumerate(events):
        now += size
        if now > most:
            most, at = now, n
    for _, size, part in events[: at + 1]:
        parts[part] = parts.get(part, 0) + size
    return most, {part: size for part, size in parts.items() if size}


@contextmanager
def booked_as(tape: AllocationTrace, part: str) -> Iterator[None]:
    """Within it, what is made is booked under `part`."""
    before, tape.part = tape.part, part
    try:
        yield
    finally:
        tape.part = before


def book_layer_stack(tape: AllocationTrace, stack: nn.Module) -> list:
    """What a stack of layers makes is its activations, what comes after it the loss's; returns the hooks to be removed."""

    def begins(*_):
        tape.part = "activations"

    def ends(*_):
        tape.part = "loss"

    return [stack.register_forward_pre_hook(begins, with_kwargs=True), stack.register_forward_hook(ends)]


# --- what an operator makes ---


def _made(function, args: tuple, kwargs: dict):
    """What the operator returns; shapes that it made for like arguments before aren't worked out again.

    A model has its layers many times over, and torch works out many a shape in Python: asked once a kind of call, a tape
    of 32 layers takes a third of the time. Views are left to torch, which makes them fast.
    """
    how = _returns(function)
    key = (function, _likeness(args), _likeness(tuple(kwargs.items()))) if how else (None,)
    function = meta_kernels.REPLACEMENTS.get(function, function)
    if None in key:
        return function(*args, **kwargs)
    if key not in _known_calls:
        if len(_known_calls) >= MAX_KNOWN_CALLS:
            _known_calls.clear()
        made = function(*args, **kwargs)
        if how == "itself":
            _known_calls[key] = True
            return made
        parts = made if isinstance(made, tuple) else (made,)
        taken = {one.untyped_storage()._cdata for one in args if isinstance(one, torch.Tensor)}
        plain = all(
            one.untyped_storage()._cdata not in taken
            if isinstance(one, torch.Tensor) and one.is_meta
            else one is None or isinstance(one, (int, float))
            for one in parts
        )
        if not plain:  # _unsafe_view, of which the schema doesn't say that it is one
            return made
        _known_calls[key] = (
            isinstance(made, tuple),
            [(one.shape, one.stride(), one.dtype) if isinstance(one, torch.Tensor) else one for one in parts],
        )
        return made
    if how == "itself":
        return args[0]
    several, parts = _known_calls[key]
    made = tuple(
        torch.empty_strided(one[0], one[1], dtype=one[2], device="meta") if isinstance(one, tuple) else one
        for one in parts
    )
    return made if several else made[0]


@functools.cache
def _returns(function) -> str:
    """By its schema: "fresh" tensors; "itself", what it wrote into, its first argument; "" for anything else."""
    takes, gives = function._schema.arguments, function._schema.returns
    if not any(part.alias_info for part in (*takes, *gives)):
        return "fresh"
    if torch.Tag.inplace_view in function.tags:  # changes what its argument looks like
        return ""
    written = [part.alias_info is not None and part.alias_info.is_write for part in takes]
    return (
        "itself"
        if len(gives) == 1 and written[0] and sum(written) == 1 and gives[0].alias_info and gives[0].alias_info.is_write
        else ""
    )


def _likeness(value):
    """What an operator's results' shapes depend on, hashable; None where that isn't known, such as for a tensor with values."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.stride(), value.dtype) if value.is_meta else None
    if isinstance(value, (tuple, list)):
        parts = tuple(_likeness(one) for one in value)
        return None if None in parts else (type(value), parts)
    return (type(value), value)


_known_calls: dict = {}
MAX_KNOWN_CALLS = 20_000  # kinds of calls that are remembered, some 20 MB; a slider's move brings a few hundred


def _rounded(size: int) -> int:
    return -(-size // ROUND) * ROUND
