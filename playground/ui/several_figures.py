"""Figures of the Plan tab about several GPUs, as HTML: whether a fine-tune fits on each of them, and what setups take.

Styles are in assets/plan_tab.css and assets/figures.css. All text is escaped here.
"""

from collections.abc import Callable, Sequence
from html import escape

from playground import catalog
from playground.catalog.cards import verdict
from playground.i18n import format_bytes
from playground.ui.tables import table

GIB = 2**30


def headline(translate: Callable, prediction: dict, capacity: int) -> str:
    """Whether the fine-tune fits on each of several GPUs, in large type. prediction: the planner's `forecast`."""
    need = max(prediction["phases"][name]["need"] for name in ("load", "tune"))
    fit, count = verdict(need, capacity), prediction["several"]["count"]
    text = translate(f"plan.headline.several.{fit}", need=need / GIB, room_bytes=capacity, count=count)
    return f'<p class="headline verdict {fit}">{escape(text)}</p>'


def ways(translate: Callable, several: dict, capacity: int) -> str:
    """What one GPU needs alone, and each of several by either way, with what they share. several: of the `forecast`."""
    count, rows = several["count"], []
    for way, predicted in several["ways"].items():
        name = escape(translate(f"plan.several.{way}", count=count))
        mark = " class=chosen" if way == several["parallel"] else ""
        if "need" in predicted:
            fit = verdict(predicted["need"], capacity)
            needs = translate("plan.needs", need_bytes=predicted["need"], room_bytes=capacity)
            rows.append(
                f'<li{mark}><span>{name}</span> <span>{escape(needs)}</span> <span class="verdict {fit}">'
                f"{escape(translate(f'plan.verdict.{fit}'))}</span></li>"
            )
        else:
            problems = predicted["trouble"]["problems"]
            text = " ".join(translate(problem["key"], **problem["values"]) for problem in problems)
            rows.append(f"<li{mark}><span>{name}</span> <small>{escape(text)}</small></li>")
    shared = translate(
        "plan.several", count=count, rows=several["rows"], batch=several["batch"], main_bytes=several["main_memory"]
    )
    return f'<ul class="ways">{"".join(rows)}</ul><p class="small">{escape(shared)}</p>'


def setups(translate: Callable, rows: Sequence[dict], length: int) -> str:
    """What a paper says that setups of GPUs run, beside the largest model that they are predicted to fine-tune.

    rows: of the planner's `largest_for_setups`, for rows of `length` tokens.
    """
    widths = list(dict.fromkeys(row["bits"] for row in rows))
    tuned = {(row["setup"], row["bits"]): row["tune"] for row in rows}
    entries = catalog.setups().values()
    papers = list(dict.fromkeys(bits for setup in entries for bits in setup["paper"]))
    head = [
        translate("plan.largest.card"),
        *(translate("plan.setups.paper", bits=bits) for bits in papers),
        *(translate("plan.setups.tune", bits=bits) for bits in widths),
    ]
    lines = [
        [
            translate("plan.setups.several" if setup["count"] > 1 else "plan.setups.one", **setup),
            *(setup["paper"][bits] for bits in papers),
            *(model_name(translate, tuned[setup["id"], bits], setup["count"]) for bits in widths),
        ]
        for setup in entries
    ]
    title, lead = escape(translate("plan.setups")), escape(translate("plan.setups.lead", length=length))
    shown = f'<div class="names setups">{table(head, lines, "stacked")}</div>'
    return f'<section class="plan"><h4>{title}</h4><p class="small">{lead}</p>{shown}</section>'


def model_name(translate: Callable, entry: dict | None, gpus: int = 1) -> str:
    """A cell's model, and on a second line what it needs of each GPU."""
    if entry is None:
        return translate("plan.largest.none")
    need = format_bytes(entry["need"])
    return f"{entry['name']}\n{translate('plan.several.each', need=need) if gpus > 1 else need}"
