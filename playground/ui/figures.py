"""What the Plan tab draws: predictions as HTML. Looks stand in assets/figures.css; all text is escaped here."""

from collections.abc import Callable, Sequence
from html import escape

from playground import catalog
from playground.memory.cards import cards, verdict
from playground.ui.tables import table
from playground.words import gib

PHASES = ("load", "chat", "tune")
PARTS = ("weights", "quant_constants", "adapters", "gradients", "optimizer", "activations", "loss", "kv_cache", "buffers", "program", "runtime")
GIB = 2**30
APART = 0.055  # of the width: labels of card lines closer together would overlap on a phone


def need(phase: dict) -> int:
    """Bytes that a phase needs of the memory that it runs in."""
    return phase.get("device") or phase.get("resident") or phase["allocated"]


def forecast(say: Callable, found: dict, room: int, here: int) -> str:
    """A forecast as bars against card lines, and its table. room: bytes of the chosen card; here: of this machine."""
    scale = _scale(max(room, *(need(phase) for phase in found["phases"].values())))
    lines = _lines(scale, room, here)
    bars = "".join(_phase(say, name, found, room, scale, lines) for name in PHASES)
    return (
        f'<section class="plan">{_about(say, found)}<div class="bars"><div class="axis" aria-hidden="true"><b>GB</b>{_axis(lines)}</div>{bars}{_below(say, lines)}</div>'
        f'<p class="small">{escape(_step(say, found))} {escape(say("plan.tight"))}</p>{_parts(say, found["phases"])}</section>'
    )


def waterfall(say: Callable, steps: Sequence[dict], room: int) -> str:
    """What a fine-tune takes with one saving after the other, as bars, and whether that fits `room` bytes."""
    scale, before, rows = max(step["device"] for step in steps), None, []
    for step in steps:
        saved = "" if before is None else f"{(step['device'] - before) / GIB:+.2f} GiB".replace("-", "−")
        label, size, fit = escape(say(f"plan.saving.{step['step']}")), escape(gib(step["device"])), verdict(step["device"], room)
        told = f'<b class="verdict {fit}" title="{escape(say(f"plan.verdict.{fit}"))}">{size}</b>'
        rows.append(f'<li><span>{label}</span><i style="width:{100 * step["device"] / scale:.2f}%"></i>{told}<small>{saved}</small></li>')
        before = step["device"]
    return f'<section class="plan"><p class="small">{escape(say("plan.waterfall.lead", room_bytes=room))}</p><ol class="falls">{"".join(rows)}</ol></section>'


def explained(say: Callable, lines: Sequence[dict]) -> str:
    """One line of arithmetic a part; where a trace counts otherwise, that too."""
    rows = []
    for line in lines:
        off = "" if line["agrees"] else escape(say("plan.differs", traced_bytes=line["traced"], off=line["traced"] / max(line["bytes"], 1) - 1))
        told = f'<small class="differs">{off}</small>' if off else ""
        rows.append(
            f"<li>{_swatch(line['part'])}<b>{escape(say('chart.part.' + line['part']))}</b> <span>{escape(line['arithmetic'])} = {escape(gib(line['bytes']))}</span>{told}</li>"
        )
    return f'<section class="plan"><p class="small">{escape(say("plan.explained.lead"))}</p><ul class="sums">{"".join(rows)}</ul></section>'


def largest(say: Callable, rows: Sequence[dict], **asked) -> str:
    """The largest model a card can chat with and fine-tune: cards down, bits across."""
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    names = {card["id"]: f"{card['gib']} GB\n{card['name']}" for card in cards()}
    at = {(row["card"], row["bits"]): row for row in rows}
    tables = []
    for do in ("chat", "tune"):
        head = [say("plan.largest.card"), *(say("plan.largest.bits", bits=bits) for bits in widths)]
        lines = [[names[card], *(_model(say, at[card, bits][do]) for bits in widths)] for card in dict.fromkeys(row["card"] for row in rows)]
        tables.append(f"<h4>{escape(say(f'plan.largest.{do}'))}</h4><div class=names>{table(head, lines, 'stacked')}</div>")
    return f'<section class="plan"><p class="small">{escape(say("plan.largest.lead", **{name: f"{value:,}" for name, value in asked.items()}))}</p>{"".join(tables)}</section>'


def option(say: Callable, found: dict) -> dict:
    """The values of one of the fastest settings, as the words tables name and show them."""
    at_once = say("plan.at_once", tokens=f"{found['tokens']:,}") if found["tokens"] else say("plan.all_at_once")
    return {**found, "at_once": at_once, "device_bytes": found["device"]}


def _about(say: Callable, found: dict) -> str:
    trains = say(f"plan.trains.{found['method']}", trainable=_short(found["trainable"]), share=found["trainable"] / found["parameters"])
    about = say("plan.about", parameters=_short(found["parameters"]), layers=found["layers"], bits=found["bits"])
    pill, took = escape(say("plan.predicted")), escape(say("plan.took", seconds=found["seconds"]))
    return (
        f'<header><strong>{escape(catalog.name_of(found["model"]))}</strong> <em class="pill">{pill}</em> <small>{took}</small><p>{escape(about)} · {escape(trains)}</p></header>'
    )


