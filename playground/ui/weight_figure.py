"""What a weight becomes, as HTML: a layer's histogram before and after, one block on its grid, and LoRA to scale.

The picture keeps its axes while the format changes, so that one sees what the format does. Styles: assets/lab.css. All
text is escaped here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 190
MARGIN = 16
THINNEST = 1.5  # of a matrix in the drawing of LoRA: a thinner one isn't seen from the last row
LINE_HEIGHT = 120  # of the block's two number lines


def weight_figure(translate: Callable, picture: Mapping) -> str:
    """The histogram, the block and the errors. picture: of the planner's `weight_picture`."""
    rows, columns = picture["shape"]
    head = translate(
        "weight.about",
        layer=picture["layer"],
        rows=rows,
        columns=columns,
        weights=picture["weights"],
        bits=picture["bits"],
    )
    error, outliers = picture["error"], picture["outliers"]
    facts = translate(
        "weight.error",
        largest=f"{error['largest']:.4f}",
        mean=f"{error['mean']:.5f}",
        rms=f"{error['rms']:.5f}",
        relative=error["relative"],
    )
    far = translate("weight.outliers", share=outliers["share"], of_error=outliers["of_error"])
    return (
        f'<figure class="lab weight"><p><b>{escape(head)}</b></p>'
        f'<p class="small">{escape(translate("weight.histogram"))}</p>{_histogram(picture)}'
        f'<p class="small">{escape(translate("weight.block"))}</p>{_block(picture["block"], picture["edge"])}'
        f"<p>{escape(facts)}<br>{escape(far)}</p></figure>"
    )


def lora_figure(translate: Callable, shape: Sequence[int], r: int, cells: Sequence[float] = ()) -> str:
    """W, A and B of a LoRA adapter as areas to scale, with their numbers of parameters.

    cells: the first weights of W, drawn magnified; each shows its number when it is pointed at.
    """
    rows, columns = shape
    unit = 240 / max(rows, columns)
    height, width, rank = rows * unit, columns * unit, max(THINNEST, r * unit)
    whole, a, b = rows * columns, r * columns, rows * r
    text = translate("weight.lora", whole=whole, adapter=a + b, r=r, share=(a + b) / whole)
    boxes = [
        ("w", MARGIN, MARGIN, width, height, f"W  {rows:,} × {columns:,}"),
        ("a", MARGIN + width + 150, MARGIN, width, rank, f"A  {r:,} × {columns:,} = {a:,}"),
        ("b", MARGIN + width + 120, MARGIN + rank + 26, rank, height, f"B  {rows:,} × {r:,} = {b:,}"),
    ]
    drawn = "".join(
        f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>'
        for name, x, y, w, h, _ in boxes
    )
    w, a_box, b_box = boxes
    labels = (
        f'<text x="{w[1]:.1f}" y="{w[2] + w[4] + 18:.1f}">{w[5]}</text>'
        f'<text x="{a_box[1]:.1f}" y="{a_box[2] + a_box[4] + 18:.1f}">{a_box[5]}</text>'
        f'<text x="{b_box[1] + b_box[3] + 8:.1f}" y="{b_box[2] + b_box[4] / 2 + 12:.1f}">{b_box[5]}</text>'
    )
    top = MARGIN + rank + 50
    total = max(MARGIN + rank + 40 + height, top + 90 if cells else 0)
    drawn += number_cells(cells, WIDTH - 150, top, translate("weight.cells"))
    thicker = translate("weight.lora_thicker", times=rank / (r * unit)) if rank > 1.05 * r * unit else ""
    note = f'<p class="small">{escape(thicker)}</p>' if thicker else ""
    return (
        f'<figure class="lab lora"><p><b>{escape(text)}</b></p><svg viewBox="0 0 {WIDTH} {total:.0f}" role="img"'
        f' aria-label="{escape(text)}">{drawn}{labels}</svg>{note}</figure>'
    )


def number_cells(cells: Sequence[float], left: float, top: float, label: str) -> str:
    """Weights as small colored cells, eight a row: the larger, the darker; negative ones in another color.

    Each shows its number when it is pointed at. left, top: of the first one in its drawing, which is SVG.
    """
    largest = max((abs(cell) for cell in cells), default=0) or 1
    drawn = ""
    for number, cell in enumerate(cells):
        x, y, sign = left + 15 * (number % 8), top + 15 * (number // 8), "low" if cell < 0 else "high"
        drawn += (
            f'<rect class="cell {sign}" x="{x:.1f}" y="{y:.1f}" width="14" height="14"'
            f' fill-opacity="{0.1 + 0.9 * abs(cell) / largest:.2f}"><title>{cell:.5f}</title></rect>'
        )
    caption = f'<text x="{left:.1f}" y="{top + 15 * math.ceil(len(cells) / 8) + 14:.1f}">{escape(label)}</text>'
    return drawn + caption if cells else ""


def _histogram(picture: Mapping) -> str:
    """Both histograms with square-root heights, so that the few large weights are seen too."""
    largest = math.sqrt(max(*picture["before"], *picture["after"], 1))
    step = (WIDTH - 2 * MARGIN) / len(picture["before"])
    bars = []
    for look in ("before", "after"):
        for number, count in enumerate(picture[look]):
            height = (HEIGHT - 30) * math.sqrt(count) / largest
            inset = 0.0 if look == "before" else step * 0.3
            bars.append(
                f'<rect class="{look}" x="{MARGIN + number * step + inset:.1f}" y="{HEIGHT - 22 - height:.1f}"'
                f' width="{step - 2 * inset:.1f}" height="{height:.1f}"/>'
            )
    edge = picture["edge"]
    axis = "".join(
        f'<text x="{x}" y="{HEIGHT - 4}" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in (
            (MARGIN, "start", f"−{edge:.3f}"),
            (WIDTH / 2, "middle", "0"),
            (WIDTH - MARGIN, "end", f"{edge:.3f}"),
        )
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{"".join(bars)}{axis}</svg>'


def _block(block: Mapping, edge: float) -> str:
    """The block's weights on the upper line, what they become on the lower one, with the grid of values there."""
    widest = max(map(abs, [*block["before"], *block["grid"]]), default=edge) or edge

    def x(value: float) -> float:
        return WIDTH / 2 + value / widest * (WIDTH / 2 - MARGIN)

    grid = "".join(
        f'<line class="value" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{LINE_HEIGHT - 22}" y2="{LINE_HEIGHT - 2}"/>'
        for value in block["grid"]
    )
    ways = "".join(
        f'<line class="way" x1="{x(one):.1f}" y1="18" x2="{x(other):.1f}" y2="{LINE_HEIGHT - 14}"/>'
        f'<circle class="before" cx="{x(one):.1f}" cy="16" r="5"><title>{one:.5f} → {other:.5f}</title></circle>'
        f'<circle class="after" cx="{x(other):.1f}" cy="{LINE_HEIGHT - 12}" r="4"/>'
        for one, other in zip(block["before"], block["after"])
    )
    return f'<svg viewBox="0 0 {WIDTH} {LINE_HEIGHT}" aria-hidden="true">{grid}{ways}</svg>'
