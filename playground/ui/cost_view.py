"""The price of a cutoff as HTML: rows by their tokens, and what cutting there costs. Looks stand in assets/tokens.css."""

from collections.abc import Callable
from html import escape

from playground.errors import PlaygroundError
from playground.ui.tables import number

WIDE, HIGH = 600, 150  # of the drawing, in its own units; below it the axis
TICKS = 5


def draw(translate: Callable, lang: str, found: dict) -> str:
    """What `price` of preview.py found: the histogram with its cutoff, and what is lost, saved and needed."""
    return f'<section class="plan price">{histogram(translate, found)}<ul class="facts">{"".join(f"<li>{line}</li>" for line in _facts(translate, lang, found))}</ul></section>'


def histogram(translate: Callable, found: dict) -> str:
    """Bars of rows by their tokens, the cutoff as a line, and rows longer than it hatched."""
    bars, cutoff = found["histogram"], found["cutoff"]
    counts, width = bars["counts"], bars["width"]
    most, step, edge = max(counts), WIDE / len(counts), len(counts) * width
    parts = []
    for at, (count, over) in enumerate(zip(counts, bars["over"])):
        whole, beyond = HIGH * count / most, HIGH * over / most
        upto = number((at + 1) * width - 1) if at + 1 < len(counts) or not bars["open"] else number(bars["longest"])
        title = f"<title>{escape(translate('price.bar', first=number(at * width), last=upto, count=number(count), over=number(over)))}</title>"
        parts += [
            _bar("within", at * step, whole - beyond, step, beyond, title) if count > over else "",
            _bar("over", at * step, beyond, step, 0, title) if over else "",
        ]
    place = WIDE * min(cutoff / edge, 1)
    anchor = "end" if place > WIDE / 2 else "start"
    line = (
        f'<line class="cutoff" x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{HIGH + 16}"/>'
        f'<text class="cutoff" x="{place + (-5 if anchor == "end" else 5):.1f}" y="12" text-anchor="{anchor}">{escape(translate("price.cutoff", cutoff=number(cutoff)))}</text>'
    )
    median, longest, over = f"{bars['median']:,.0f}", number(bars["longest"]), number(sum(bars["over"]))
    label = escape(translate("price.figure", rows=number(found["counted"]), median=median, longest=longest, over=over))
    inside = '<rect width="6" height="6"/><line y2="6"/>'
    hatch = f'<defs><pattern id="price-over" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">{inside}</pattern></defs>'
    return (
        f'<p class="small">{label}</p><svg viewBox="0 -4 {WIDE} {HIGH + 24}" role="img" aria-label="{label}">{hatch}{"".join(parts)}'
        f'<line class="axis" x2="{WIDE}" y1="{HIGH}" y2="{HIGH}"/>{_ticks(edge)}{line}</svg>'
        f'<p class="small key"><i class="within"></i>{escape(translate("price.within"))} <i class="over"></i>{escape(translate("price.over"))}</p>'
    )


def _bar(look: str, left: float, high: float, step: float, above: float, title: str) -> str:
    """A bar that ends `above` over the axis' own line; what is longer than the cutoff stands below what isn't."""
    return f'<rect class="{look}" x="{left + 0.5:.2f}" y="{HIGH - above - high:.2f}" width="{max(step - 1, 0.5):.2f}" height="{max(high, 0.6):.2f}">{title}</rect>'


def _ticks(edge: int) -> str:
    places = [round(edge * n / TICKS) for n in range(TICKS + 1)]
    anchors = ["start", *["middle"] * (TICKS - 1), "end"]
    return "".join(
        f'<text class="tick" x="{WIDE * n / edge:.1f}" y="{HIGH + 14}" text-anchor="{anchor}">{n:,}</text>'
        for n, anchor in zip(places, anchors)
    )


def _facts(translate: Callable, lang: str, found: dict) -> list[str]:
    """A sentence each: what is lost, what packing saves, what memory it takes and how long it goes on."""
    counted, lines = found["counted"], []
    if counted < found["rows"]:
        lines.append(
            f'<em class="pill">{escape(translate("price.sample", counted=number(counted), rows=number(found["rows"])))}</em>'
        )
    share = found["truncated"] / max(1, counted)
    lines.append(
        f'<b class="{"no" if share > 0.05 else "tight" if share else "fits"} verdict">{escape(translate("price.truncated", share=share, count=number(found["truncated"])))}</b>'
    )
    if found["left_out"]:
        lines.append(
            f'<b class="no verdict">{escape(translate("price.left_out", count=number(found["left_out"])))}</b>'
        )
    epoch = {name: number(round(found[name] * found["rows"] / counted)) for name in ("tokens", "trained", "uncut")}
    lines.append(escape(translate("price.tokens", **epoch)))
    if found["padding"]:
        fed = found["memory"]["batching"] if found["memory"] else ""
        lines.append(
            escape(translate("price.padded" if fed == "padded" else "price.packed", saved=found["padding"]["saved"]))
        )
    memory = found["memory"]
    if memory:
        fit = memory["verdict"]
        size = escape(translate("price.memory", need_bytes=memory["bytes"], checkpointing=memory["checkpointing"]))
        lines.append(f'{size} <b class="verdict {fit}">{escape(translate(f"plan.verdict.{fit}"))}</b>' if fit else size)
    if found["trouble"]:
        lines.append(f'<b class="no verdict">{escape(PlaygroundError.from_dict(found["trouble"]).text(lang))}</b>')
    return lines + [escape(line) for line in _seconds(translate, found)]


def _seconds(translate: Callable, found: dict) -> list[str]:
    """How long a fine-tune goes on: as an earlier run's speed has it, as it is estimated, or that it isn't known."""
    lines = []
    if found["measured"]:
        one = found["measured"]
        lines.append(
            translate(
                "price.measured",
                time=_time(translate, one["seconds"]),
                run=one["run"],
                tokens_per_s=f"{one['tokens_per_s']:,.0f}",
            )
        )
    for one in found["estimates"]:
        key = "price.estimate.launch" if one["bound"] == "launch" else "price.estimate"
        lines.append(
            translate(
                key,
                card=one["card"],
                time=_time(translate, one["seconds"]),
                tflops=f"{one['tflops']:,.0f}",
                utilized=one["utilized"],
                source=one["source"],
            )
        )
    return lines or [translate("price.no_time")]


def _time(translate: Callable, seconds: float) -> str:
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return translate(f"price.{name}", count=f"{seconds / size:.1f}")
    return translate("price.seconds", count=f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}")
