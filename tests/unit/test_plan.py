"""The plan: the fastest dial that fits what is free, and what comes next when it didn't."""

import psutil
import pytest
import torch
from test_feed import examples, tuned
from toys import keys

from playground.data.batch import epoch_batches
from playground.errors import PlaygroundError
from playground.settings import Train
from playground.train import memory_policy as room
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy
from playground.train.loss import Loss
from playground.train.memory_policy import ActivationCost, choose_plan
from playground.train.optimizer import Optimizer

ROWS = examples([(20, 30), (5, 9), (40, 60), (3, 2)] * 8)


def planned(monkeypatch, room_for: float | None = None, family="llama", **train):
    """The plan of a toy run for which `room_for` times the most it could use is free."""
    model = tuned(family, **{"num_hidden_layers": 4} if family == "llama" else {})
    loss_module = Loss(model)
    batcher, layers = Batcher(loss_module, ROWS, 2, "cpu"), CheckpointedLayers(model)
    optimizer = Optimizer([(n, p) for n, p in model.named_parameters() if p.requires_grad])
    settings = Train(**{"batch_size": 8} | train)
    if room_for is not None:
        cost = room.measure_cost(loss_module, batcher, layers, ROWS)
        most = max(batcher.size(part) for batch in epoch_batches(ROWS, 8, 0, False) for part in batcher.parts(batch, 8))
        kept = cost.peak(CheckpointPolicy(), most) - cost.fixed
        monkeypatch.setattr(
            room, "free_memory", lambda device: optimizer.pending_bytes() + (cost.fixed + room_for * kept) / room.MARGIN
        )
    return choose_plan(loss_module, optimizer, batcher, layers, ROWS, settings)


def test_with_room_nothing_is_computed_twice_and_the_batch_goes_at_once(monkeypatch):
    found = planned(monkeypatch, 1.1)
    assert found.policy.checkpointing == "off" and found.peak > 0 and not found.compiled


def test_the_less_room_the_less_is_kept(monkeypatch):
    peaks = [planned(monkeypatch, share).peak for share in (1.1, 0.6, 0.35, 0.2, 0.1)]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < peaks[0]


def test_every_step_down_needs_less_until_there_is_none(monkeypatch):
    found, seen = planned(monkeypatch, 1.1), []
    while found.step_down():
        seen.append(found.policy)
    assert len(seen) >= 3 and len(set(seen)) == len(seen)


def test_where_nothing_fits_the_leanest_is_tried(monkeypatch):
    found = planned(monkeypatch, -10.0)
    assert found.leaner == [] and found.policy.checkpointing in ("all", "offload")


def test_what_the_person_chose_is_kept(monkeypatch):
    assert planned(
        monkeypatch, 0.1, gradient_checkpointing="off", max_tokens_per_micro_batch=200
    ).policy == CheckpointPolicy("off", 200)
    assert planned(monkeypatch, 0.1, gradient_checkpointing="2").policy.checkpointing == "2"
    assert planned(monkeypatch, 0.1, max_tokens_per_micro_batch=300).policy.tokens == 300


def test_a_budget_below_one_row_is_refused_with_both_numbers(monkeypatch):
    with pytest.raises(PlaygroundError) as told:
        planned(monkeypatch, max_tokens_per_micro_batch=64)
    assert keys(told) == ["error.tokens"] and told.value.problems[0].values["longest"] == 107


def test_what_is_counted_is_what_autograd_keeps(monkeypatch):
    """Twice the tokens keep twice the bytes, and checkpointing all layers keeps their inputs alone."""
    model = tuned("llama", num_hidden_layers=4)
    loss_module = Loss(model)
    cost = room.measure_cost(loss_module, Batcher(loss_module, ROWS, 2, "cpu"), CheckpointedLayers(model), ROWS)
    assert cost.layers == 4 and cost.entry == 64 * 4 and cost.layer > 8 * cost.entry
    assert cost.peak(CheckpointPolicy("off"), 200) - cost.fixed == 2 * (
        cost.peak(CheckpointPolicy("off"), 100) - cost.fixed
    )


def test_costs_fall_along_the_dial():
    cost = ActivationCost(layer=1000, entry=64, layers=32, fixed=0)
    peaks = [cost.peak(CheckpointPolicy(how), 100) for how in ("off", "4", "2", "all", "offload")]
    assert peaks == sorted(peaks, reverse=True)


def test_where_launching_takes_longer_than_computing_a_batch_is_not_split():
    slow, fast = (ActivationCost(layer=1000, entry=64, layers=32, fixed=0, launch=tokens) for tokens in (0, 4000))
    split, again = CheckpointPolicy("off", 2500), CheckpointPolicy("2", 5000)
    assert room._slowness(split, slow) < room._slowness(again, slow)
    assert room._slowness(split, fast) > room._slowness(again, fast)


def test_launching_counts_on_cards_alone_and_less_for_wide_layers():
    model = tuned("llama")
    batcher, layers = Batcher(Loss(model), ROWS, 2, "cpu"), CheckpointedLayers(model)
    assert room._launch(batcher, layers) == 0
    model.get_base_model().stands_for = "cuda"
    wide = tuned("llama", hidden_size=128)
    wide.get_base_model().stands_for = "cuda"
    assert (
        room._launch(batcher, layers) > room._launch(Batcher(Loss(wide), ROWS, 2, "cpu"), CheckpointedLayers(wide)) > 0
    )


def test_free_memory_is_what_a_capped_process_may_take():
    assert 0 < room.free_memory("cpu") <= psutil.virtual_memory().total


def test_looking_at_the_cost_leaves_nothing_behind():
    import gc

    model = tuned("llama")
    loss_module = Loss(model)
    batcher = Batcher(loss_module, ROWS, 2, "cpu")
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
        room.measure_cost(loss_module, batcher, CheckpointedLayers(model), ROWS)
        assert sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) - before < 5
    finally:
        gc.enable()
