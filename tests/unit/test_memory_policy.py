"""The memory plan: the fastest policy that fits free memory, and its fallbacks."""

import itertools
from dataclasses import dataclass

import psutil
import pytest
import torch
from test_batching import examples, tuned
from toys import keys

from playground.errors import PlaygroundError
from playground.settings import Train
from playground.train import layer_rates, memory_policy
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy
from playground.train.loss import Loss
from playground.train.memory_policy import ActivationCost, MemoryPlan, choose_plan
from playground.train.optimizer import Optimizer

ROWS = examples([(20, 30), (5, 9), (40, 60), (3, 2)] * 8)


@dataclass
class ToyRun:
    """A toy fine-tune to be planned."""

    loss_module: Loss
    batcher: Batcher
    layers: CheckpointedLayers
    optimizer: Optimizer
    settings: Train

    @classmethod
    def make(cls, family: str = "llama", **train) -> "ToyRun":
        model = tuned(family, **{"num_hidden_layers": 4} if family == "llama" else {})
        loss_module = Loss(model)
        batcher, layers = Batcher(loss_module, ROWS, 2, "cpu"), CheckpointedLayers(model)
        optimizer = Optimizer([(n, p) for n, p in model.named_parameters() if p.requires_grad])
        return cls(loss_module, batcher, layers, optimizer, Train(**{"batch_size": 8} | train))

    def cost(self) -> ActivationCost:
        return memory_policy.measure_cost(self.loss_module, self.batcher, self.layers, ROWS)

    def activations(self, policy: CheckpointPolicy) -> int:
        """Bytes of the largest micro-batch under a policy, without the fixed ones."""
        most, cost = memory_policy.most_tokens(self.batcher, ROWS, self.settings), self.cost()
        return cost.peak(policy, min(policy.tokens or most, most)) - cost.fixed

    def plan(self, free_bytes: int | None = None) -> MemoryPlan:
        return choose_plan(self.loss_module, self.optimizer, self.batcher, self.layers, ROWS, self.settings, free_bytes)


def plan_with(share: float | None, **train) -> MemoryPlan:
    """The plan of a toy run with free memory for `share` of the activations of a whole batch (None: what is free)."""
    run = ToyRun.make(**train)
    if share is None:
        return run.plan()
    activations = run.cost().fixed + share * run.activations(CheckpointPolicy())
    return run.plan(int(run.optimizer.pending_bytes() + activations / memory_policy.USABLE_SHARE))


def test_with_enough_memory_nothing_is_recomputed_and_the_batch_is_not_split():
    run, plan = ToyRun.make(), plan_with(1.1)
    assert plan.policy.checkpointing == "off" and plan.peak > 0 and not plan.compiled
    assert plan.policy.tokens >= memory_policy.most_tokens(run.batcher, ROWS, run.settings)


def test_the_less_memory_is_free_the_less_the_plan_needs():
    peaks = [plan_with(share).peak for share in (1.1, 0.6, 0.35, 0.2, 0.1)]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < peaks[0]


def test_processes_that_share_a_batch_plan_for_the_largest_share_alone():
    run = ToyRun.make()
    whole, share = (memory_policy.most_tokens(run.batcher, ROWS, run.settings, n) for n in (1, 2))
    assert whole / 2 <= share < whole
    peaks = [run.cost().peak(CheckpointPolicy("off", tokens), tokens) for tokens in (share, whole)]
    free = int(run.optimizer.pending_bytes() + sum(peaks) / 2 / memory_policy.USABLE_SHARE)
    arguments = (run.loss_module, run.optimizer, run.batcher, run.layers, ROWS, run.settings, free)
    alone, shared = choose_plan(*arguments), choose_plan(*arguments, processes=2)
    assert alone.policy != CheckpointPolicy("off", whole) and shared.policy == CheckpointPolicy("off", share)


def test_free_memory_is_looked_up_where_it_is_not_given(monkeypatch):
    run = ToyRun.make()
    monkeypatch.setattr(memory_policy, "free_memory", lambda device: 0)
    assert run.plan() == run.plan(0) != run.plan(2**40)


def test_every_fallback_needs_clearly_less_memory_until_there_is_none():
    run, plan = ToyRun.make(), plan_with(1.1)
    activations = [run.activations(plan.policy)]
    while plan.step_down():
        activations.append(run.activations(plan.policy))
    assert len(activations) >= 4
    assert all(later < 0.9 * before for before, later in itertools.pairwise(activations))


def test_fallbacks_are_ever_slower():
    run, plan = ToyRun.make(), plan_with(1.1)
    times = [run.cost().forward_passes(policy) for policy in (plan.policy, *plan.fallbacks)]
    assert times == sorted(times) and times[0] < times[-1] and plan.forward_passes == times[0]


def test_where_nothing_fits_the_policy_that_needs_least_is_tried():
    plan = plan_with(-10.0)
    assert plan.fallbacks == [] and plan.policy.checkpointing in ("all", "offload")


