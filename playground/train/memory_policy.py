"""Which dial a fine-tune starts on, and what comes next when memory runs out: the fastest that fits what is free.

What a token costs isn't looked up: one forward pass over a few of the run's own rows counts the bytes that autograd
keeps. Time is counted in forward passes: with frozen weights a step is one forward and one backward of about the same
work, and a layer computed again is one more forward of that layer. A micro-batch has a fixed price besides, as many
tokens' work as `FIXED` says: quantized weights are made dense once for each pass over them. And on CUDA it takes at
least as long as the processor needs to launch its kernels, so that a fast card gains nothing from few tokens at once.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from playground.data.batch import Example, epoch_batches
from playground.errors import problem
from playground.settings import Train
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy
from playground.train.loss import CHUNK_LOGITS, Loss
from playground.train.optimizer import Optimizer
from playground.train.patches import patch_modules

FIXED_TOKENS = 300  # tokens; nf4 on an H100: 24 ms for three passes over a 7B model beside 0.08 ms a token
LAUNCH_SECONDS = 3.5e-3  # seconds to launch one pass through one layer with adapters, a backward pass too: 0.26 s a micro-batch of 32 layers seen
RATE_REACHED = 0.6  # of the rate of one large product, by a whole pass: 55 to 64 % of the limit on an H100 (README)
ASSUMED_RATE = 790e12  # floating-point operations a second where there is no card to try: an H100's, in bfloat16
SAMPLE_TOKENS = 128  # tokens of the forward pass that counts: few, for it keeps everything
CHOICES = ("off", "4", "3", "2", "all", "offload")
OFFLOAD_COST = 0.15  # of a forward pass: each layer's input copied out and in; 9,491 tokens/s beside 10,000 on an H100
GRADIENT_SHARE = 0.4  # of what a layer keeps: what its backward pass takes besides, a guess on the safe side
MARGIN = 0.95  # of what is free: the rest is for what the allocator can't use, 4 to 7 % of what is allocated on an H100 (README)


@dataclass(frozen=True)
class ActivationCost:
    """Bytes that a token costs, and bytes that any micro-batch does."""

    layer: float  # everything that one layer keeps
    entry: float  # a layer's input alone
    layers: int  # that learn or carry a gradient
    fixed: int
    launch: float = 0  # tokens whose work takes a layer as long as launching it

    def peak(self, policy: CheckpointPolicy, tokens: int) -> int:
        """Bytes beyond weights and optimizer at the worst moment of a micro-batch."""
        kept = sum(self._keeps(policy, n) for n in range(self.layers))
        most = 0.0
        for n in reversed(
            range(self.layers)
        ):  # backward: what this layer kept is still there, what later ones kept isn't any more
            most = max(most, kept + self.layer * (GRADIENT_SHARE + policy.recomputes(n)))
            kept -= self._keeps(policy, n)
        return int(tokens * most) + self.fixed

    def _keeps(self, policy: CheckpointPolicy, layer: int) -> float:
        if not policy.recomputes(layer):
            return self.layer
        return 0 if policy.checkpointing == "offload" else self.entry


@dataclass
class MemoryPlan:
    """The dial in use, those that need less (each less than the one before), and whether layers are compiled."""

    policy: CheckpointPolicy
    leaner: list[CheckpointPolicy] = field(default_factory=list)
    compiled: bool = False
    proven: bool = False  # a step went through compiled
    work: float = 1  # a token's, in what it takes in a forward pass, as predicted; 1 where nothing was
    peak: int | None = None  # bytes, predicted for the dial it began with, where there was a choice

    def step_down(self) -> bool:
        """Take the next dial that needs less; False if there is none."""
        if not self.leaner:
            return False
        self.policy = self.leaner.pop(0)
        return True


def count_once(tensor: torch.Tensor) -> int:
    """A tensor of a whole network stands for itself."""
    return 1


def choose_plan(
    loss_module: Loss,
    optimizer: Optimizer,
    batcher: Batcher,
    layers: CheckpointedLayers,
    examples: Sequence[Example],
    settings: Train,
    room: int | None = None,
    multiplicity: Callable = count_once,
) -> MemoryPlan:
    """The plan for these rows and settings on this device, now. Raises PlaygroundError for a budget below one row.

    room: bytes that can be taken (None: what is free now). Beside them stands what a micro-batch and the optimizer's first step will still take.
    times: of a network of few layers that stands for one of many (memory/few.py), for how many tensors one of its stands.
    """
    longest = batcher.size([max(examples, key=lambda e: len(e.ids))])
    if 0 < settings.max_tokens_per_micro_batch < longest:
        raise problem("error.tokens", tokens=settings.max_tokens_per_micro_batch, longest=longest)
    rows = settings.micro_batch_size or settings.batch_size
    most = max(
        batcher.size(part)
        for batch in epoch_batches(examples, settings.batch_size, settings.seed, not batcher.packed)
        for part in batcher.parts(batch, rows)
    )
    budgets = (
        [settings.max_tokens_per_micro_batch]
        if settings.max_tokens_per_micro_batch
        else sorted({max(longest, -(-most // k)) for k in (1, 2, 3, 4, 6, 8, 12, 16, 32)}, reverse=True)
    )
    dials = [
        CheckpointPolicy(how, budget)
        for how in (CHOICES if settings.gradient_checkpointing == "auto" else (settings.gradient_checkpointing,))
        for budget in budgets
    ]
    if len(dials) == 1 or not layers.all:
        return MemoryPlan(dials[0])
    cost = measure_cost(loss_module, batcher, layers, examples, multiplicity)
    needs = {policy: cost.peak(policy, min(policy.tokens, most)) for policy in dials}
    dials.sort(key=lambda policy: (_slowness(policy, cost), needs[policy]))
    room = ((free_memory(batcher.device) if room is None else room) - optimizer.pending_bytes(multiplicity)) * MARGIN
    start = next((n for n, policy in enumerate(dials) if needs[policy] <= room), None)
    if start is None:
        leanest = min(dials, key=needs.get)
        return MemoryPlan(
            leanest, peak=needs[leanest], work=_slowness(leanest, cost)
        )  # nothing fits by this count: the leanest is tried anyway
    ladder = [dials[start]]
    for policy in dials[start + 1 :]:
        if needs[policy] - cost.fixed < 0.85 * (needs[ladder[-1]] - cost.fixed):
            ladder.append(policy)
    return MemoryPlan(ladder[0], ladder[1:], peak=needs[ladder[0]], work=_slowness(ladder[0], cost))


def measure_cost(
    loss_module: Loss,
    batcher: Batcher,
    layers: CheckpointedLayers,
    examples: Sequence[Example],
    multiplicity: Callable = count_once,
) -> ActivationCost:
    """What these rows cost on this model, counted in one forward pass over a piece of the longest: bytes go with tokens."""
    longest = max(examples, key=lambda e: len(e.ids))
    upto = batcher.prefix + SAMPLE_TOKENS
    part = [Example(longest.ids[:upto], min(longest.trained_from, upto - 1))]
    own = {
        t.untyped_storage()._cdata
        for t in (*loss_module.parameters(), *loss_module.buffers())
        if not isinstance(t, DTensor)
    }
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        weight = isinstance(
            tensor._base if tensor._is_view() else tensor, nn.Parameter
        )  # of split weights, one that was gathered
        if not weight and storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes() * multiplicity(tensor)
        return tensor.detach()  # with its history it would keep itself alive

    loss_module.train()
    layers.set(CheckpointPolicy())
    with (
        patch_modules(loss_module, batcher.model),
        batcher.attention(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss_module(batcher.batch(part))
    layers.restore()
    config, tokens = batcher.model.config.get_text_config(), batcher.size(part)
    first = next((n for n, layer in enumerate(layers.all) if any(p.requires_grad for p in layer.parameters())), 0)
    learning = max(1, sum(multiplicity(next(layer.parameters())) for layer in layers.all[first:]))
    widest = max(
        (p.shape[0] * p.shape[-1] for layer in layers.all[:1] for p in layer.parameters() if p.ndim == 2), default=0
    )
    size = batcher.model.dtype.itemsize
    return ActivationCost(
        sum(kept.values()) / tokens / learning,
        config.hidden_size * size,
        learning,
        3 * 4 * CHUNK_LOGITS + 3 * widest * size,
        _launch(batcher, layers),
    )


def free_memory(device: str) -> int:
    """Bytes that this process can still take there, with what torch holds and doesn't use."""
    if device == "cpu":
        return psutil.virtual_memory().available
    unused, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    allowed = int(torch.cuda.get_per_process_memory_fraction() * total)
    return min(unused, allowed - reserved) + reserved - torch.cuda.memory_allocated()


