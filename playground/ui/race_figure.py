"""The race's picture as HTML: the training loss over the steps for each kind of weights. Styles: assets/lab.css."""

from collections.abc import Callable, Sequence
from html import escape

from playground.runs.race import Lane

WIDTH, HEIGHT = 760, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 100, 12, 34  # margins; the names stand on the right
LABEL_HEIGHT = 17
LOWEST_LABEL = HEIGHT - 10.0
LOOKS = 6  # colors


def race_figure(translate: Callable, found: Sequence[Lane]) -> str:
    """Lines of loss against steps, each named at its end; "" where no lane has two steps yet."""
    drawn = [lane for lane in found if len(lane.losses) > 1]
    if not drawn:
        return ""
    last = max(lane.losses[-1][0] for lane in drawn)
    values = [loss for lane in drawn for _, loss in lane.losses]
    low, high = min(values), max(values)

    def x(step: float) -> float:
        return LEFT + (step - 1) / max(1, last - 1) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return HEIGHT - BOTTOM - (loss - low) / (high - low or 1) * (HEIGHT - TOP - BOTTOM)

    lines = "".join(
        f'<polyline class="look-{number % LOOKS}" fill="none" points="'
        + " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in lane.losses)
        + '"/>'
        for number, lane in enumerate(drawn)
    )
    ends = _apart([y(lane.losses[-1][1]) for lane in drawn])
    names = "".join(
        f'<text class="look-{number % LOOKS}" x="{x(lane.losses[-1][0]) + 6:.1f}" y="{at + 5:.1f}">'
        f"{escape(translate('runs.bits', bits=lane.bits))} {escape(lane.type)}</text>"
        for number, (lane, at) in enumerate(zip(drawn, ends))
    )
    axis = "".join(
        f'<text class="axis" x="{left}" y="{top}" text-anchor="{anchor}">{escape(text)}</text>'
        for left, top, anchor, text in (
            (LEFT - 6, TOP + 8, "end", f"{high:.2f}"),
            (LEFT - 6, HEIGHT - BOTTOM, "end", f"{low:.2f}"),
            (LEFT, HEIGHT - BOTTOM + 20, "start", "1"),
            (WIDTH - RIGHT, HEIGHT - BOTTOM + 20, "end", translate("race.steps", steps=last)),
        )
    )
    label = escape(translate("race.figure"))
    return (
        f'<figure class="lab race-lines"><p class="small">{label}</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{label}">{lines}{names}{axis}</svg></figure>'
    )


def _apart(heights: Sequence[float]) -> list[float]:
    """The heights, moved down where two names would overlap, and up again where they would leave the picture."""
    placed: dict[int, float] = {}
    order = sorted(range(len(heights)), key=heights.__getitem__)
    below = -float(LABEL_HEIGHT)
    for index in order:
        below = placed[index] = max(heights[index], below + LABEL_HEIGHT)
    above = LOWEST_LABEL + LABEL_HEIGHT
    for index in reversed(order):
        above = placed[index] = min(placed[index], above - LABEL_HEIGHT)
    return [placed[index] for index in range(len(heights))]
