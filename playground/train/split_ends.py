"""Split a model's embedding and head over the processes that train together, where its layers are split as bytes.

Both are matrices of numbers, outside of the layers, and used once a micro-batch each: gathered for that moment, and
freed after it. Of a head that is only read for the chunked loss (train/loss.py), which computes its gradient in the
forward pass, the backward pass needs nothing.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from playground import compat
from playground.train.loss import Loss


class SplitMatrix:
    """A frozen matrix of which this process keeps a share, and which is whole within `whole`.

    Outside of that, its parameter has the right shape and no memory.
    """

    def __init__(self, module: Any, rank: int, processes: int):
        self._parameter, matrix = module.weight, module.weight.data
        self._processes, numbers = processes, matrix.numel()
        share = -(-numbers // processes)
        own = matrix.reshape(-1)[rank * share : (rank + 1) * share]
        self._share = own.new_zeros(share)
        self._share[: own.numel()] = own
        self._holders = 0
        module.register_buffer("own_share", self._share, persistent=False)  # so that the ledger counts it
        self._free()

    def gather(self) -> None:
        """Make the matrix whole, which all processes have to do now."""
        self._holders += 1
        if self._holders == 1:
            shape = self._parameter.shape
            flat = self._share.new_empty(self._share.numel() * self._processes)
            compat.gather_shares(flat, self._share)
            self._parameter.data = flat[: shape.numel()].view(shape)

    def release(self) -> None:
        """End what `gather` began."""
        self._holders -= 1
        if not self._holders:
            self._free()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A context in which the matrix is whole."""
        self.gather()
        try:
            yield
        finally:
            self.release()

    def _free(self) -> None:
        self._parameter.data = self._share.new_zeros(1).expand(self._parameter.shape)


def end_modules(loss_module: Loss) -> list[Any]:
    """Head and embedding where they can be split; a matrix that is both comes once, as the head."""
    causal = loss_module.causal[0]
    head, embedding = causal.get_output_embeddings(), causal.get_input_embeddings()
    if not loss_module.chunked or not isinstance(embedding, nn.Embedding) or embedding.weight.requires_grad:
        return []
    used = [id(p) for _, p in causal.named_parameters(remove_duplicate=False)]
    tied = head.weight is embedding.weight
    if used.count(id(head.weight)) + used.count(id(embedding.weight)) != (4 if tied else 2):
        return []  # something else reads one of them too
    return [head] if tied else [head, embedding]


def split_ends(loss_module: Loss, rank: int, processes: int) -> None:
    """Split embedding and head, in place. On the meta device, for a prediction, only note what is gathered."""
    modules = end_modules(loss_module)
    if not modules:
        return
    loss_module.gathered_bytes = modules[0].weight.nbytes
    if modules[0].weight.is_meta:
        return
    matrices = [SplitMatrix(module, rank, processes) for module in modules]
    loss_module.whole_head = matrices[0].whole
    embedding = loss_module.causal[0].get_input_embeddings()
    embedding.register_forward_pre_hook(lambda *_: matrices[-1].gather())
    embedding.register_forward_hook(lambda *_: matrices[-1].release(), always_call=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the whole matrices took
