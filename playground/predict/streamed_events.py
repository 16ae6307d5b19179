"""What streamed or split layers change in an allocation trace: the buffers for their weights are on the device instead.

Of layers that are split over processes, this process's shares are there too.
"""

from collections.abc import Sequence
from dataclasses import replace

from playground.memory.constants import aligned
from playground.model.shares import share_bytes
from playground.model.streaming import BUFFERS, LEAST_BYTES, streamed_numbers
from playground.predict.allocation_trace import OUTSIDE, AllocationEvent
from playground.settings import Load, streamed_count

STREAMED_PARTS = ("weights", "quant_constants")


def without_streaming(load: Load) -> Load:
    """The settings under which the same network is traced: it doesn't depend on where its weights wait."""
    return replace(load, streamed_layers="0")


def waiting_layers(load: Load, layers: int, shares: int = 0) -> list[int]:
    """The numbers of those of so many layers whose weights wait elsewhere. shares: as of `with_streamed_layers`."""
    return streamed_numbers(layers if shares else min(streamed_count(load), layers), layers)


def bytes_by_layer(events: Sequence[AllocationEvent]) -> dict[int, int]:
    """Bytes of each repeated layer's weights that are streamed if the layer is."""
    sizes: dict[int, int] = {}
    for event in events:
        if not event.is_free and event.layer >= 0 and _is_streamable(event):
            sizes[event.layer] = sizes.get(event.layer, 0) + event.size
    return sizes


def with_streamed_layers(
    events: Sequence[AllocationEvent], load: Load, layers: int, shares: int = 0, waits: bool = False
) -> tuple[list[AllocationEvent], int]:
    """The events of a whole network of so many layers with some of them streamed, and their bytes in main memory.

    shares: over how many processes all layers are split; 0: they aren't. waits: whether this process's shares are in
    main memory, from where one layer's at a time is copied, to be gathered.
    """
    numbers = set(waiting_layers(load, layers, shares))
    if not numbers:
        return list(events), 0
    sizes = {layer: size for layer, size in bytes_by_layer(events).items() if layer in numbers}
    largest = max(sizes.values(), default=0)
    own = [share_bytes(size, shares) for size in sizes.values()] if shares else []
    waiting = sum(own) if waits else 0 if shares else sum(sizes.values())
    if waits:
        own = [max(own, default=0)]
    gathered = "buffers" if shares and load.bits >= 16 else "weights"  # FSDP2's own are freed after each layer
    placed = [(largest, gathered)] * BUFFERS + [(size, "buffers" if waits else "weights") for size in own]
    kept = [AllocationEvent(block, size, part) for block, (size, part) in enumerate(placed)]
    blocks: dict[int, int] = {}
    removed: set[int] = set()
    for event in events:
        if event.is_free:
            if event.block not in removed:
                kept.append(event._replace(block=blocks[event.block]))
        elif event.layer in numbers and _is_streamable(event):
            removed.add(event.block)
        else:
            blocks[event.block] = len(kept)
            kept.append(event._replace(block=len(kept)))
    return kept, waiting


def with_split_ends(
    events: Sequence[AllocationEvent], ends: Sequence[int], shares: int, waits: bool = False
) -> tuple[list[AllocationEvent], int]:
    """The events of a fine-tune whose head and embedding are split over processes, and their bytes in main memory.

    ends: bytes of the head's matrix, then of the embedding's, unless it is the same. Each is whole for a moment of
    every forward pass: the embedding before the layers, the head from the last layer to the backward pass. waits: as of
    `with_streamed_layers`.
    """
    kept: list[AllocationEvent] = []
    blocks: dict[int, int] = {}

    def allocate(size: int, part: str = "weights", stage: str = "") -> int:
        kept.append(AllocationEvent(len(kept), aligned(size), part, stage=stage))
        return len(kept) - 1

    def free(block: int) -> None:
        kept.append(kept[block]._replace(is_free=True))

    own = [share_bytes(size, shares) for size in ends]
    for size in () if waits else own:
        allocate(size)
    left, gathered = [aligned(size) for size in ends], None
    last = _last_layer_events(events)
    removed: set[int] = set()
    for index, event in enumerate(events):
        if index and event.stage == "forward" != events[index - 1].stage:
            free(allocate(ends[-1], "buffers", "forward"))
        if gathered is not None and event.stage != "forward":
            free(gathered)
            gathered = None
        if event.is_free:
            if event.block not in removed:
                kept.append(event._replace(block=blocks[event.block]))
        elif not event.stage and event.part == "weights" and event.layer == OUTSIDE and event.size in left:
            left.remove(event.size)
            removed.add(event.block)
        else:
            blocks[event.block] = len(kept)
            kept.append(event._replace(block=len(kept)))
        if index in last:
            gathered = allocate(ends[0], "buffers", "forward")
    return kept, sum(own) if waits else 0


def receive_bytes(by_layer: dict[int, int], ends: Sequence[int], shares: int, waits: bool) -> int:
    """Bytes of the GPU for the buffers that FSDP2 receives weights in before it copies them to where they are used.

    They belong to another stream, and torch's allocator uses no block for two streams. There are buffers for two
    layers, or for all matrices outside of the layers (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py). Shares
    that wait in main memory are copied to the same stream's blocks first.
    by_layer: bytes of each layer's weights; ends: as of `with_split_ends`; waits: as of `with_streamed_layers`.
    """
    received = max(BUFFERS * max(by_layer.values(), default=0), sum(ends))
    return received + (share_bytes(received, shares) if waits else 0)


def _last_layer_events(events: Sequence[AllocationEvent]) -> set[int]:
    """Indices of the last event of a repeated layer in each forward pass."""
    forward: list[list[int]] = [[]]
    for index, event in enumerate(events):
        if event.stage != "forward":
            forward.append([])
        elif event.layer >= 0:
            forward[-1].append(index)
    return {indices[-1] for indices in forward if indices}


def saved_bytes(load: Load, by_layer: dict[int, int], weights: dict[int, int], shares: int = 0) -> tuple[int, int]:
    """Bytes of the device that streaming saves, and bytes that it copies from main memory for one pass.

    by_layer: bytes of each traced layer's weights; weights: how many layers of the whole network each stands for;
    shares: as of `with_streamed_layers`.
    """
    layers = sum(weights.values())
    count = len(waiting_layers(load, layers, shares))
    if not count or not by_layer:
        return 0, 0
    moved = int(count * sum(size * weights[layer] for layer, size in by_layer.items()) / layers)
    buffers = BUFFERS * max(by_layer.values())
    return (moved - share_bytes(moved, shares) - buffers, 0) if shares else (moved - buffers, moved)


def _is_streamable(event: AllocationEvent) -> bool:
    return event.part in STREAMED_PARTS and event.size >= LEAST_BYTES
