"""Which streamed layers' weights are in the buffers each time the computation visits a layer, by the rules of a run."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from playground.model.copy_order import CopyOrder

FORWARD = ("forward", "prefill", "decode")
BACKWARD = ("recompute", "backward")


class Buffered(NamedTuple):
    """Numbers of layers during a visit: in a buffer, since what computes has waited for the copy, and on their way."""

    ready: list[int]
    copying: list[int]


def buffered_layers(visits: Sequence[tuple[str, int]], numbers: Sequence[int]) -> list[Buffered]:
    """For each visit, as (stage, layer), what the buffers hold of the streamed layers of these numbers.

    The computation is one of many alike: at its beginning they hold what it leaves there. Stages without a computation
    of layers (loading) leave the buffers as they are.
    """
    walk = _Walk(numbers)
    for visit in visits:
        walk.enter(*visit)
    return [walk.enter(*visit) for visit in visits]


class _Walk:
    """Goes through visits with the order of copies of a run, and no weights."""

    def __init__(self, numbers: Sequence[int]):
        self._numbers = numbers
        self._copying: set[int] = set()  # positions of layers that nothing has waited for yet
        self._order = CopyOrder(numbers, self._copying.add, self._copying.discard)
        self._computed: tuple[str, int] | None = None  # the forward visit before
        self._backward: int | None = None  # the layer whose backward pass is under way

    def enter(self, stage: str, layer: int) -> Buffered:
        if self._computed:
            self._order.after_forward(self._computed[1], backward_follows=self._computed[0] == "forward")
        self._computed = (stage, layer) if stage in FORWARD else None
        if stage in FORWARD:
            self._backward = None
            self._order.before_forward(layer)
        elif stage in BACKWARD and layer != self._backward:
            self._backward = layer
            self._order.before_backward(layer)
        held = [position for position in self._order.holds if position is not None]
        copying = self._copying.intersection(held)
        return Buffered(self._of(set(held) - copying), self._of(copying))

    def _of(self, positions: Iterable[int]) -> list[int]:
        return sorted(self._numbers[position] for position in positions)
