"""What the Plan tab draws: predictions as HTML. Looks stand in assets/figures.css; all text is escaped here."""

from collections.abc import Callable, Sequence
from html import escape

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.i18n import format_bytes
from playground.ui.tables import table

PHASES = ("load", "chat", "tune")
PARTS = (
    "weights",
    "quant_constants",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "loss",
    "kv_cache",
    "buffers",
    "program",
    "runtime",
)
GIB = 2**30
APART = 0.055  # of the width: labels of card lines closer together would overlap on a phone


def forecast(translate: Callable, found: dict, room: int, here: int) -> str:
    """A forecast as bars against card lines, and its table. room: bytes of the chosen card; here: of this machine."""
    scale = _scale(max(room, *(phase["need"] for phase in found["phases"].values())))
    lines = _lines(scale, room, here)
    bars = "".join(_phase(translate, name, found, room, scale, lines) for name in PHASES)
    return (
        f'<section class="plan">{_about(translate, found)}<div class="bars"><div class="axis" aria-hidden="true"><b>GB</b>{_axis(lines)}</div>{bars}{_below(translate, lines)}</div>'
        f'<p class="small">{escape(_step(translate, found))} {escape(translate("plan.tight"))}</p>{_parts(translate, found["phases"])}</section>'
    )


def waterfall(translate: Callable, steps: Sequence[dict], room: int) -> str:
    """What a fine-tune takes with one saving after the other, as bars, and whether that fits `room` bytes."""
    scale, before, rows = max(step["device_used"] for step in steps), None, []
    for step in steps:
        saved = "" if before is None else f"{(step['device_used'] - before) / GIB:+.2f} GiB".replace("-", "−")
        label, size, fit = (
            escape(translate(f"plan.saving.{step['step']}")),
            escape(format_bytes(step["device_used"])),
            verdict(step["device_used"], room),
        )
        told = f'<b class="verdict {fit}" title="{escape(translate(f"plan.verdict.{fit}"))}">{size}</b>'
        rows.append(
            f'<li><span>{label}</span><i style="width:{100 * step["device_used"] / scale:.2f}%"></i>{told}<small>{saved}</small></li>'
        )
        before = step["device_used"]
    return f'<section class="plan"><p class="small">{escape(translate("plan.waterfall.lead", room_bytes=room))}</p><ol class="falls">{"".join(rows)}</ol></section>'


def explained(translate: Callable, lines: Sequence[dict]) -> str:
    """One line of arithmetic a part; where a trace counts otherwise, that too."""
    rows = []
    for line in lines:
        off = (
            ""
            if line["agrees"]
            else escape(
                translate("plan.differs", traced_bytes=line["traced"], off=line["traced"] / max(line["bytes"], 1) - 1)
            )
        )
        told = f'<small class="differs">{off}</small>' if off else ""
        rows.append(
            f"<li>{_swatch(line['part'])}<b>{escape(translate('chart.part.' + line['part']))}</b> <span>{escape(line['arithmetic'])} = {escape(format_bytes(line['bytes']))}</span>{told}</li>"
        )
    return f'<section class="plan"><p class="small">{escape(translate("plan.explained.lead"))}</p><ul class="sums">{"".join(rows)}</ul></section>'


def largest(translate: Callable, rows: Sequence[dict], **asked) -> str:
    """The largest model a card can chat with and fine-tune: cards down, bits across."""
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    names = {card["id"]: f"{card['gib']} GB\n{card['name']}" for card in cards()}
    at = {(row["card"], row["bits"]): row for row in rows}
    tables = []
    for do in ("chat", "tune"):
        head = [translate("plan.largest.card"), *(translate("plan.largest.bits", bits=bits) for bits in widths)]
        lines = [
            [names[card], *(_model(translate, at[card, bits][do]) for bits in widths)]
            for card in dict.fromkeys(row["card"] for row in rows)
        ]
        tables.append(
            f"<h4>{escape(translate(f'plan.largest.{do}'))}</h4><div class=names>{table(head, lines, 'stacked')}</div>"
        )
    return f'<section class="plan"><p class="small">{escape(translate("plan.largest.lead", **{name: f"{value:,}" for name, value in asked.items()}))}</p>{"".join(tables)}</section>'


def option(translate: Callable, found: dict) -> dict:
    """The values of one of the fastest settings, as the words tables name and show them."""
    at_once = (
        translate("plan.at_once", tokens=f"{found['tokens']:,}") if found["tokens"] else translate("plan.all_at_once")
    )
    return {**found, "at_once": at_once, "device_bytes": found["device_used"]}


def _about(translate: Callable, found: dict) -> str:
    trains = translate(
        f"plan.trains.{found['method']}",
        trainable=_short(found["trainable"]),
        share=found["trainable"] / found["parameters"],
    )
    about = translate("plan.about", parameters=_short(found["parameters"]), layers=found["layers"], bits=found["bits"])
    pill, took = escape(translate("plan.predicted")), escape(translate("plan.took", seconds=found["seconds"]))
    return f'<header><strong>{escape(catalog.display_name(found["model"]))}</strong> <em class="pill">{pill}</em> <small>{took}</small><p>{escape(about)} · {escape(trains)}</p></header>'


def _scale(most: int) -> float:
    """Bytes that a bar of full width stands for: up to the next card that leaves some room beside what is shown."""
    return 1.05 * next((card["bytes"] for card in cards() if card["bytes"] >= 1.25 * most), most)


