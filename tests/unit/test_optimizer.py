"""The optimizer against torch's own AdamW."""

import pytest
import torch
from torch import nn
from toys import keys

from playground.errors import PlaygroundError
from playground.train.optimizer import MAX_GRAD_NORM, Optimizer


def parameters(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return [
        ("x.lora_A.weight", nn.Parameter(torch.randn(4, 8).to(dtype))),
        ("x.lora_B.weight", nn.Parameter(torch.randn(8, 4).to(dtype))),
    ]


def train(optimizer, named, steps, lr=1e-2, parts=1, seed=1):
    torch.manual_seed(seed)
    for _ in range(steps):
        for _ in range(parts):
            optimizer.backward(sum((p.float() * torch.randn(p.shape)).sum() for _, p in named) / parts)
        optimizer.step(lr)


@pytest.mark.parametrize("copies", [True, False])
def test_steps_are_those_of_torchs_adamw_with_clipped_gradients(copies):
    named, expected = parameters(), parameters()
    optimizer, reference = (
        Optimizer(named, copies=copies),
        torch.optim.AdamW([p for _, p in expected], lr=1e-2, weight_decay=0.0),
    )
    train(optimizer, named, 5)
    torch.manual_seed(1)
    for _ in range(5):
        sum((p * torch.randn(p.shape)).sum() for _, p in expected).backward()
        assert nn.utils.clip_grad_norm_([p for _, p in expected], MAX_GRAD_NORM) > MAX_GRAD_NORM
        reference.step()
        reference.zero_grad()
    for (_, a), (_, b) in zip(named, expected):
        torch.testing.assert_close(a, b)


def test_small_updates_are_not_lost_in_bfloat16():
    with_copies, without = parameters(torch.bfloat16), parameters(torch.bfloat16)
    initial = [p.detach().clone() for _, p in without]
    for named, optimizer in ((with_copies, Optimizer(with_copies)), (without, Optimizer(without, copies=False))):
        for _ in range(30):
            optimizer.backward(sum(p.float().sum() for _, p in named))
            optimizer.step(1e-3)

    def changed_numbers(named) -> int:
        return sum(int((p != b).sum()) for (_, p), b in zip(named, initial))

    assert changed_numbers(with_copies) == 64 and changed_numbers(without) < 40


def test_gradients_of_several_passes_are_summed_and_can_be_dropped():
    named = parameters(torch.bfloat16)
    optimizer = Optimizer(named)
    for _ in range(3):
        optimizer.backward(sum(p.float().sum() for _, p in named))
    assert all(torch.equal(g, torch.full_like(g, 3.0)) and g.dtype == torch.float32 for g in optimizer.gradients())
    assert all(p.grad is None for _, p in named)
    optimizer.drop_gradients()
    assert optimizer.gradients() == []


def test_a_parameter_of_a_later_pass_alone_has_a_gradient_too():
    named = parameters()
    optimizer = Optimizer(named)
    optimizer.backward(named[0][1].sum())
    optimizer.backward(sum(p.sum() for _, p in named))
    assert [g.unique().tolist() for g in optimizer.gradients()] == [[2.0], [1.0]]


def test_lora_plus_multiplies_the_step_of_b():
    plain, fast = parameters(), parameters()
    initial = parameters()
    train(Optimizer(plain), plain, 1)
    train(Optimizer(fast, ratio=16.0), fast, 1)

    def change(named, at):
        return (named[at][1] - initial[at][1]).detach()

    torch.testing.assert_close(change(fast, 0), change(plain, 0))
    torch.testing.assert_close(change(fast, 1), 16 * change(plain, 1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_training_continues_bit_for_bit_from_a_saved_state(dtype, tmp_path):
    whole, interrupted = parameters(dtype), parameters(dtype)
    optimizer = Optimizer(whole)
    train(optimizer, whole, 3)
    first = Optimizer(interrupted)
    train(first, interrupted, 3)
    torch.save(first.state(), tmp_path / "state")
    fresh = parameters(dtype, seed=5)
    second = Optimizer(fresh)
    second.load_state(torch.load(tmp_path / "state", weights_only=True))
    train(optimizer, whole, 2, seed=9)
    train(second, fresh, 2, seed=9)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole, fresh))


def test_the_state_of_other_parameters_is_refused():
    with pytest.raises(ValueError):
        Optimizer(parameters()).load_state(Optimizer(parameters()[:1]).state())


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_eight_bits_and_paging_are_refused_without_cuda():
    for kind in ("adamw8bit", "paged_adamw", "paged_adamw8bit"):
        with pytest.raises(PlaygroundError) as caught:
            Optimizer(parameters(), kind)
        assert keys(caught) == ["error.optimizer_needs_cuda"]


def test_pending_bytes_are_gradients_and_moments_that_are_not_there_yet():
    named = parameters()
    optimizer = Optimizer(named)
    assert optimizer.pending_bytes() == 3 * 64 * 4
    optimizer.backward(sum(p.sum() for _, p in named))
    assert optimizer.pending_bytes() == 2 * 64 * 4


def test_steps_that_float16_skips_are_counted_and_numbers_are_checked():
    named = parameters(torch.float16)
    optimizer = Optimizer(named)
    assert optimizer.is_finite()
    optimizer.backward(sum((p * torch.inf).sum() for _, p in named))
    optimizer.step(1e-3)
    assert optimizer.skipped == 1
    optimizer.backward(sum(p.float().sum() for _, p in named))
    optimizer.step(1e-3)
    assert optimizer.skipped == 1 and optimizer.is_finite()
    optimizer.copies[0].data[0] = torch.nan
    assert not optimizer.is_finite()
