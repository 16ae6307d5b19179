"""Sum up what a traced phase asks of a device: how often which operators run, from the same trace as its memory."""

import math
from collections import Counter
from typing import NamedTuple

from playground.predict.operations import Work
from playground.predict.traced_model import TracedModel
from playground.train.optimizer import Optimizer

OF_ALL_LAYERS = "optimizer"  # the stage whose operators take all layers' tensors at once: `update_calls` knows them
ONCE_A_STEP = "update"  # the stage of what an optimizer step does once, however many micro-batches it has
UPDATE_CALLS = {"adamw": 12, "adamw8bit": 6, "paged_adamw": 6, "paged_adamw8bit": 6}  # and the latter for every tensor


class Calls(NamedTuple):
    """`count` calls of operators in a stage of the computation that each take the same (operations.Work)."""

    stage: str
    kind: str
    operations: float
    bytes: float
    count: float  # type: ignore[assignment]  # of tuples, which no one asks for


def calls_of(traced: TracedModel) -> list[Calls]:
    """What the whole network's operators take in a phase that was traced.

    A traced layer counts as often as the layers that it represents, and of many micro-batches those that were traced
    stand for all.
    """
    counts: Counter[tuple[str, Work]] = Counter()
    for (stage, layer), calls in traced.trace.work.items():
        if stage == OF_ALL_LAYERS:
            continue
        repeated = Counter(map(id, calls))  # calls that are alike share one tuple: thousands needn't be compared
        kernels_by_id = {id(kernels): kernels for kernels in calls}
        for key, count in repeated.items():
            for work in kernels_by_id[key]:
                counts[stage, work] += count * traced.multiplicity(layer)
    return sorted(Calls(stage, *work, count / traced.traced_share) for (stage, work), count in counts.items())


def inputs_in_main_memory(traced: TracedModel) -> int:
    """Bytes of main memory that layers' inputs take where checkpointing offloads them, in the largest micro-batch.

    torch's allocator of page-locked memory rounds each up to a power of two.
    """
    total = 0
    for (_, layer), calls in traced.trace.work.items():
        sizes = [work.bytes for kernels in calls for work in kernels if work.kind == "to_host"]
        if sizes:
            total += traced.multiplicity(layer) * 2 ** math.ceil(math.log2(max(sizes)))
    return total


def update_calls(traced: TracedModel, optimizer: Optimizer) -> list[Calls]:
    """What the update of the trained parameters takes, by formula: the trace ends with the gradients.

    Gradients are read to clip them, and once more for the update, which reads and writes float32 copies and both
    moments; then the copies are written back.
    """
    elements = sum(tensor.numel() * traced.tensor_multiplicity(tensor) for tensor in optimizer.parameters)
    moments = sum(optimizer.moment_bytes(copy) * traced.tensor_multiplicity(copy) for copy in optimizer.copies)
    size = elements * (optimizer.parameters[0].element_size() + 4 * optimizer.copies[0].element_size()) + 2 * moments
    tensors = sum(traced.tensor_multiplicity(tensor) for tensor in optimizer.parameters)
    calls = UPDATE_CALLS[optimizer.kind] * (1 if optimizer.kind == "adamw" else tensors)
    moved = elements * (optimizer.parameters[0].element_size() + optimizer.copies[0].element_size())
    return [
        Calls(
            OF_ALL_LAYERS, "elementwise:float32", elements, moved, 1 / traced.traced_share
        ),  # to the copies' gradients
        Calls(ONCE_A_STEP, "elementwise:float32", elements / calls, size / calls, calls),
    ]
