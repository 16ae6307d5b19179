"""Streamed layers on CUDA: to the bit what resident layers compute, within the memory of two buffers."""

import gc
import threading

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

from streamed_toys import KINDS, LAYERS, answer, loss_and_gradients, tuned

from playground import compat
from playground.train.checkpointing import CheckpointPolicy

WIDE = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 8}
LARGE = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "num_key_value_heads": 16}
CASES = [
    *((kind, how) for kind in ("16", "nf4") for how in ("off", "2", "offload")),
    *((kind, "all") for kind in KINDS),
]


@pytest.mark.parametrize("kind,how", CASES)
def test_loss_gradients_and_answers_are_those_of_resident_layers(kind, how):
    results = []
    for count in (5, 0):
        model, _ = tuned("llama", kind, count, "cuda", **WIDE)
        before = answer(model, "cuda")
        results.append([before, *loss_and_gradients(model, "cuda", CheckpointPolicy(how)), answer(model, "cuda")])
    for streamed, resident in zip(*results, strict=True):
        assert streamed.isfinite().all() and torch.equal(streamed, resident)


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "mixtral"])
def test_every_family_computes_the_same(family):
    results = []
    for count in (4, 0):
        model, _ = tuned(family, "nf4", count, "cuda")
        results.append([*loss_and_gradients(model, "cuda", CheckpointPolicy("all")), answer(model, "cuda")])
    for streamed, resident in zip(*results, strict=True):
        assert torch.equal(streamed, resident)


def test_streamed_weights_are_locked_and_off_the_card_and_the_stall_is_measured():
    gc.collect()
    before = torch.cuda.memory_allocated()
    model, streamed = tuned("llama", "16", LAYERS, "cuda", **WIDE)
    block = streamed.waiting.blocks[0]
    held = torch.cuda.memory_allocated() - before
    assert block.is_pinned() and streamed.bytes == LAYERS * block.numel()
    assert held < 2.2 * block.numel() + 2**23  # two buffers, embedding, head, adapter
    loss_and_gradients(model, "cuda", CheckpointPolicy("all"))
    torch.cuda.synchronize()
    assert 0 < streamed.take_stall() < 10
    del model, streamed
    gc.collect()
    assert not block.is_pinned()  # unlocked with the model


def test_states_name_the_layers_in_the_buffers_and_the_one_on_its_way():
    model, streamed = tuned("llama", "16", LAYERS, "cuda", **LARGE)
    loss_and_gradients(model, "cuda", CheckpointPolicy("all"))
    torch.cuda.synchronize()
    assert streamed.states() == {"ready": [0, 1], "copying": []}  # where a backward pass ends
    seen, over = [], threading.Event()

    def watch() -> None:  # as the memory meter does, from another thread
        while not over.wait(0.0002):
            seen.append(streamed.states())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(10):
        loss_and_gradients(model, "cuda", CheckpointPolicy("all"))
    torch.cuda.synchronize()
    over.set()
    watcher.join()
    assert all(len(states["ready"]) + len(states["copying"]) == 2 for states in seen)
    for state in ("ready", "copying"):
        assert len({number for states in seen for number in states[state]}) >= 3, state
    assert streamed.states() == {"ready": [0, 1], "copying": []}


def test_a_copy_that_the_device_has_not_come_to_is_not_on_its_way():
    _, streamed = tuned("llama", "16", LAYERS, "cuda", **WIDE)
    streamed._order.before_forward(0)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # clock cycles: about a second in which the device is behind
    streamed._order.after_forward(0, backward_follows=True)
    assert streamed.states() == {"ready": [0, 1], "copying": []}  # layer 2 is to be copied, and layer 0 is still there
    torch.cuda.synchronize()
    assert streamed.states() == {"ready": [1, 2], "copying": []}


def test_memory_that_is_locked_already_is_refused_by_the_driver():
    block = torch.empty(2**22, dtype=torch.uint8)
    assert compat.page_lock(block) and not compat.page_lock(block)
    assert torch.ones(4, device="cuda").sum() == 4  # the refusal isn't reported by what comes next
    compat.page_unlock(block)
