"""The allocation trace against an independent count of every storage, and what it books where."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import toy_config

from playground.memory import constants
from playground.memory.ledger import tensors_by_part
from playground.predict import allocation_trace, meta_kernels, meta_model
from playground.predict.allocation_trace import UNKNOWN, AllocationTrace, booked_as, bytes_by_part, peak
from playground.predict.call_cache import CallCache
from playground.settings import Load, Lora, Settings, Train
from playground.train.prepare import make_trainable


class StorageCount(TorchDispatchMode):
    """Counts the bytes of all storages that operators made and that are alive, anew after every operator.

    It shares nothing with the trace but the operators' replacements on the meta device.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return False if args[0].dtype == torch.bool else 1
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if is_meta(leaf)}
        result = meta_kernels.REPLACEMENTS.get(function, function)(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if is_meta(leaf) and leaf.untyped_storage()._cdata not in inputs:
                storage = leaf.untyped_storage()
                self._storages[storage._cdata] = StorageWeakRef(storage), -(-storage.nbytes() // 512) * 512
        self.peak = max(self.peak, self.alive())
        return result

    def alive(self) -> int:
        """Bytes of the storages alive now."""
        self._storages = {cdata: one for cdata, one in self._storages.items() if not one[0].expired()}
        return sum(size for _, size in self._storages.values())


def is_meta(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta


def training_steps(family: str, bits: int, method: str, checkpointing: bool) -> tuple[nn.Module, Callable[[], None]]:
    """A toy on the meta device, and two training steps on it; their gradients are kept."""
    settings = Settings(load=Load(bits=bits), lora=Lora(r=4), train=Train(method=method))
    loaded = meta_model.build_loaded(toy_config(family), settings.load, torch.bfloat16, "cuda")
    make_trainable(loaded, settings)
    model = loaded.model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def run() -> None:
        model.zero_grad()
        for tokens in (24, 33):
            ids = torch.zeros(2, tokens, dtype=torch.long, device="meta")
            model(input_ids=ids, labels=ids).loss.backward()

    return model, run


def counted(run: Callable[[], None]) -> tuple[int, int]:
    """The most bytes alive at once of all that operators made, and the bytes alive in the end."""
    meta_kernels.install()
    try:
        with StorageCount() as count:
            run()
    finally:
        meta_kernels.uninstall()
    gc.collect()
    return count.peak, count.alive()


def traced(model: nn.Module, run: Callable[[], None]) -> tuple[int, int]:
    """The same by the allocation trace, without the weights."""
    trace = AllocationTrace()
    for _, tensor in tensors_by_part(model):
        trace.book("weights", tensor)
    weights = sum(event.size for event in trace.events)
    with trace:
        run()
    gc.collect()
    return peak(trace.events)[0] - weights, sum(event.change for event in trace.events) - weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "bits", "method", "checkpointing"),
    [
        ("llama", 4, "lora", True),
        ("gpt_neox", 16, "full", False),
        ("bloom", 16, "lora", True),
        ("falcon", 16, "lora", False),
        ("mixtral", 16, "full", False),
    ],
)
def test_totals_equal_a_count_of_every_storage(family, bits, method, checkpointing, monkeypatch):
    monkeypatch.setattr(constants, "kernel_temporaries", lambda *_: ())  # allocated by no operator, so not countable
    monkeypatch.setattr(allocation_trace, "call_cache", CallCache())
    model, run = training_steps(family, bits, method, checkpointing)
    expected = counted(run)
    assert 0 < expected[1] < expected[0]
    assert traced(model, run) == expected, "with no call known"
    known = len(allocation_trace.call_cache)
    assert traced(model, run) == expected, "with all calls known"
    assert len(allocation_trace.call_cache) == known > 100  # the second trace made no call of a new kind


def test_a_known_call_is_not_run_again(monkeypatch):
    cache, runs = CallCache(), []
    add = torch.ops.aten.add.Tensor
    replacement = lambda *args: (runs.append(1), add(*args))[1]  # noqa: E731
    monkeypatch.setitem(meta_kernels.REPLACEMENTS, add, replacement)
    a, b = torch.empty(3, 4, device="meta", dtype=torch.bfloat16), torch.empty(4, device="meta", dtype=torch.bfloat16)
    (first, work), (second, same) = cache.call(add, (a, b), {}), cache.call(add, (a, b), {})
    assert len(runs) == 1 and first is not second and work == same
    assert (first.shape, first.stride(), first.dtype) == (second.shape, second.stride(), second.dtype)
    cache.call(add, (a, b.float()), {})
    assert len(runs) == 2  # another type, so another kind of call


def test_views_and_writes_in_place_allocate_nothing():
    trace = AllocationTrace()
    with trace:
        x = torch.empty(1000, 64, device="meta")
        for _ in range(2):
            x.add_(1.0)
            torch.ops.aten._unsafe_view(x, [64, 1000])
            x.t()
    assert [event.size for event in trace.events] == [x.nbytes]


def test_a_block_is_freed_when_its_last_reference_goes():
    trace = AllocationTrace()
    with trace:
        for _ in range(3):
            product = torch.empty(1000, device="meta") * 2
            del product
    assert bytes_by_part(trace.events) == {} and peak(trace.events) == (2 * 4096, {"buffers": 2 * 4096})


def test_a_tensor_is_booked_once_under_its_last_part():
    trace = AllocationTrace()
    weight = torch.empty(1000, device="meta")
    with trace, booked_as(trace, "activations"):
        copy = weight * 1
    trace.book("weights", weight)
    trace.book("gradients", copy)
    trace.book("gradients", copy)
    assert bytes_by_part(trace.events) == {"weights": 4096, "gradients": 4096} and trace.part == "buffers"


def test_a_fork_leaves_the_original_trace_as_it_was():
    trace = AllocationTrace()
    trace.allocate(512, "weights")
    fork = trace.fork()
    fork.allocate_and_free(1000)
    assert len(trace.events) == 1 and [event.change for event in fork.events] == [512, 1024, -1024]


def test_events_belong_to_the_layer_whose_weight_was_used_last():
    weights = [torch.empty(8, 8, device="meta") for _ in range(2)]
    trace = AllocationTrace()
    for layer, weight in enumerate(weights):
        trace.assign_layer(layer, [weight])
    hidden = torch.empty(4, 8, device="meta")
    with trace:
        for weight in weights:
            hidden = (hidden @ weight) + 1
    assert trace.events[0].layer == 0 and trace.layer == 1
    assert [event.layer for event in trace.events_by_layer() if not event.is_free] == [0, 0, 1, 1]
    assert trace.layer_of(hidden) == 1


def test_unordered_frees_are_sorted_by_layer_and_block():
    trace = AllocationTrace()
    blocks = []
    for layer in (0, 1):
        trace.layer = layer
        blocks.append(trace.allocate(512, "activations"))
    trace.layer = UNKNOWN
    for block in reversed(blocks):
        trace.free(block)
    assert [event.block for event in trace.events] == [0, 1, 1, 0]
    assert [event.block for event in trace.events_by_layer()] == [0, 1, 0, 1]


def test_heads_that_are_not_shared_allocate_the_square_of_scores():
    """Falcon has one head of keys for all queries, which no kernel takes: the scores are allocated."""
    query, key = (torch.empty(1, heads, 256, 16, device="meta", dtype=torch.bfloat16) for heads in (8, 1))
    peaks = []
    for shared in (True, False):
        trace = AllocationTrace()
        with torch.no_grad(), trace:
            torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=shared)
        peaks.append(peak(trace.events)[0])
    assert peaks[1] > 2 * 8 * 256 * 256 * 4 > peaks[0]


def test_torchs_own_attention_and_dropout_are_back_after_a_trace():
    with AllocationTrace():
        assert torch.nn.functional.dropout is meta_kernels.dropout
    assert torch.nn.functional.dropout is meta_kernels.TORCH_DROPOUT
    assert torch.nn.functional.scaled_dot_product_attention is meta_kernels.TORCH_ATTENTION