def _slowness(policy: CheckpointPolicy, cost: ActivationCost) -> float:
    """Time that a token takes under this dial, in what one takes in a forward pass."""
    again = sum(policy.recomputes(n) for n in range(cost.layers)) / cost.layers
    passes = 2 + again + (OFFLOAD_COST if policy.checkpointing == "offload" else 0)
    return passes * max(policy.tokens + FIXED_TOKENS, cost.launch) / policy.tokens


def _launch(batcher: Batcher, layers: CheckpointedLayers) -> float:
    """How many tokens' work in a layer takes as long as launching the layer's kernels; 0 on a CPU, which does both itself."""
    device = getattr(batcher.model, "stands_for", batcher.device)
    if device != "cuda":
        return 0.0
    a_token = 2 * max(
        sum(linear_weights(m) for m in layer.modules()) for layer in layers.all
    )  # a multiplication and an addition each
    return LAUNCH_SECONDS * RATE_REACHED * _rate(batcher.device, batcher.model.dtype) / a_token


def linear_weights(module: nn.Module) -> int:
    """Of a linear layer as it computes, however few bytes they are kept in; 0 for anything else."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.weight.numel() if type(module).__name__ == "Conv1D" else 0


@functools.cache
def _rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second that this card does in a large product, tried once (some 5 ms)."""
    if device != "cuda":
        return ASSUMED_RATE
    size, took = 4096, []
    left = torch.ones(size, size, dtype=dtype, device=device)
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        left @ left
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)