def _lines(scale: float, room: int, here: int) -> list[tuple[float, str, str]]:
    """Card lines as (place from 0 to 1, label or "", class); a label that has no room is left out, the chosen card's last."""
    every = [
        (card["bytes"] / scale, str(card["gib"]), "chosen" if card["bytes"] == room else "card")
        for card in cards()
        if card["bytes"] <= scale
    ]
    labelled: list[float] = []
    for place, _, kind in sorted(every, key=lambda line: line[2] != "chosen"):
        if all(abs(place - other) >= APART for other in labelled):
            labelled.append(place)
    mine = [(here / scale, "", "here chosen" if here == room else "here")] if here <= scale else []
    return [*((place, label if place in labelled else "", kind) for place, label, kind in every), *mine]


def _axis(lines: Sequence[tuple]) -> str:
    labels = (
        f'<span class="{kind}{" end" if place > 0.8 else ""}" style="left:{100 * place:.2f}%">{escape(label)}</span>'
        for place, label, kind in lines
        if label
    )
    return "".join(labels)


def _below(translate: Callable, lines: Sequence[tuple]) -> str:
    """Where this machine's line is, if it is in view: its name is too long to stand among the cards."""
    mine = [(place, translate("plan.here"), kind) for place, _, kind in lines if "here" in kind]
    return f'<div class="axis below" aria-hidden="true">{_axis(mine)}</div>' if mine else ""


def _phase(translate: Callable, name: str, found: dict, room: int, scale: float, lines: Sequence[tuple]) -> str:
    """A phase's name, verdict and bar."""
    phase = found["phases"][name]
    title, fit = translate(f"plan.phase.{name}", context=f"{found['context']:,}"), verdict(phase["need"], room)
    parts = [(part, _parts_of(phase)[part]) for part in PARTS if _parts_of(phase).get(part)]
    told = ", ".join(f"{translate('chart.part.' + part)} {format_bytes(size)}" for part, size in parts)
    label = translate(
        "plan.bar", phase=title, need_bytes=phase["need"], verdict=translate(f"plan.verdict.{fit}"), parts=told
    )
    blocks = "".join(
        f'<i style="width:{100 * size / scale:.3f}%;background:var(--live-part-{part})" title="{escape(translate("chart.part." + part))} {escape(format_bytes(size))}"></i>'
        for part, size in parts
    )
    marks = "".join(f'<u class="{kind}" style="left:{100 * place:.2f}%"></u>' for place, _, kind in lines)
    needs = escape(translate("plan.needs", need_bytes=phase["need"], room_bytes=room))
    return (
        f'<div class="phase"><p><b>{escape(title)}</b> <span class="verdict {fit}">{escape(translate(f"plan.verdict.{fit}"))}</span> <span>{needs}</span></p>'
        f'<div class="bar" role="img" aria-label="{escape(label)}" style="--room:{100 * room / scale:.2f}%">{blocks}{marks}</div></div>'
    )


def _step(translate: Callable, found: dict) -> str:
    step = found["phases"]["tune"]
    return translate("plan.step", rows=step["rows"], tokens=f"{step['tokens']:,}", checkpointing=step["checkpointing"])


def _parts_of(phase: dict) -> dict[str, int]:
    """The parts of all that a phase needs; on a CPU the program itself is one of them."""
    if "rss" not in phase or "program" in phase["parts"]:
        return phase["parts"]
    return phase["parts"] | {"program": phase["rss"] - sum(phase["parts"].values())}


def _parts(translate: Callable, phases: dict) -> str:
    """Parts down, phases across, in GiB; and what they come to."""

    def cells(sizes) -> str:
        return "".join(
            f"<td>{'' if size is None else '–' if not size else f'{size / GIB:.2f}' if size >= GIB / 200 else '&lt; 0.01'}</td>"
            for size in sizes
        )

    columns = [phases[name] for name in PHASES]
    by_part = [_parts_of(phase) for phase in columns]
    present = [part for part in PARTS if any(parts.get(part) for parts in by_part)]
    rows = [
        f"<tr><th scope=row>{_swatch(part)}{escape(translate('chart.part.' + part))}</th>{cells([parts.get(part, 0) for parts in by_part])}</tr>"
        for part in present
    ]
    sums = [
        ("plan.sum", "allocated"),
        ("plan.reserved", "reserved"),
        ("plan.device", "device_used"),
        ("plan.rss", "rss"),
    ]
    rows += [
        f'<tr class="sum"><th scope=row>{escape(translate(key))}</th>{cells([phase.get(kind) for phase in columns])}</tr>'
        for key, kind in sums
        if kind in columns[0]
    ]
    head = "".join(f"<th scope=col>{escape(translate(f'plan.head.{name}'))}</th>" for name in PHASES)
    return f"<table><thead><tr><th scope=col>{escape(translate('plan.parts'))}</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _swatch(part: str) -> str:
    return f'<i class="swatch" style="background:var(--live-part-{escape(part)})"></i>'


def _model(translate: Callable, entry: dict | None) -> str:
    return f"{entry['name']}\n{format_bytes(entry['device_used'])}" if entry else translate("plan.largest.none")


def _short(count: int) -> str:
    """A count of parameters as people say it."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
