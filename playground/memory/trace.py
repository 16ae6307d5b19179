"""The tape: every tensor that code makes and drops, recorded while it runs on torch's meta device.

Meta tensors have a shape and no values, so a 7 B model takes no memory and a training step a second, and yet it is the
program's own code that runs: what autograd keeps, what a layer that is computed again makes anew, is there. What a tape
can't see, because a kernel takes it by itself, stands in table.py.
"""

import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import bitsandbytes  # noqa: F401  its operators
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from playground.memory import table

TORCHS = functional.scaled_dot_product_attention
ROUND = 512  # bytes; torch's caching allocator gives multiples of it


class Tape(TorchDispatchMode):
    """Within it, `events` grows: (name, bytes, part) where a storage is made, (name, -bytes, part) where it is dropped.

    `part` is the name under which what is made now is booked. Storages that were there before are told of by `hold`.
    """

    def __init__(self):
        super().__init__()
        self.events: list[tuple[int, int, str]] = []
        self.part = "buffers"
        self._live: dict[int, int] = {}  # a storage's address → where its making stands in `events`, which also is its name

    def __enter__(self):
        functional.scaled_dot_product_attention = _attention
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        functional.scaled_dot_product_attention = TORCHS

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        made = WITHOUT_OUTLIERS.get(function, function)(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._note(tensor, "buffers" if function.namespace == "bitsandbytes" else self.part)
        for size in table.taken_within(function, args, made):
            self.passing(size)
        return made

    def hold(self, part: str, tensor: torch.Tensor) -> None:
        """Book a tensor under `part`, whether it was made outside or is known under another."""
        at = self._live.get(tensor.untyped_storage()._cdata)
        if at is None:
            self._note(tensor, part)
        else:
            self.events[at] = (*self.events[at][:2], part)

    def keep(self, size: int, part: str) -> None:
        """Something that is taken now and stays."""
        self.events.append((len(self.events), _rounded(size), part))

    def passing(self, size: int, part: str = "buffers") -> None:
        """Something that a kernel takes and gives back by itself."""
        self.keep(size, part)
        name, taken, _ = self.events[-1]
        self.events.append((name, -taken, part))

    def _note(self, tensor: torch.Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._live or not storage.nbytes():
            return
        self._live[storage._cdata] = len(self.events)
        self.keep(storage.nbytes(), part)
        weakref.finalize(storage, self._drop, storage._cdata).atexit = False

    def _drop(self, address: int) -> None:
        name, size, part = self.events[self._live.pop(address)]
        self.events.append((name, -size, part))


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
def booked(tape: Tape, part: str) -> Iterator[None]:
    """Within it, what is made is booked under `part`."""
    before, tape.part = tape.part, part
    try:
        yield
    finally:
        tape.part = before


def book_decoder(tape: Tape, decoder: nn.Module) -> list:
    """What a decoder makes is its activations, what comes after it the loss's; returns the hooks to be removed."""

    def begins(*_):
        tape.part = "activations"

    def ends(*_):
        tape.part = "loss"

    return [decoder.register_forward_pre_hook(begins, with_kwargs=True), decoder.register_forward_hook(ends)]


def _in_8_bits(rows: torch.Tensor, threshold: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, None]:
    empty = functools.partial(torch.empty, device="meta")
    return empty(rows.shape, dtype=torch.int8), empty(rows.shape[:-1].numel(), dtype=torch.float32), None


def _product_in_8_bits(rows: torch.Tensor, codes, weight: torch.Tensor, *_) -> tuple[torch.Tensor, None]:
    return torch.empty(*rows.shape[:-1], weight.shape[0], dtype=rows.dtype, device="meta"), None


# LLM.int8()'s own operators as if no activation were an outlier: how many are is in the values
WITHOUT_OUTLIERS = {
    torch.ops.bitsandbytes.int8_vectorwise_quant.default: _in_8_bits,
    torch.ops.bitsandbytes.int8_mixed_scaled_mm.default: _product_in_8_bits,
}


def _attention(query, *args, **kwargs):
    """Attention as CUDA has it: torch's meta device would compute it step by step, with a square of scores."""
    return (_fused if query.is_meta else TORCHS)(query, *args, **kwargs)


def _fused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The kernel that torch chooses on CUDA: flash where there is no mask, in half precision; else the memory-efficient one.

    shapes: (rows, heads, tokens, size)
    """
    aten, half = torch.ops.aten, query.dtype in (torch.float16, torch.bfloat16)
    if attn_mask is None and half and query.shape[-1] <= 256 and query.shape[-1] == value.shape[-1]:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    bias = None
    if attn_mask is not None:
        bias = torch.zeros(attn_mask.shape, dtype=query.dtype, device="meta") if attn_mask.dtype == torch.bool else attn_mask
        bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    needs = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(query, key, value, bias, needs, dropout_p, is_causal, scale=scale)[0]


def _rounded(size: int) -> int:
    return -(-size // ROUND) * ROUND
