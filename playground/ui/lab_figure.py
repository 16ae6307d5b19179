"""The bit-width lab's figure and table as HTML: loss against the size of the weights, and the answer at each width.

The figure is that of "The case for 4-bit precision" (arXiv 2212.09720): quality against total model bits. Styles are in
assets/lab.css. All text is escaped here.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from playground import catalog

SHAPES = {"broad": (760, 420), "narrow": (340, 340)}  # width and height of the drawings, in their own units
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 26, 52  # margins
LABEL_HEIGHT, LABEL_WIDTH = 17, 8.6  # of a line, and of a character
TITLE_WIDTH = 300.0  # of the vertical axis
TICK_WIDTH = 56.0  # that a size below the horizontal axis takes
MOST_EXPONENT = 50.0  # nats: beyond it, no perplexity can be read
MOST_LOSS = 1.0  # nats above the best one: what is worse is drawn at the upper edge, with its number
LOOKS = 4  # colors of models

Point = Mapping  # a `lab_point` event's fields
Points = Mapping[tuple[str, str], Point]  # by model and format


@dataclass(frozen=True)
class Scale:
    """From values to the units of a drawing, one of SHAPES. Sizes are on a logarithmic scale."""

    shape: str
    smallest: float
    largest: float
    best: float
    worst: float

    @property
    def width(self) -> int:
        return SHAPES[self.shape][0]

    @property
    def height(self) -> int:
        return SHAPES[self.shape][1]

    def x(self, size: float) -> float:
        share = math.log(size / self.smallest) / math.log(self.largest / self.smallest)
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        share = (min(loss, self.worst) - self.best) / (self.worst - self.best)
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)


def figure(translate: Callable, points: Points) -> str:
    """Loss a token against the size of the weights, a mark a point; a sentence where there is none yet.

    It is drawn twice, of which the stylesheet shows one: on a phone the narrow one, whose labels can be read there.
    """
    finite = {key: point for key, point in points.items() if point.get("loss") is not None}
    if not finite:
        return f'<p class="quiet">{escape(translate("lab.none"))}</p>'
    models = list(dict.fromkeys(model for model, _ in finite))
    drawings = "".join(_drawing(translate, shape, models, finite) for shape in SHAPES)
    return (
        f'<figure class="lab">{drawings}<figcaption>{_legend(translate, models)}'
        f"{_replaced_note(translate, finite)}</figcaption></figure>"
    )


def _drawing(translate: Callable, shape: str, models: Sequence[str], points: Points) -> str:
    scale = _scale(shape, points.values())
    drawn = [_model(scale, model, number, points) for number, model in enumerate(models)]
    label = escape(translate("lab.figure.label", count=len(points)))
    return (
        f'<svg class="{shape}" viewBox="0 0 {scale.width} {scale.height}" role="img" aria-label="{label}">'
        f"{_axes(translate, scale)}{''.join(drawn)}{_labels(scale, models, points)}</svg>"
    )


def answers_table(translate: Callable, points: Points) -> str:
    """Every point with its size, loss, speed and answer, the largest first; "" where there is none."""
    if not points:
        return ""
    with_speed = any(point.get("tokens_per_s") is not None for point in points.values())
    head = ["format", "size", "loss", *(["speed"] if with_speed else []), "answer"]
    top = "".join(f'<th scope=col class="{name}">{escape(translate(f"lab.head.{name}"))}</th>' for name in head)
    rows = []
    for model in dict.fromkeys(model for model, _ in points):
        name = escape(catalog.display_name(model))
        rows.append(f'<tr class="group"><th scope=rowgroup colspan={len(head)}>{name}</th></tr>')
        of_model = [(format, point) for (measured, format), point in points.items() if measured == model]
        rows += [_row(translate, format, point, with_speed) for format, point in sorted(of_model, key=_by_size)]
    body = "".join(rows)
    return f'<div class="plan wide lab-table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _by_size(entry: tuple[str, Point]) -> float:
    return -float(entry[1]["bytes"])


def _row(translate: Callable, format: str, point: Point, with_speed: bool) -> str:
    more, interval = point.get("more_loss"), point.get("more_loss_interval")
    loss, perplexity = "∞", ""
    if point["loss"] is not None:
        loss = f"{point['loss']:.3f}"
        text = translate("lab.perplexity", perplexity=math.exp(min(point["loss"], MOST_EXPONENT)))
        perplexity = f"<small>{escape(text)}</small>"
    difference = "" if more is None else f"<small>{more:+.3f} ± {interval:.3f}</small>".replace("-", "−")
    speed = "" if point.get("tokens_per_s") is None else f"{point['tokens_per_s']:.0f}"
    answer = escape(str(point.get("answer", "")).strip())
    cut = f" <small>{escape(translate('lab.cut'))}</small>" if point.get("finish") == "limit" else ""
    kernel = "" if point["kernel"] else f"<small>{escape(translate('lab.simulated.short'))}</small>"
    if replaced := _replaced(point):
        kernel += f"<small>{escape(translate('lab.stored_as', types=replaced))}</small>"
    cells = (
        f"<td>{_format_size(point['bytes'])}</td><td>{loss}{difference}{perplexity}</td>"
        + f"<td>{speed}</td>" * with_speed
    )
    return f'<tr><th scope=row>{escape(format)}{kernel}</th>{cells}<td class="answer">{answer}{cut}</td></tr>'


def _scale(shape: str, points: Iterable[Point]) -> Scale:
    """A scale with room around the points."""
    listed = list(points)
    sizes, losses = [float(point["bytes"]) for point in listed], [float(point["loss"]) for point in listed]
    best = min(losses)
    worst = min(max(losses), best + MOST_LOSS)
    room = max(0.05, 0.06 * (worst - best))
    return Scale(shape, min(sizes) / 1.15, max(sizes) * 1.25, best - room, max(worst, best + 0.1) + room)


def _axes(translate: Callable, scale: Scale) -> str:
    bottom, right = scale.height - BOTTOM, scale.width - RIGHT
    marks, free = [], 0.0  # free: from where on a size can be written
    for size in _sizes_between(scale.smallest, scale.largest):
        x = scale.x(size)
        marks.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        if x - TICK_WIDTH / 2 >= free:
            marks.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_short_size(size)}</text>')
            free = x + TICK_WIDTH / 2
    step = next(step for step in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if (scale.worst - scale.best) / step <= 7)
    for number in range(math.ceil(scale.best / step), math.floor(scale.worst / step) + 1):
        y = scale.y(number * step)
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(
            f'<text x="{LEFT - 8}" y="{y + 5:.1f}" text-anchor="end">{number * step:.{2 if step < 0.1 else 1}f}</text>'
        )
    across = escape(translate("lab.axis.size" if scale.shape == "broad" else "lab.axis.size_short"))
    up = escape(translate("lab.axis.loss"))
    marks.append(f'<text x="{right}" y="{scale.height - 8}" text-anchor="end" class="title">{across}</text>')
    marks.append(f'<text x="4" y="14" class="title">{up}</text>')
    return "".join(marks)


def _model(scale: Scale, model: str, number: int, points: Points) -> str:
    """A model's points, those of one kind of format joined by a line."""
    of_model = {format: point for (measured, format), point in points.items() if measured == model}
    kinds: dict[str, list[Point]] = {}
    for format, point in of_model.items():
        kinds.setdefault(format.split(":")[0].rstrip("0123456789"), []).append(point)
    lines = []
    for joined in kinds.values():
        for one, other in pairwise(sorted(joined, key=lambda point: float(point["bytes"]))):
            ends = [scale.x(one["bytes"]), scale.y(one["loss"]), scale.x(other["bytes"]), scale.y(other["loss"])]
            lines.append('<line class="join" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends))
    marks = []
    for format, point in of_model.items():
        title = f"{catalog.display_name(model)}, {format}: {_format_size(point['bytes'])}, {point['loss']:.3f}"
        look = "kernel" if point["kernel"] else "simulated"
        x, y = scale.x(point["bytes"]), scale.y(point["loss"])
        marks.append(f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{escape(title)}</title></circle>')
    return f'<g class="model look-{number % LOOKS}">{"".join(lines)}{"".join(marks)}</g>'


def _labels(scale: Scale, models: Sequence[str], points: Points) -> str:
    """The formats' names beside their points, where there is room for them."""
    taken = [(0.0, 0.0, TITLE_WIDTH, 18.0)]
    taken += [(scale.x(p["bytes"]) - 7, scale.y(p["loss"]) - 7, 14.0, 14.0) for p in points.values()]
    texts = []
    for (model, format), point in points.items():
        outside = point["loss"] > scale.worst
        name = format + "*" * bool(_replaced(point))
        text = f"{name} ↑ {point['loss']:.1f}" if outside else name
        x, y, width = scale.x(point["bytes"]), scale.y(point["loss"]), LABEL_WIDTH * len(text)
        left_of_center = max(LEFT, x - width / 2)  # beside the axis, at its left end
        places = [(x + 10, y - 8), (x - 10 - width, y - 8), (left_of_center, y - 26), (left_of_center, y + 9)]
        for left, top in places:
            box = (left, top, width, LABEL_HEIGHT)
            if _is_inside(scale, box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                look = models.index(model) % LOOKS
                texts.append(f'<text class="name look-{look}" x="{left:.1f}" y="{top + 13:.1f}">{escape(text)}</text>')
                break
    return "".join(texts)


def _is_inside(scale: Scale, box: tuple[float, float, float, float]) -> bool:
    left, top, width, height = box
    return left >= LEFT and left + width <= scale.width and top >= 0 and top + height <= scale.height - BOTTOM + 4


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    apart = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
    return not (apart or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1])


def _legend(translate: Callable, models: Sequence[str]) -> str:
    names = "".join(
        f'<li class="look-{number % LOOKS}"><i></i>{escape(catalog.display_name(model))}</li>'
        for number, model in enumerate(models)
    )
    kinds = "".join(
        f'<li class="{look}"><i></i>{escape(translate(f"lab.{look}"))}</li>' for look in ("kernel", "simulated")
    )
    return f"<ul>{names}{kinds}</ul>"


def _replaced(point: Point) -> str:
    """The GGUF types that took the place of the format's, with their share of the weights, as text; or ""."""
    shares = point.get("stored_as")
    if not isinstance(shares, dict) or not all(isinstance(share, (int, float)) for share in shares.values()):
        return ""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _replaced_note(translate: Callable, points: Points) -> str:
    """Which formats, marked by a star in the figure, aren't stored as their name says; "" where all are."""
    texts = {f"{format}: {replaced}" for (_, format), point in points.items() if (replaced := _replaced(point))}
    note = translate("lab.replaced", formats="; ".join(sorted(texts)))
    return f'<p class="small">{escape(note)}</p>' if texts else ""


def _sizes_between(smallest: float, largest: float) -> list[float]:
    """Powers of two times 1 MiB, or those and halves between them where there are few."""
    powers = [2.0**exponent for exponent in range(20, 45)]
    found = [size for size in powers if smallest <= size <= largest]
    if len(found) < 4:
        found = sorted({*found, *(1.5 * size for size in powers if smallest <= 1.5 * size <= largest)})
    return found


def _format_size(size: float) -> str:
    """In MiB below 1 GiB, so that the sizes of one model can be compared."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _short_size(size: float) -> str:
    return f"{size / 2**30:g} GiB" if size >= 2**30 else f"{size / 2**20:g} MiB"
