"""The Plan tab's further figures as HTML: what each saving brings, the arithmetic, and the largest model a card takes.

Styles are in assets/figures.css and assets/plan_tab.css. All text is escaped here.
"""

from collections.abc import Callable, Sequence
from html import escape

from playground.catalog.cards import cards, verdict
from playground.i18n import format_bytes
from playground.ui.memory_figures import GIB, swatch
from playground.ui.several_figures import model_name
from playground.ui.tables import table


def waterfall(translate: Callable, steps: Sequence[dict], capacity: int) -> str:
    """A fine-tune's memory with one saving after another, as bars, and whether each fits `capacity` bytes.

    steps: [{"step" (words key `plan.saving.<step>`), "need" (bytes)}]; that of the settings themselves ("yours", on
    several GPUs "yours_each" with their "count") is compared with none.
    """
    scale, before, rows = max(step["need"] for step in steps), None, []
    for step in steps:
        size, own = step["need"], step["step"] in ("yours", "yours_each")
        saved = "" if before is None or own else f"{(size - before) / GIB:+.2f} GiB".replace("-", "−")
        label = escape(translate(f"plan.saving.{step['step']}", count=step.get("count", 1)))
        fit = verdict(size, capacity)
        title = escape(translate(f"plan.verdict.{fit}"))
        total = f'<b class="verdict {fit}" title="{title}">{escape(format_bytes(size))}</b>'
        bar = f'<i style="width:{100 * size / scale:.2f}%"></i>'
        rows.append(f"<li{' class=yours' if own else ''}><span>{label}</span>{bar}{total}<small>{saved}</small></li>")
        before = size
    title, lead = escape(translate("plan.waterfall")), escape(translate("plan.waterfall.lead", room_bytes=capacity))
    bars = f'<ol class="waterfall">{"".join(rows)}</ol>'
    return f'<section class="plan"><h2>{title}</h2><p class="small">{lead}</p>{bars}</section>'


def arithmetic(translate: Callable, lines: Sequence[dict], is_shared: bool = False) -> str:
    """One line of arithmetic a part, and the allocation trace's figure where it differs.

    is_shared: several GPUs do the fine-tune, of which no one has all that is calculated.
    """
    rows = []
    for line in lines:
        difference = ""
        if not line["agrees"]:
            share = line["traced"] / max(line["bytes"], 1) - 1
            text = escape(translate("plan.differs", traced_bytes=line["traced"], off=share))
            difference = f'<small class="differs">{text}</small>'
        part = escape(translate("chart.part." + line["part"]))
        formula = f"{escape(line['arithmetic'])} = {escape(format_bytes(line['bytes']))}"
        rows.append(f"<li>{swatch(line['part'])}<b>{part}</b> <span>{formula}</span>{difference}</li>")
    lead = escape(" ".join(translate(key) for key in ("plan.explained.lead", *["plan.explained.whole"] * is_shared)))
    return f'<section class="plan"><p class="small">{lead}</p><ul class="arithmetic">{"".join(rows)}</ul></section>'


def largest_models(translate: Callable, rows: Sequence[dict], *, gpus: int = 1, **sizes: int) -> str:
    """The largest model that each card can chat with, and that so many of it can fine-tune: cards down, bits across.

    sizes: "context" and "length", in tokens, that the models were predicted for.
    """
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    names = {card["id"]: f"{card['gib']} GB\n{card['name']}" for card in cards()}
    by_card = {(row["card"], row["bits"]): row for row in rows}
    head = [translate("plan.largest.card"), *(translate("plan.largest.bits", bits=bits) for bits in widths)]
    tables = []
    for job, count in (("chat", 1), ("tune", gpus)):
        times = f"{count} × " if count > 1 else ""
        lines = [
            [times + names[card], *(model_name(translate, by_card[card, bits][job], count) for bits in widths)]
            for card in dict.fromkeys(row["card"] for row in rows)
        ]
        title = escape(translate(f"plan.largest.{job}"))
        tables.append(f"<h4>{title}</h4><div class=names>{table(head, lines, 'stacked')}</div>")
    lead = escape(translate("plan.largest.lead", **sizes))
    if gpus > 1:
        lead += " " + escape(translate("plan.largest.several", count=gpus))
    return f'<section class="plan"><p class="small">{lead}</p>{"".join(tables)}</section>'
