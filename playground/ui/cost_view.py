"""The cost of a cutoff as HTML: a histogram of the rows' tokens, and what cutting there loses, saves and needs.

Styles are in assets/tokens.css. All text is escaped here.
"""

from collections.abc import Callable
from html import escape

from playground.errors import PlaygroundError
from playground.ui.tables import number

WIDTH, HEIGHT = 600, 150  # of the drawing, in SVG units; the axis is below
TICKS = 5
MANY_TRUNCATED = 0.05  # share of the answers from which the loss is shown as a problem


def draw(translate: Callable, lang: str, cost: dict) -> str:
    """The answer of planning/rows.py's `cutoff_cost`: the histogram with its cutoff, and the facts below it."""
    facts = "".join(f"<li>{line}</li>" for line in _facts(translate, lang, cost))
    return f'<section class="plan cost">{histogram(translate, cost)}<ul class="facts">{facts}</ul></section>'


def histogram(translate: Callable, cost: dict) -> str:
    """Bars of rows by their tokens, the cutoff as a line, and rows longer than it hatched."""
    bars, cutoff = cost["histogram"], cost["cutoff"]
    edge = len(bars["counts"]) * bars["width"]
    median, longest, over = f"{bars['median']:,.0f}", number(bars["longest"]), number(sum(bars["over"]))
    label = escape(translate("cost.figure", rows=number(cost["counted"]), median=median, longest=longest, over=over))
    hatching = (
        '<defs><pattern id="cost-over" width="6" height="6" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate(45)">'
        '<rect width="6" height="6"/><line y2="6"/></pattern></defs>'
    )
    axis = f'<line class="axis" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    drawing = f"{hatching}{_bars(translate, bars)}{axis}{_ticks(edge)}{_cutoff_line(translate, cutoff, edge)}"
    return (
        f'<p class="small">{label}</p>'
        f'<svg viewBox="0 -4 {WIDTH} {HEIGHT + 24}" role="img" aria-label="{label}">{drawing}</svg>'
        f'<p class="small key"><i class="within"></i>{escape(translate("cost.within"))}'
        f' <i class="over"></i>{escape(translate("cost.over"))}</p>'
    )


def _bars(translate: Callable, bars: dict) -> str:
    counts, width = bars["counts"], bars["width"]
    most, step = max(counts), WIDTH / len(counts)
    parts = []
    for index, (count, over) in enumerate(zip(counts, bars["over"])):
        whole, beyond = HEIGHT * count / most, HEIGHT * over / most
        is_last = index + 1 == len(counts)
        last = number(bars["longest"] if is_last and bars["open"] else (index + 1) * width - 1)
        first = number(index * width)
        text = translate("cost.bar", first=first, last=last, count=number(count), over=number(over))
        title = f"<title>{escape(text)}</title>"
        if count > over:
            parts.append(_bar("within", index * step, step, beyond, whole - beyond, title))
        if over:
            parts.append(_bar("over", index * step, step, 0, beyond, title))
    return "".join(parts)


def _bar(look: str, left: float, width: float, bottom: float, height: float, title: str) -> str:
    """A bar that begins `bottom` above the axis: rows longer than the cutoff stand below those that are not."""
    return (
        f'<rect class="{look}" x="{left + 0.5:.2f}" y="{HEIGHT - bottom - height:.2f}"'
        f' width="{max(width - 1, 0.5):.2f}" height="{max(height, 0.6):.2f}">{title}</rect>'
    )


def _cutoff_line(translate: Callable, cutoff: int, edge: int) -> str:
    x = WIDTH * min(cutoff / edge, 1)
    anchor, offset = ("end", -5) if x > WIDTH / 2 else ("start", 5)
    text = escape(translate("cost.cutoff", cutoff=number(cutoff)))
    return (
        f'<line class="cutoff" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT + 16}"/>'
        f'<text class="cutoff" x="{x + offset:.1f}" y="12" text-anchor="{anchor}">{text}</text>'
    )


def _ticks(edge: int) -> str:
    values = [round(edge * n / TICKS) for n in range(TICKS + 1)]
    anchors = ["start", *["middle"] * (TICKS - 1), "end"]
    return "".join(
        f'<text class="tick" x="{WIDTH * n / edge:.1f}" y="{HEIGHT + 14}" text-anchor="{anchor}">{n:,}</text>'
        for n, anchor in zip(values, anchors)
    )


def _facts(translate: Callable, lang: str, cost: dict) -> list[str]:
    """A line of HTML each: what is lost, the tokens of an epoch, what packing saves, memory, and time."""
    lines = []
    if cost["counted"] < cost["rows"]:
        text = translate("cost.sample", counted=number(cost["counted"]), rows=number(cost["rows"]))
        lines.append(f'<em class="pill">{escape(text)}</em>')
    lines += _losses(translate, cost)
    scale = cost["rows"] / cost["counted"]
    epoch = {name: number(round(cost[name] * scale)) for name in ("tokens", "trained", "uncut")}
    lines.append(escape(translate("cost.tokens", **epoch)))
    memory = cost["memory"]
    if cost["padding"]:
        key = "cost.padded" if memory and memory["batching"] == "padded" else "cost.packed"
        lines.append(escape(translate(key, saved=cost["padding"]["saved"])))
    if memory:
        size = translate("cost.memory", need_bytes=memory["bytes"], checkpointing=memory["checkpointing"])
        fit = memory["verdict"]
        lines.append(escape(size) + (f" {_verdict(fit, translate(f'plan.verdict.{fit}'))}" if fit else ""))
    if cost["trouble"]:
        lines.append(_verdict("no", PlaygroundError.from_dict(cost["trouble"]).text(lang)))
    return lines + [escape(line) for line in _durations(translate, cost)]


def _losses(translate: Callable, cost: dict) -> list[str]:
    """The answers that lose their end, and the rows that are left out."""
    share = cost["truncated"] / max(1, cost["counted"])
    look = "no" if share > MANY_TRUNCATED else "tight" if share else "fits"
    lines = [_verdict(look, translate("cost.truncated", share=share, count=number(cost["truncated"])))]
    if cost["left_out"]:
        lines.append(_verdict("no", translate("cost.left_out", count=number(cost["left_out"]))))
    return lines


def _verdict(look: str, text: str) -> str:
    return f'<b class="verdict {look}">{escape(text)}</b>'


def _durations(translate: Callable, cost: dict) -> list[str]:
    """A fine-tune's duration: from an earlier run's speed, as estimated for cards, or that it isn't known."""
    lines = []
    measured = cost["measured"]
    if measured:
        speed = f"{measured['tokens_per_s']:,.0f}"
        time = _format_time(translate, measured["seconds"])
        lines.append(translate("cost.measured", time=time, run=measured["run"], tokens_per_s=speed))
    for estimate in cost["estimates"]:
        lines.append(
            translate(
                "cost.estimate.launch" if estimate["bound"] == "launch" else "cost.estimate",
                card=estimate["card"],
                time=_format_time(translate, estimate["seconds"]),
                tflops=f"{estimate['tflops']:,.0f}",
                utilized=estimate["utilized"],
                source=estimate["source"],
            )
        )
    return lines or [translate("cost.no_time")]


def _format_time(translate: Callable, seconds: float) -> str:
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return translate(f"cost.{name}", count=f"{seconds / size:.1f}")
    return translate("cost.seconds", count=f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}")
