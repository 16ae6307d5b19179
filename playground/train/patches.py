"""Swap in memory-efficient linear layers, rotary embedding and RMSNorm while a model trains.

Each replacement is used only where it computes what the model's own code computes, and all of it is undone when the
context ends.
"""

import contextlib
from collections.abc import Iterator, Mapping

from torch import nn

from playground.train.linear import efficient_linears
from playground.train.norms import efficient_norms
from playground.train.rotary import patch_rotary


@contextlib.contextmanager
def patch_modules(model: nn.Module, base: nn.Module) -> Iterator[None]:
    """Compute with the memory-efficient replacements. model: what is trained; base: the language model in it."""
    with swap_classes({**efficient_linears(model), **efficient_norms(base)}), patch_rotary(base):
        yield


@contextlib.contextmanager
def swap_classes(replacements: Mapping[nn.Module, type]) -> Iterator[None]:
    """Give each module another class, a subclass of its own, and restore all classes at the end."""
    originals = {module: type(module) for module in replacements}
    try:
        for module, replacement in replacements.items():
            module.__class__ = replacement
        yield
    finally:
        for module, original in originals.items():
            module.__class__ = original
