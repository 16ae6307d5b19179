"""Gradient checkpointing of a function: gradients, what is kept, and what is computed again."""

import gc
import weakref
from typing import ClassVar

import pytest
import torch

from playground.train.recompute import recompute_later


def weights() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(6, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def test_gradients_are_those_of_the_plain_function_also_of_what_it_closes_over():
    x, w, other = weights()

    def function(x):
        return (torch.tanh(x @ w) @ other).sigmoid()

    function(x).sum().backward()
    expected = [t.grad.clone() for t in (x, w, other)]
    for tensor in (x, w, other):
        tensor.grad = None
    recompute_later(function, x).sum().backward()
    assert all(torch.equal(t.grad, e) for t, e in zip((x, w, other), expected))


def test_nothing_is_kept_before_the_backward_pass_nor_after_it():
    x, w, _ = weights()
    made = []

    def function(x):
        hidden = torch.tanh(x @ w)
        made.append(weakref.ref(hidden))
        return hidden.exp().sum()

    gc.disable()
    try:
        loss = recompute_later(function, x * 2)
        assert made[0]() is None
        loss.backward()
        del loss
        assert [one() for one in made] == [None, None]
    finally:
        gc.enable()


class Probe(torch.autograd.Function):
    """The identity, whose backward pass counts the tensors with 13 columns that are alive."""

    counted: ClassVar[list[int]] = []

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, upstream):
        tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape[-1:] == (13,)]
        Probe.counted.append(len({t.untyped_storage().data_ptr() for t in tensors}))
        return upstream


def test_a_recomputed_tensor_goes_as_soon_as_its_gradient_is_there():
    x = torch.randn(2, 13, requires_grad=True)
    Probe.counted.clear()
    recompute_later(lambda x: Probe.apply(Probe.apply(Probe.apply(x).exp()).exp()).exp(), x).sum().backward()
    assert Probe.counted[0] == Probe.counted[1] + 1 == Probe.counted[2] + 2


def test_the_second_computation_ends_with_the_last_tensor_that_is_needed():
    x, w, _ = weights()
    passed = []

    def function(x):
        hidden = torch.tanh(x @ w)
        passed.append("end")
        return hidden + 1

    recompute_later(function, x).sum().backward()
    assert passed == ["end"]


def test_a_function_that_makes_fewer_tensors_the_second_time_is_an_error():
    x, _, _ = weights()
    calls = []

    def function(x):
        calls.append(1)
        return torch.tanh(x).exp() if len(calls) == 1 else torch.tanh(x)

    with pytest.raises(RuntimeError, match="1 tensors were computed again instead of 2"):
        recompute_later(function, x).sum().backward()


def test_a_failure_of_the_second_computation_is_raised():
    x, _, _ = weights()
    calls = []

    def function(x):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no room")
        return torch.tanh(x)

    with pytest.raises(MemoryError, match="no room"):
        recompute_later(function, x).sum().backward()
