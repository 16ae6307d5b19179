"""The optimizer whose gradients and moments wait in main memory, against the one that keeps them on the device."""

import pytest
import torch
from torch import nn
from toys import keys

from playground.errors import PlaygroundError
from playground.memory.page_locked import NotLocked
from playground.train import offloaded_optimizer
from playground.train.offloaded_optimizer import PENDING, OffloadedOptimizer
from playground.train.optimizer import Optimizer


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    """Slices of 512 bytes, so that a toy's parameters have several."""
    monkeypatch.setattr(offloaded_optimizer, "SLICE_BYTES", 512)


def network(dtype=torch.float32, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(16, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 40), nn.Linear(40, 8)]
    return nn.Sequential(*layers).to(dtype)


def train(optimizer, model, steps, parts=2, seed=1, skip=0):
    """Steps of several backward passes each; in the first `skip` of these, the last layer learns nothing."""
    dtype = next(model.parameters()).dtype
    torch.manual_seed(seed)
    for _ in range(steps):
        for part in range(parts):
            inputs = torch.randn(6, 16).to(dtype)
            output = model[:5](inputs) if part < skip else model(inputs)
            optimizer.backward((output.float() ** 2).sum() / parts)
        optimizer.step(3e-2)


def both(dtype=torch.float32):
    """(model, optimizer) of each kind, alike."""
    models = network(dtype), network(dtype)
    return [(m, kind(m.named_parameters())) for m, kind in zip(models, (_resident, OffloadedOptimizer))]


def _resident(named):
    return Optimizer(named, copies=False)


def assert_equal(one, other):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_the_resident_optimizer_to_the_bit(dtype, parts):
    (resident, first), (offloaded, second) = both(dtype)
    for optimizer, model in ((first, resident), (second, offloaded)):
        train(optimizer, model, 5, parts)
    assert_equal(resident, offloaded)
    assert not torch.equal(next(network(dtype).parameters()), next(offloaded.parameters()))


def test_parameters_without_gradients_in_some_passes_and_steps_are_updated_alike():
    (resident, first), (offloaded, second) = both()
    for optimizer, model in ((first, resident), (second, offloaded)):
        train(optimizer, model, 2, skip=1)
        train(optimizer, model, 1, skip=2)
        train(optimizer, model, 1)
    assert_equal(resident, offloaded)


def test_no_more_gradients_than_the_pending_ones_are_kept_on_the_device():
    model = network()
    optimizer, kept = OffloadedOptimizer(model.named_parameters()), []
    collect = optimizer._free_copied
    optimizer._free_copied = lambda most: (collect(most), kept.append(len(optimizer._pending)))
    optimizer.backward(model(torch.randn(3, 16)).sum())
    assert max(kept) == PENDING < len(optimizer.parameters) and kept[-1] == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(optimizer.gradients()) == len(optimizer.parameters)
    optimizer.drop_gradients()
    assert optimizer.gradients() == []
    model(torch.randn(3, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # nothing collects them any more


def test_gradients_of_a_pass_that_failed_are_dropped():
    (resident, first), (offloaded, second) = both()

    def fail(_):
        raise torch.OutOfMemoryError("tried to allocate")

    hidden = offloaded[:2](torch.randn(3, 16))
    hidden.register_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        second.backward(offloaded[2:](hidden).sum())
    assert second.gradients()
    second.drop_gradients()
    assert second.gradients() == [] and not second._pending
    for optimizer, model in ((first, resident), (second, offloaded)):
        train(optimizer, model, 2)
    assert_equal(resident, offloaded)


@pytest.mark.parametrize("kinds", [("off", "off"), ("off", "on"), ("on", "off")])
def test_training_continues_bit_for_bit_from_either_kinds_state(kinds, tmp_path):
    def make(kind, model):
        return (OffloadedOptimizer if kind == "off" else _resident)(model.named_parameters())

    whole, interrupted, fresh = network(), network(), network(seed=5)
    reference, first, second = make("on", whole), make(kinds[0], interrupted), make(kinds[1], fresh)
    for optimizer, model in ((reference, whole), (first, interrupted)):
        train(optimizer, model, 3, skip=2)  # nothing is known of the last layer
    torch.save(first.state(), tmp_path / "state")
    train(second, fresh, 1)  # what it has learned is replaced
    second.load_state(torch.load(tmp_path / "state", weights_only=True))
    for optimizer, model in ((reference, whole), (second, fresh)):
        train(optimizer, model, 2, seed=9)
    assert_equal(whole, fresh)
    # weights and moments, but no gradients
    assert (tmp_path / "state").stat().st_size < 3.2 * sum(p.nbytes for p in whole.parameters()) + 20_000


def test_the_state_of_other_parameters_is_refused():
    with pytest.raises(ValueError):
        OffloadedOptimizer(network().named_parameters()).load_state(_resident(network()[:3].named_parameters()).state())


def test_float16_and_too_little_main_memory_are_refused(monkeypatch):
    with pytest.raises(PlaygroundError) as caught:
        OffloadedOptimizer(network(torch.float16).named_parameters())
    assert keys(caught) == ["error.offload_float16"]
    for error, key in ((MemoryError(), "error.offload_memory"), (NotLocked(), "error.offload_locked")):
        monkeypatch.setattr(offloaded_optimizer, "locked_block", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(PlaygroundError) as caught:
            OffloadedOptimizer(network().named_parameters())
        assert keys(caught) == [key]
        assert caught.value.problems[0].values == {"need_bytes": 16 * 40 * 4, "before_bytes": 0}


def test_nothing_on_the_device_is_pending_but_a_few_gradients():
    model = network()
    optimizer = OffloadedOptimizer(model.named_parameters())
    sizes = sorted((p.nbytes for p in model.parameters()), reverse=True)
    assert optimizer.pending_bytes() == 2 * sum(sizes[: PENDING + 1])
    assert optimizer.pending_bytes(lambda _: 9) == 2 * (PENDING + 1) * sizes[0]
    assert not optimizer.inner.state and optimizer.moment_bytes(optimizer.copies[0]) == 0
