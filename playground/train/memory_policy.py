"""Choose the fastest checkpointing policy that fits free memory, and the fallbacks for when memory runs out.

Memory isn't looked up: one forward pass over a piece of the run's longest row counts the bytes that autograd keeps.

Time is counted in forward passes: with frozen weights a step is one forward and one backward pass of about the same
work, and a recomputed layer is one more forward pass of that layer. A micro-batch also has a fixed cost of as much work
as `FIXED_TOKENS` tokens: quantized weights are dequantized once for each pass over them. And on CUDA it takes at least
as long as the processor needs to launch its kernels, so that a fast card gains nothing from few tokens at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from playground import compat
from playground.data.batch import Example, epoch_batches, shares_of
from playground.errors import problem
from playground.memory.main_memory import unused_main_memory
from playground.settings import Train
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy
from playground.train.layer_rates import copy_tokens, launch_tokens
from playground.train.loss import CHUNK_LOGITS, Loss
from playground.train.optimizer import Optimizer
from playground.train.patches import patch_modules

# tokens; nf4 on an H100: 24 ms for three passes over a 7B model, compared with 0.08 ms a token
FIXED_TOKENS = 300
# forward passes that offloading adds: each layer's input copied out and in. From an early run on an H100 that wasn't
# kept; the figures of tests/bench/README.md (11,216 instead of 12,053 tokens/s) give 0.22
OFFLOAD_COST = 0.15
# the same beside copied weights, behind which inputs wait on their way back. OpenCALM-7B, 16 bits, 8 GiB of an H100:
# 8,142 tokens/s with 25 streamed layers, offloaded, and 10,566 with 28, not offloaded (tests/bench/README.md)
STREAMED_OFFLOAD_COST = 1.2
# share of what a layer keeps that its backward pass takes in addition: a guess on the safe side
GRADIENT_SHARE = 0.4
# share of free memory to plan with: the rest is what the allocator can't use, 4 to 7 % of what is allocated on an H100
# (tests/bench/README.md)
USABLE_SHARE = 0.95
SAMPLE_TOKENS = 128  # tokens of the forward pass that counts bytes; not more, because it keeps everything
# bytes that it should keep at most, and share of free memory: 128 tokens of 70 billion parameters keep 3.7 GB
SAMPLE_BYTES, SAMPLE_SHARE = 3 * 2**29, 0.25
LEAST_SAMPLE = 8  # tokens
AUTO_CHOICES = ("off", "4", "3", "2", "all", "offload")  # what `gradient_checkpointing` "auto" chooses from
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 32)  # micro-batches that the largest batch may be split into
FALLBACK_SHARE = 0.85  # a fallback keeps less than this share of the activations of the policy before it


@dataclass(frozen=True)
class ActivationCost:
    """Bytes of activations: for each token, and for any micro-batch.

    layer: bytes a token that one layer keeps.
    entry: bytes a token of a layer's input alone.
    layers: how many layers are trained or carry a gradient.
    fixed: bytes that any micro-batch takes.
    launch: tokens whose work in a layer takes as long as launching it. copy: tokens whose work in a layer takes as long
    as copying its weights from main memory, on average over all layers.
    """

    layer: float
    entry: float
    layers: int
    fixed: int
    launch: float = 0
    copy: float = 0

    def peak(self, policy: CheckpointPolicy, tokens: int) -> int:
        """Bytes in addition to weights and optimizer at the peak of a micro-batch."""
        kept = sum(self._kept(policy, n) for n in range(self.layers))
        peak = 0.0
        for n in reversed(range(self.layers)):  # backward: layers before n still keep theirs, those after it don't
            peak = max(peak, kept + self.layer * (GRADIENT_SHARE + policy.recomputes(n)))
            kept -= self._kept(policy, n)
        return int(tokens * peak) + self.fixed

    def forward_passes(self, policy: CheckpointPolicy) -> float:
        """Time of a token in a step under this policy, as a multiple of the time of a forward pass."""
        recomputed = sum(policy.recomputes(n) for n in range(self.layers)) / self.layers
        offloading = OFFLOAD_COST if policy.checkpointing == "offload" else 0
        work = (2 + recomputed + offloading) * max(policy.tokens + FIXED_TOKENS, self.launch)
        waiting = policy.tokens * STREAMED_OFFLOAD_COST if offloading else 0.0
        copying = 2 * self.copy  # weights are copied once forward and once backward, on the same bus as layers' inputs
        return max(work, copying and copying + waiting) / policy.tokens

    def _kept(self, policy: CheckpointPolicy, layer: int) -> float:
        if not policy.recomputes(layer):
            return self.layer
        return 0 if policy.checkpointing == "offload" else self.entry


@dataclass
class MemoryPlan:
    """The policy in use, its fallbacks, and whether layers are compiled.

    fallbacks: each needs less memory than the one before.
    compile_proven: a step went through with compiled layers.
    forward_passes: predicted time of a token, in forward passes; 1 where nothing was predicted.
    peak: bytes of activations predicted for the first policy; None where there was no choice.
    """

    policy: CheckpointPolicy
    fallbacks: list[CheckpointPolicy] = field(default_factory=list)
    compiled: bool = False
    compile_proven: bool = False
    forward_passes: float = 1
    peak: int | None = None

    def step_down(self) -> bool:
        """Switch to the next fallback; False if there is none."""
        if not self.fallbacks:
            return False
        self.policy = self.fallbacks.pop(0)
        return True


def count_once(tensor: torch.Tensor) -> int:
    """The multiplicity of a tensor of a whole network: it stands for itself alone."""
    return 1


def choose_plan(
    loss_module: Loss,
    optimizer: Optimizer,
    batcher: Batcher,
    layers: CheckpointedLayers,
    examples: Sequence[Example],
    settings: Train,
    free_bytes: int | None = None,
    multiplicity: Callable[[torch.Tensor], int] = count_once,
    processes: int = 1,
    copied_bytes: int = 0,
) -> MemoryPlan:
    """The fastest policy for these rows and settings that fits, with fallbacks. If none fits, the one that needs least.

    free_bytes: what the optimizer and micro-batches may take (None: what is free on the device now, where the
    optimizer's float32 copies are already).
    multiplicity: in a shallow network that stands for a deep one (predict/layer_extrapolation.py), how many tensors a
    tensor stands for. processes: how many share a step's rows; the plan fits the largest share, so that all choose
    alike. copied_bytes: of weights that are copied from main memory for one pass over all layers. Raises
    PlaygroundError for a token budget below the longest row.
    """
    longest = batcher.computed_tokens([max(examples, key=lambda e: len(e.ids))])
    if 0 < settings.max_tokens_per_micro_batch < longest:
        raise problem("error.tokens", tokens=settings.max_tokens_per_micro_batch, longest=longest)
    most = most_tokens(batcher, examples, settings, processes)
    candidates = _candidates(settings, longest, most)
    if len(candidates) == 1 or not layers.all:
        return MemoryPlan(candidates[0])
    if free_bytes is None:
        free_bytes = free_memory(batcher.device)
    else:
        free_bytes -= optimizer.copied_bytes(multiplicity)
    cost = measure_cost(loss_module, batcher, layers, examples, multiplicity, free_bytes)
    cost = replace(cost, copy=copy_tokens(batcher, layers, copied_bytes, cost.layers))
    peaks = {policy: cost.peak(policy, min(policy.tokens, most)) for policy in candidates}
    candidates.sort(key=lambda policy: (cost.forward_passes(policy), peaks[policy]))
    usable = (free_bytes - optimizer.pending_bytes(multiplicity)) * USABLE_SHARE
    fitting = next((n for n, policy in enumerate(candidates) if peaks[policy] <= usable), None)
    if fitting is None:
        chosen, fallbacks = min(candidates, key=lambda policy: peaks[policy]), []
    else:
        chosen = candidates[fitting]
        activations = {policy: peak - cost.fixed for policy, peak in peaks.items()}
        fallbacks = _fallbacks(chosen, candidates[fitting + 1 :], activations)
    return MemoryPlan(chosen, fallbacks, forward_passes=cost.forward_passes(chosen), peak=peaks[chosen])


def most_tokens(batcher: Batcher, examples: Sequence[Example], settings: Train, processes: int = 1) -> int:
    """Computed tokens of the largest micro-batch of any process in an epoch, where no budget of tokens limits it."""
    rows = settings.micro_batch_size or settings.batch_size
    return max(
        batcher.computed_tokens(part)
        for batch in epoch_batches(examples, settings.batch_size, settings.seed, not batcher.packed)
        for share in shares_of(batch, processes)
        for part in batcher.micro_batches(share, rows)
    )


def _candidates(settings: Train, longest: int, most: int) -> list[CheckpointPolicy]:
    """Every policy that these settings allow. longest: tokens of the longest row; most: of the largest micro-batch."""
    budgets = [settings.max_tokens_per_micro_batch]
    if not settings.max_tokens_per_micro_batch:
        budgets = sorted({max(longest, -(-most // parts)) for parts in SPLITS}, reverse=True)
    choices = AUTO_CHOICES if settings.gradient_checkpointing == "auto" else (settings.gradient_checkpointing,)
    return [CheckpointPolicy(checkpointing, budget) for checkpointing in choices for budget in budgets]


def _fallbacks(
    chosen: CheckpointPolicy, slower: Sequence[CheckpointPolicy], activations: dict[CheckpointPolicy, int]
) -> list[CheckpointPolicy]:
    """Of slower policies, fastest first, those that each keep clearly less than the one before. activations: bytes."""
    fallbacks, last = [], chosen
    for policy in slower:
        if activations[policy] < FALLBACK_SHARE * activations[last]:
            fallbacks.append(policy)
            last = policy
    return fallbacks


def measure_cost(
    loss_module: Loss,
    batcher: Batcher,
    layers: CheckpointedLayers,
    examples: Sequence[Example],
    multiplicity: Callable[[torch.Tensor], int] = count_once,
    free_bytes: int = 2**60,
) -> ActivationCost:
    """What these rows cost on this model, counted in one forward pass over a piece of the longest row.

    free_bytes: on the device; the pass keeps a fraction of them, so that it never takes more than a step.
    """
    longest = max(examples, key=lambda e: len(e.ids))
    gradient_layers = max(1, sum(multiplicity(next(m.parameters())) for m in layers.all[layers.first_trainable :]))
    most = min(SAMPLE_BYTES, int(SAMPLE_SHARE * max(0, free_bytes)))
    limit = batcher.prefix + _sample_tokens(layers, most // (gradient_layers * batcher.model.dtype.itemsize))
    sample = [Example(longest.ids[:limit], min(longest.trained_from, limit - 1))]
    kept, tokens = _kept_bytes(loss_module, batcher, layers, sample, multiplicity), batcher.computed_tokens(sample)
    matrices = [p for layer in layers.all[:1] for p in layer.parameters() if p.ndim == 2]
    widest = max((p.shape[0] * p.shape[-1] for p in matrices), default=0)
    item_bytes = batcher.model.dtype.itemsize
    return ActivationCost(
        layer=kept / tokens / gradient_layers,
        entry=batcher.model.config.get_text_config().hidden_size * item_bytes,
        layers=gradient_layers,
        fixed=3 * 4 * CHUNK_LOGITS + max(3 * widest * item_bytes, loss_module.gathered_bytes),
        launch=launch_tokens(batcher, layers),
    )


def _sample_tokens(layers: CheckpointedLayers, numbers: int) -> int:
    """Tokens of that pass, of which one layer may keep so many numbers: about twice what its linear layers put out."""
    linears = [
        module
        for layer in layers.all[:1]
        for name, module in layer.named_modules()
        if hasattr(module, "out_features") and not hasattr(module, "base_layer") and "lora_" not in name
    ]
    put_out = sum(linear.out_features for linear in linears)
    return max(LEAST_SAMPLE, min(SAMPLE_TOKENS, numbers // max(1, 2 * put_out)))


def _kept_bytes(
    loss_module: Loss,
    batcher: Batcher,
    layers: CheckpointedLayers,
    sample: Sequence[Example],
    multiplicity: Callable[[torch.Tensor], int],
) -> int:
    """Bytes that autograd keeps in a forward pass over these rows when nothing is recomputed, without weights."""
    weights = {
        compat.storage_id(tensor)
        for tensor in (*loss_module.parameters(), *loss_module.buffers())
        if not isinstance(tensor, DTensor)
    }
    kept: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = compat.storage_id(tensor)
        # true of a weight that FSDP has gathered, whose storage is new
        is_weight = isinstance(compat.viewed_tensor(tensor), nn.Parameter)
        if not is_weight and storage not in weights:
            kept[storage] = tensor.untyped_storage().nbytes() * multiplicity(tensor)
        return tensor.detach()  # with its history it would keep itself alive

    loss_module.train()
    layers.set(CheckpointPolicy())
    with (
        patch_modules(loss_module, batcher.model),
        batcher.attention(),
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
    ):
        # a head that is split over processes would be gathered while everything is kept
        loss_module(batcher.batch(sample), return_hidden=loss_module.gathered_bytes > 0)
    layers.restore()
    return sum(kept.values())


def free_memory(device: str) -> int:
    """Bytes that this process can still take on the device, including what torch has reserved and doesn't use."""
    if device == "cpu":
        return unused_main_memory()
    unused, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    allowed = int(torch.cuda.get_per_process_memory_fraction() * total)
    return min(unused, allowed - reserved) + reserved - torch.cuda.memory_allocated()
