"""When each streamed layer's weights are copied, and into which of the buffers, by the order in which layers compute.

The n-th streamed layer always gets buffer n mod BUFFERS, and is copied once the layer that was there has computed: one
layer ahead. Nothing here touches weights: StreamedLayers (model/streaming.py) copies by these rules, and a prediction
goes by them too (predict/buffered_layers.py).
"""

from collections.abc import Callable, Sequence

BUFFERS = 2


class CopyOrder:
    """The rules for layers of these numbers, in the order in which they compute.

    Positions are indices into the numbers. copy: begins to copy the layer of a position into its buffer, where the
    layer that was there has computed; wait: has what computes next wait for that copy. holds: by buffer, the position
    of the layer that is there or on its way.
    """

    def __init__(self, numbers: Sequence[int], copy: Callable[[int], None], wait: Callable[[int], None]):
        self.holds: list[int | None] = [None] * BUFFERS
        self._count, self._copy, self._wait = len(numbers), copy, wait
        self._positions = {number: position for position, number in enumerate(numbers)}
        self._last_backward: int | None = None

    def before_forward(self, number: int) -> None:
        """The layer of this number is about to compute its forward pass; it may be one that isn't streamed."""
        self._last_backward = None
        position = self._positions.get(number)
        if position is not None:
            self._require(position, 1)

    def after_forward(self, number: int, backward_follows: bool) -> None:
        """It has computed. backward_follows: whether a backward pass will; else the next forward pass begins."""
        position = self._positions.get(number)
        if position is None:
            return
        following = position + BUFFERS
        if following < self._count:
            self._fill(following)
        elif not backward_follows:
            self._fill(position % BUFFERS)

    def before_backward(self, number: int) -> None:
        """The layer is about to compute its backward pass, or to be recomputed for it."""
        last, self._last_backward = self._last_backward, None
        if last is not None and last >= BUFFERS:  # the layer behind this one has computed
            self._fill(last - BUFFERS)
        position = self._positions.get(number)
        if position is not None:
            self._require(position, -1)
            self._last_backward = position

    def _require(self, position: int, direction: int) -> None:
        """Have a layer's weights in its buffer when the device comes to what follows; those behind it under way."""
        self._fill(position)
        self._wait(position)
        for ahead in range(1, BUFFERS):
            following = position + direction * ahead
            if 0 <= following < self._count:
                self._fill(following)

    def _fill(self, position: int) -> None:
        """Copy a layer's weights into its buffer, unless they are there."""
        if self.holds[position % BUFFERS] != position:
            self.holds[position % BUFFERS] = position
            self._copy(position)