def test_chosen_settings_are_kept():
    both = plan_with(0.1, gradient_checkpointing="off", max_tokens_per_micro_batch=200)
    assert both.policy == CheckpointPolicy("off", 200)
    assert plan_with(0.1, gradient_checkpointing="2").policy.checkpointing == "2"
    assert plan_with(0.1, max_tokens_per_micro_batch=300).policy.tokens == 300


def test_a_token_budget_below_the_longest_row_is_refused():
    with pytest.raises(PlaygroundError) as caught:
        plan_with(None, max_tokens_per_micro_batch=64)
    assert keys(caught) == ["error.tokens"] and caught.value.problems[0].values["longest"] == 107


def test_activations_are_those_of_each_layer_and_grow_with_tokens():
    model = tuned("llama", num_hidden_layers=4)
    loss_module = Loss(model)
    cost = memory_policy.measure_cost(
        loss_module, Batcher(loss_module, ROWS, 2, "cpu"), CheckpointedLayers(model), ROWS
    )
    assert cost.layers == 4 and cost.entry == 64 * 4 and cost.layer > 8 * cost.entry
    assert cost.peak(CheckpointPolicy("off"), 200) - cost.fixed == 2 * (
        cost.peak(CheckpointPolicy("off"), 100) - cost.fixed
    )


def test_the_more_layers_are_recomputed_the_lower_the_peak():
    cost = ActivationCost(layer=1000, entry=64, layers=32, fixed=0)
    peaks = [cost.peak(CheckpointPolicy(how), 100) for how in ("off", "4", "2", "all", "offload")]
    assert peaks == sorted(set(peaks), reverse=True)


def test_a_batch_is_not_split_where_launching_takes_longer_than_computing():
    slow, fast = (ActivationCost(layer=1000, entry=64, layers=32, fixed=0, launch=tokens) for tokens in (0, 4000))
    split, recomputed = CheckpointPolicy("off", 2500), CheckpointPolicy("2", 5000)
    assert slow.forward_passes(split) < slow.forward_passes(recomputed)
    assert fast.forward_passes(split) > fast.forward_passes(recomputed)


def test_where_copying_weights_takes_longest_offloading_is_no_faster_than_keeping_the_inputs():
    cost = ActivationCost(layer=1000, entry=64, layers=32, fixed=0, copy=50_000)
    keep, offload = CheckpointPolicy("all", 5000), CheckpointPolicy("offload", 5000)
    assert cost.forward_passes(keep) == 20 < cost.forward_passes(offload)
    more_copied = ActivationCost(layer=1000, entry=64, layers=32, fixed=0, copy=52_000)
    assert more_copied.forward_passes(keep) < cost.forward_passes(offload)  # as measured, at 28 and 25 of 32 layers


def test_float32_copies_that_are_still_to_come_are_no_room_for_activations(monkeypatch):
    toy, rooms = ToyRun.make(), []
    half = [(name, torch.nn.Parameter(p.bfloat16())) for name, p in toy.loss_module.named_parameters()]
    optimizer, own = Optimizer(half), memory_policy.measure_cost
    numbers = sum(parameter.numel() for _, parameter in half)
    assert (optimizer.copied_bytes(), toy.optimizer.copied_bytes()) == (4 * numbers, 0)
    assert optimizer.copied_bytes(lambda parameter: 3) == 12 * numbers
    monkeypatch.setattr(memory_policy, "measure_cost", lambda *of: rooms.append(of[-1]) or own(*of))
    monkeypatch.setattr(memory_policy, "free_memory", lambda device: 2**33)
    for room in (2**34, None):  # on a device that is there, the copies are too
        choose_plan(toy.loss_module, optimizer, toy.batcher, toy.layers, ROWS, toy.settings, room)
    assert rooms == [2**34 - 4 * numbers, 2**33]


def test_launch_time_counts_on_cards_alone_and_less_for_wide_layers():
    model = tuned("llama")
    batcher, layers = Batcher(Loss(model), ROWS, 2, "cpu"), CheckpointedLayers(model)
    assert layer_rates.launch_tokens(batcher, layers) == 0
    model.get_base_model().stands_for = "cuda"
    wide = tuned("llama", hidden_size=128)
    wide.get_base_model().stands_for = "cuda"
    wide_tokens = layer_rates.launch_tokens(Batcher(Loss(wide), ROWS, 2, "cpu"), CheckpointedLayers(wide))
    assert layer_rates.launch_tokens(batcher, layers) > wide_tokens > 0


def test_free_memory_on_a_cpu_is_within_main_memory():
    assert 0 < memory_policy.free_memory("cpu") <= psutil.virtual_memory().total


def test_measuring_the_cost_keeps_no_tensors():
    import gc

    model = tuned("llama")
    loss_module = Loss(model)
    batcher = Batcher(loss_module, ROWS, 2, "cpu")
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
        memory_policy.measure_cost(loss_module, batcher, CheckpointedLayers(model), ROWS)
        assert sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) - before < 5
    finally:
        gc.enable()