def _scale(most: int) -> float:
    """Bytes that a bar of full width stands for: up to the next card that leaves some room beside what is shown."""
    return 1.05 * next((card["bytes"] for card in cards() if card["bytes"] >= 1.25 * most), most)


def _lines(scale: float, room: int, here: int) -> list[tuple[float, str, str]]:
    """Card lines as (place from 0 to 1, label or "", class); a label that has no room is left out, the chosen card's last."""
    every = [(card["bytes"] / scale, str(card["gib"]), "chosen" if card["bytes"] == room else "card") for card in cards() if card["bytes"] <= scale]
    labelled: list[float] = []
    for place, _, kind in sorted(every, key=lambda line: line[2] != "chosen"):
        if all(abs(place - other) >= APART for other in labelled):
            labelled.append(place)
    mine = [(here / scale, "", "here chosen" if here == room else "here")] if here <= scale else []
    return [*((place, label if place in labelled else "", kind) for place, label, kind in every), *mine]


def _axis(lines: Sequence[tuple]) -> str:
    labels = (f'<span class="{kind}{" end" if place > 0.8 else ""}" style="left:{100 * place:.2f}%">{escape(label)}</span>' for place, label, kind in lines if label)
    return "".join(labels)


def _below(say: Callable, lines: Sequence[tuple]) -> str:
    """Where this machine's line is, if it is in view: its name is too long to stand among the cards."""
    mine = [(place, say("plan.here"), kind) for place, _, kind in lines if "here" in kind]
    return f'<div class="axis below" aria-hidden="true">{_axis(mine)}</div>' if mine else ""


def _phase(say: Callable, name: str, found: dict, room: int, scale: float, lines: Sequence[tuple]) -> str:
    """A phase's name, verdict and bar."""
    phase = found["phases"][name]
    title, fit = say(f"plan.phase.{name}", context=f"{found['context']:,}"), verdict(need(phase), room)
    parts = [(part, _parts_of(phase)[part]) for part in PARTS if _parts_of(phase).get(part)]
    told = ", ".join(f"{say('chart.part.' + part)} {gib(size)}" for part, size in parts)
    label = say("plan.bar", phase=title, need_bytes=need(phase), verdict=say(f"plan.verdict.{fit}"), parts=told)
    blocks = "".join(
        f'<i style="width:{100 * size / scale:.3f}%;background:var(--live-part-{part})" title="{escape(say("chart.part." + part))} {escape(gib(size))}"></i>'
        for part, size in parts
    )
    marks = "".join(f'<u class="{kind}" style="left:{100 * place:.2f}%"></u>' for place, _, kind in lines)
    needs = escape(say("plan.needs", need_bytes=need(phase), room_bytes=room))
    return (
        f'<div class="phase"><p><b>{escape(title)}</b> <span class="verdict {fit}">{escape(say(f"plan.verdict.{fit}"))}</span> <span>{needs}</span></p>'
        f'<div class="bar" role="img" aria-label="{escape(label)}" style="--room:{100 * room / scale:.2f}%">{blocks}{marks}</div></div>'
    )


def _step(say: Callable, found: dict) -> str:
    step = found["phases"]["tune"]
    return say("plan.step", rows=step["rows"], tokens=f"{step['tokens']:,}", checkpointing=step["checkpointing"])


def _parts_of(phase: dict) -> dict[str, int]:
    """The parts of all that a phase needs; on a CPU the program itself is one of them."""
    if "resident" not in phase or "program" in phase["parts"]:
        return phase["parts"]
    return phase["parts"] | {"program": phase["resident"] - sum(phase["parts"].values())}


def _parts(say: Callable, phases: dict) -> str:
    """Parts down, phases across, in GiB; and what they come to."""

    def cells(sizes) -> str:
        return "".join(f"<td>{'' if size is None else '–' if not size else f'{size / GIB:.2f}' if size >= GIB / 200 else '&lt; 0.01'}</td>" for size in sizes)

    columns = [phases[name] for name in PHASES]
    by_part = [_parts_of(phase) for phase in columns]
    present = [part for part in PARTS if any(parts.get(part) for parts in by_part)]
    rows = [f"<tr><th scope=row>{_swatch(part)}{escape(say('chart.part.' + part))}</th>{cells([parts.get(part, 0) for parts in by_part])}</tr>" for part in present]
    sums = [("plan.sum", "allocated"), ("plan.reserved", "reserved"), ("plan.device", "device"), ("plan.resident", "resident")]
    rows += [f'<tr class="sum"><th scope=row>{escape(say(key))}</th>{cells([phase.get(kind) for phase in columns])}</tr>' for key, kind in sums if kind in columns[0]]
    head = "".join(f"<th scope=col>{escape(say(f'plan.head.{name}'))}</th>" for name in PHASES)
    return f"<table><thead><tr><th scope=col>{escape(say('plan.parts'))}</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _swatch(part: str) -> str:
    return f'<i class="swatch" style="background:var(--live-part-{escape(part)})"></i>'


def _model(say: Callable, entry: dict | None) -> str:
    return f"{entry['name']}\n{gib(entry['device'])}" if entry else say("plan.largest.none")


def _short(count: int) -> str:
    """A count of parameters as people say it."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
