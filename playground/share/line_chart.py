"""Draw lines in one chart as HTML: each has a color, a dash and a letter at its end. Styles: assets/overlay.css.

The curves are SVG that stretches to the width there is; texts and marks stand over it as HTML, so that they keep their
size from a phone to a projector.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

BOX = 1000  # of the drawing, in its own units, in both directions
WHOLE = tuple(factor * 10**power for power in range(8) for factor in (1, 2, 5))  # between ticks that are counts
CLOCK = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, *(3600 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 96)))
BADGE_WIDTH, BADGE_HEIGHT = 7.5, 9.5  # % of the plot that a letter takes, on a phone
TICKS = 5  # about


@dataclass(frozen=True)
class Line:
    """One run's line. letter, look: its name in the chart and its number among the looks (color and dash).

    marks: points of a second kind, joined by a thin line; level: a height (from x, to x, y) that is drawn dotted, and
    whose letter is hollow.
    """

    letter: str
    look: int
    points: Sequence[tuple[float, float]] = ()
    marks: Sequence[tuple[float, float]] = ()
    level: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Axis:
    """From a value to its share of the axis in %, and the values that are written on it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)


def line_chart(
    lines: Sequence[Line],
    label: str,
    across: str,
    steps: Sequence[float],
    texts: tuple[Callable, Callable],
    from_zero: bool = False,
) -> str:
    """The chart; "" where there is nothing to draw.

    across: what the horizontal axis is; steps: between its ticks, to choose from; texts: of its values and of those of
    the vertical axis, which begins at 0 with from_zero.
    """
    everything = [point for line in lines for point in _all_points(line)]
    if not everything:
        return ""
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    x_axis, y_axis = axis(min(0.0, *xs), max(xs), steps), axis(0.0 if from_zero else min(ys), max(ys))
    grid = "".join(f'<path class="grid" d="M0 {_down(y_axis.place(tick))}H{BOX}"/>' for tick in y_axis.ticks)
    curves = "".join(_curves(line, x_axis, y_axis) for line in lines)
    across_texts = "".join(
        f'<b class="x" style="left:{x_axis.place(tick):.2f}%">{escape(texts[0](tick))}</b>' for tick in x_axis.ticks
    )
    up_texts = "".join(
        f'<b class="y" style="top:{100 - y_axis.place(tick):.2f}%">{escape(texts[1](tick))}</b>'
        for tick in y_axis.ticks
    )
    dots = "".join(_dots(line, x_axis, y_axis) for line in lines)
    return (
        f'<div class="chart" role="img" aria-label="{escape(label)}"><div class="plot">'
        f'<svg viewBox="0 0 {BOX} {BOX}" preserveAspectRatio="none" aria-hidden="true">{grid}{curves}</svg>'
        f"{across_texts}{up_texts}{dots}{_badges(lines, x_axis, y_axis)}</div>"
        f'<p class="across">{escape(across)}</p></div>'
    )


def axis(low: float, high: float, steps: Sequence[float] = ()) -> Axis:
    """An axis with round ticks that holds these values.

    steps: between two ticks, the least first; the axis then ends at the values. Without them it ends at its ticks.
    """
    if high <= low:
        low, high = (low - 0.5, low + 0.5) if low else (0.0, 1.0)
    least = (high - low) / TICKS * 0.999
    power = 10.0 ** math.floor(math.log10(least))
    decimals = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    step = next((step for step in (*steps, *decimals) if step >= least), decimals[-1])
    if steps:
        ticks = [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return Axis(low, high, tuple(ticks))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(number * step for number in range(first, last + 1)))


def _all_points(line: Line) -> Iterator[tuple[float, float]]:
    yield from line.points
    yield from line.marks
    if line.level:
        yield from ((line.level[0], line.level[2]), (line.level[1], line.level[2]))


def _curves(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    drawn = [("line", line.points), ("join", line.marks)]
    if line.level:
        begin, end, y = line.level
        drawn.append(("level", [(begin, y), (end, y)]))
    return "".join(
        f'<polyline class="{kind} look-{line.look}" points="'
        + " ".join(f"{10 * x_axis.place(x):.1f},{_down(y_axis.place(y))}" for x, y in points)
        + '"/>'
        for kind, points in drawn
        if len(points) > 1
    )


def _dots(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    """Points that no line shows: those of the second kind, and a line of one point."""
    alone = line.points if len(line.points) == 1 else ()
    return "".join(
        f'<i class="{kind} look-{line.look}" style="left:{x_axis.place(x):.2f}%;top:{100 - y_axis.place(y):.2f}%"></i>'
        for kind, points in (("dot", alone), ("ring", line.marks))
        for x, y in points
    )


def _badges(lines: Sequence[Line], x_axis: Axis, y_axis: Axis) -> str:
    """The letter at each line's end, moved down or up where two would overlap."""
    wanted = []
    for line in lines:
        ends = [max(points) for points in (line.points, line.marks) if points]
        if ends:
            wanted.append((line, "end", *ends[0]))
        if line.level:
            wanted.append((line, "end hollow", *line.level[1:]))
    places = apart([(x_axis.place(x), 100 - y_axis.place(y)) for _, _, x, y in wanted])
    return "".join(
        f'<em class="{kind} look-{line.look}" style="left:{left:.2f}%;top:{top:.2f}%">{escape(line.letter)}</em>'
        for (line, kind, _, _), (left, top) in zip(wanted, places)
    )


def apart(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places in % of the plot, the second of two that overlap moved to the nearest free height."""
    taken: list[tuple[float, float]] = []
    moved: dict[int, tuple[float, float]] = {}
    for index in sorted(range(len(places)), key=lambda number: places[number][1]):
        left, top = places[index]
        near = [y for x, y in taken if abs(x - left) < BADGE_WIDTH]
        free = [top, *(y + sign * BADGE_HEIGHT for y in near for sign in (1, -1))]
        fitting = [y for y in free if 0 <= y <= 100 and all(abs(y - other) > BADGE_HEIGHT - 1e-6 for other in near)]
        moved[index] = (left, min(fitting or [top], key=lambda y: abs(y - top)))
        taken.append(moved[index])
    return [moved[index] for index in range(len(places))]


def _down(share: float) -> str:
    """A height in % as SVG counts it, from above."""
    return f"{BOX - 10 * share:.1f}"
