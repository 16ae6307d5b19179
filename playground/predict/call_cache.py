"""Run operators on the meta device, remembering the output shapes of calls that were made before.

A model has the same layers many times over, and torch works out many shapes in Python. With each kind of call worked
out once, a trace of 32 layers takes a third of the time. Views are left to torch, which makes them fast.
"""

import enum
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch

from playground import compat
from playground.predict import meta_kernels
from playground.predict.lru import LruCache
from playground.predict.operations import VIEW, Work, is_view, work_of

MAX_KNOWN_CALLS = 20_000  # kinds of calls, some 20 MB; a slider's move adds a few hundred


class Returns(enum.Enum):
    """What an operator's schema says about its results."""

    NEW_TENSORS = enum.auto()
    FIRST_ARGUMENT = enum.auto()  # written in place
    OTHER = enum.auto()


class TensorSpec(NamedTuple):
    """What it takes to make an equal meta tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class KnownCall(NamedTuple):
    """The results of a kind of call, None where it returns its first argument, and what it asks of a device."""

    outputs: tuple[TensorSpec | int | float | None, ...] | None
    is_tuple: bool
    work: tuple[Work, ...]


class CallCache:
    """Calls operators; a call like an earlier one gets its results from the remembered shapes."""

    def __init__(self, maxsize: int = MAX_KNOWN_CALLS):
        self._known: LruCache[KnownCall] = LruCache(maxsize)

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget all calls."""
        self._known.clear()

    def call(self, function: Any, args: tuple, kwargs: dict) -> tuple[Any, tuple[Work, ...]]:
        """What the operator returns for these arguments, and what it asks of a device."""
        run: Callable = meta_kernels.REPLACEMENTS.get(function, function)
        returns = returns_of(function)
        key = None if returns is Returns.OTHER else _call_key(function, args, kwargs)
        if key is None:
            result = run(*args, **kwargs)
            return result, VIEW if is_view(function) else work_of(function, args, kwargs, result)
        known = self._known.get(key)
        if known is not None:
            return (args[0] if known.outputs is None else _make_outputs(known)), known.work
        result = run(*args, **kwargs)
        work = work_of(function, args, kwargs, result)
        known = KnownCall(None, False, work) if returns is Returns.FIRST_ARGUMENT else _describe(result, args, work)
        if known is not None:
            self._known.put(key, known)
        return result, work


@functools.cache
def returns_of(function: Any) -> Returns:
    """What an operator returns, by its schema."""
    arguments, results = compat.operator_arguments(function)
    if not any(one.alias_info for one in (*arguments, *results)):
        return Returns.NEW_TENSORS
    if torch.Tag.inplace_view in function.tags:  # changes the shape of its argument
        return Returns.OTHER
    written = [one.alias_info is not None and one.alias_info.is_write for one in arguments]
    only_first = written[0] and sum(written) == 1 and len(results) == 1
    if only_first and results[0].alias_info and results[0].alias_info.is_write:
        return Returns.FIRST_ARGUMENT
    return Returns.OTHER


def _call_key(function: Any, args: tuple, kwargs: dict) -> Hashable:
    """All that the output shapes depend on; None where that isn't known."""
    of_args, of_kwargs = _signature(args), _signature(tuple(kwargs.items()))
    return None if of_args is None or of_kwargs is None else (function, of_args, of_kwargs)


def _signature(value: Any) -> Hashable:
    """An argument as far as output shapes depend on it; None for a tensor with values, on which they may depend."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.stride(), value.dtype) if value.is_meta else None
    if isinstance(value, (tuple, list)):
        parts = tuple(_signature(one) for one in value)
        return None if None in parts else (type(value), parts)
    return (type(value), value)


def _describe(result: Any, args: tuple, work: tuple[Work, ...]) -> KnownCall | None:
    """The results of an operator that returns new tensors; None if one of them can't be made again from its shape.

    `_unsafe_view` is such a one: it returns a view, and its schema doesn't say so.
    """
    inputs = {compat.storage_id(one) for one in args if isinstance(one, torch.Tensor)}
    outputs: list[TensorSpec | int | float | None] = []
    for one in result if isinstance(result, tuple) else (result,):
        if isinstance(one, torch.Tensor) and one.is_meta and compat.storage_id(one) not in inputs:
            outputs.append(TensorSpec(one.shape, one.stride(), one.dtype))
        elif one is None or isinstance(one, (int, float)):
            outputs.append(one)
        else:
            return None
    return KnownCall(tuple(outputs), isinstance(result, tuple), work)


def _make_outputs(known: KnownCall) -> Any:
    outputs = tuple(
        torch.empty_strided(one.shape, one.stride, dtype=one.dtype, device="meta")
        if isinstance(one, TensorSpec)
        else one
        for one in known.outputs or ()
    )
    return outputs if known.is_tuple else outputs[0]
