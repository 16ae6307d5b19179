"""The cost of a cutoff as HTML: a histogram of the rows' tokens, and what cutting there loses, saves and needs.

Styles are in assets/data.css. All text is escaped here.
"""

from collections.abc import Callable
from html import escape

from playground.errors import PlaygroundError
from playground.ui.tables import duration, number

TICK_BARS, MAX_TICKS = (1, 2, 5, 10, 20, 50), 6  # from tick to tick
MANY_TRUNCATED = 0.05  # share of the answers from which the loss is shown as a problem
TIME_KEYS = {"measured": "cost.predicted", "rough": "cost.rough", "estimated": "cost.estimated"}  # by their source


def draw(translate: Callable, lang: str, cost: dict) -> str:
    """The answer of planning/rows.py's `cutoff_cost`: the histogram with its cutoff, and the facts below it."""
    facts = "".join(f"<li>{line}</li>" for line in _facts(translate, lang, cost))
    return f'<section class="plan cost">{histogram(translate, cost)}<ul class="facts">{facts}</ul></section>'


def histogram(translate: Callable, cost: dict) -> str:
    """Bars of rows by their tokens, the cutoff as a line, and rows longer than it hatched."""
    bars = cost["histogram"]
    over = sum(bars["over"])
    label = escape(
        translate(
            "cost.lengths",
            rows=number(cost["counted"]),
            median=f"{bars['median']:,.0f}",
            longest=number(bars["longest"]),
            over=number(over),
        )
    )
    line, ticks = _cutoff_line(translate, cost["cutoff"], bars), _ticks(bars)
    key = "".join(f'<i class="{look}"></i>{escape(translate(f"cost.{look}"))}' for look in ("within", "over"))
    return (
        f'<p class="small">{label}</p><div class="histogram" role="img" aria-label="{label}">'
        f'<div class="columns">{_bars(translate, bars)}{line}</div><div class="ticks">{ticks}</div></div>'
        f'<p class="small key">{key}<span>{escape(translate("cost.axis"))}</span></p>'
    )


def position(tokens: float, bars: dict) -> float:
    """Where a number of tokens lies on the histogram's axis, in percent of its width.

    Bar i counts the rows of i · width to (i + 1) · width − 1 tokens, so it covers the axis from half a token before the
    first of these numbers to half a token after the last.
    """
    return 100 * (tokens + 0.5) / (len(bars["counts"]) * bars["width"])


def _bars(translate: Callable, bars: dict) -> str:
    counts, width = bars["counts"], bars["width"]
    most = max(counts)
    parts = []
    for index, (count, over) in enumerate(zip(counts, bars["over"])):
        is_open = bars["open"] and index + 1 == len(counts)
        last = number(bars["longest"] if is_open else (index + 1) * width - 1)
        text = translate(
            "cost.bar_rows", first=number(index * width), last=last, count=number(count), over=number(over)
        )
        for look, bottom, rows in (("over", 0, over), ("within", over, count - over)):
            if rows:
                parts.append(_bar(look, index, len(counts), 100 * bottom / most, 100 * rows / most, text))
    return "".join(parts)


def _bar(look: str, index: int, count: int, bottom: float, height: float, text: str) -> str:
    """The index-th of `count` bars, in percent: rows longer than the cutoff stand below those that are not."""
    box = f"left:{100 * index / count:.3f}%;width:{100 / count:.3f}%;bottom:{bottom:.2f}%;height:{height:.2f}%"
    return f'<i class="{look}" style="{box}" title="{escape(text)}"></i>'


def _cutoff_line(translate: Callable, cutoff: int, bars: dict) -> str:
    """A line between the longest row that is kept whole and the next; beyond the last bar, an arrow that says so."""
    text = escape(translate("cost.cutoff", cutoff=number(cutoff)))
    left = position(cutoff + 0.5, bars)
    if left > 100:
        return f'<b class="cutoff beyond">{text} →</b>'
    side = "before" if left > 50 else "after"
    return f'<b class="cutoff {side}" style="left:{left:.3f}%">{text}</b>'


def _ticks(bars: dict) -> str:
    """Round numbers of tokens below the axis."""
    count, width = len(bars["counts"]), bars["width"]
    step = width * next(size for size in TICK_BARS if count <= MAX_TICKS * size)
    return "".join(
        f'<span style="left:{position(n, bars):.3f}%">{number(n)}</span>' for n in range(0, count * width, step)
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
        key = "cost.memory_each" if memory["gpus"] > 1 else "cost.memory"
        size = translate(key, count=memory["gpus"], need_bytes=memory["bytes"], checkpointing=memory["checkpointing"])
        fit = memory["verdict"]
        lines.append(escape(size) + (f" {_verdict(fit, translate(f'plan.verdict.{fit}'))}" if fit else ""))
        if memory["streamed"]:
            lines.append(escape(translate("plan.streamed", **memory["streamed"])))
    if cost["trouble"]:
        lines.append(_verdict("no", PlaygroundError.from_dict(cost["trouble"]).text(lang)))
    return lines + [escape(line) for line in _durations(translate, cost)]


def _losses(translate: Callable, cost: dict) -> list[str]:
    """The answers that lose their end, and the rows that are left out."""
    share = cost["truncated"] / max(1, cost["counted"])
    look = "no" if share > MANY_TRUNCATED else "tight" if share else "fits"
    lines = [_verdict(look, translate("cost.cut_answers", share=share, count=number(cost["truncated"])))]
    if cost.get("shortened"):
        lines.append(_verdict("tight", translate("cost.turns_left_out", count=number(cost["shortened"]))))
    if cost["left_out"]:
        lines.append(_verdict("no", translate("cost.rows_left_out", count=number(cost["left_out"]))))
    return lines


def _verdict(look: str, text: str) -> str:
    return f'<b class="verdict {look}">{escape(text)}</b>'


def _durations(translate: Callable, cost: dict) -> list[str]:
    """A fine-tune's duration: from an earlier run's speed, as estimated for cards, or that it isn't known."""
    lines = []
    measured = cost["measured"]
    if measured:
        speed = f"{measured['tokens_per_s']:,.0f}"
        time = duration(measured["seconds"])
        lines.append(translate("cost.measured", time=time, run=measured["run"], tokens_per_s=speed))
    for estimate in cost["estimates"]:
        key, time = TIME_KEYS[estimate["source"]], duration(estimate["seconds"])
        lines.append(translate(key, card=estimate["card"], time=time, sheet=estimate["sheet"]))
    streams = cost["memory"] and cost["memory"]["streamed"]
    return lines or [translate("cost.no_streamed_estimate" if streams else "cost.no_estimate")]
