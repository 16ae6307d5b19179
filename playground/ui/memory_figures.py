"""The Plan tab's figures as HTML: predicted memory as bars, tables and arithmetic.

Styles are in assets/figures.css. All text is escaped here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
TOTALS = (  # the words keys of the totals under the parts, and the totals of a phase
    ("plan.sum", "allocated"),
    ("plan.reserved", "reserved"),
    ("plan.device", "device_used"),
    ("plan.rss", "rss"),
)
GIB = 2**30
LABEL_GAP = 0.055  # of the width: labels of card lines closer together would overlap on a phone


@dataclass(frozen=True)
class CardLine:
    """A vertical line at a card's memory. position: share of the width; label: "" where there is no room for it."""

    position: float
    label: str
    look: str  # CSS classes: "card", "here" (this machine), "chosen"


def forecast(translate: Callable, prediction: dict, capacity: int, machine_bytes: int) -> str:
    """A forecast as bars against card lines, and its table of parts.

    capacity: bytes of the chosen card; machine_bytes: of this machine.
    """
    scale = _scale(max(capacity, *(phase["need"] for phase in prediction["phases"].values())))
    lines = _card_lines(scale, capacity, machine_bytes)
    bars = "".join(_phase_bar(translate, name, prediction, capacity, scale, lines) for name in PHASES)
    axis = f'<div class="axis" aria-hidden="true"><b>GB</b>{_axis_labels(lines)}</div>'
    notes = f"{escape(_step_text(translate, prediction))} {escape(translate('plan.tight'))}"
    return (
        f'<section class="plan">{_header(translate, prediction)}'
        f'<div class="bars">{axis}{bars}{_machine_axis(translate, lines)}</div>'
        f'<p class="small">{notes}</p>{_parts_table(translate, prediction["phases"])}</section>'
    )


def waterfall(translate: Callable, steps: Sequence[dict], capacity: int) -> str:
    """A fine-tune's memory with one saving after another, as bars, and whether each fits `capacity` bytes."""
    scale, before, rows = max(step["device_used"] for step in steps), None, []
    for step in steps:
        size = step["device_used"]
        saved = "" if before is None else f"{(size - before) / GIB:+.2f} GiB".replace("-", "−")
        label, fit = escape(translate(f"plan.saving.{step['step']}")), verdict(size, capacity)
        title = escape(translate(f"plan.verdict.{fit}"))
        total = f'<b class="verdict {fit}" title="{title}">{escape(format_bytes(size))}</b>'
        bar = f'<i style="width:{100 * size / scale:.2f}%"></i>'
        rows.append(f"<li><span>{label}</span>{bar}{total}<small>{saved}</small></li>")
        before = size
    lead = escape(translate("plan.waterfall.lead", room_bytes=capacity))
    return f'<section class="plan"><p class="small">{lead}</p><ol class="waterfall">{"".join(rows)}</ol></section>'


def arithmetic(translate: Callable, lines: Sequence[dict]) -> str:
    """One line of arithmetic a part, and the allocation trace's figure where it differs."""
    rows = []
    for line in lines:
        difference = ""
        if not line["agrees"]:
            share = line["traced"] / max(line["bytes"], 1) - 1
            text = escape(translate("plan.differs", traced_bytes=line["traced"], off=share))
            difference = f'<small class="differs">{text}</small>'
        part = escape(translate("chart.part." + line["part"]))
        formula = f"{escape(line['arithmetic'])} = {escape(format_bytes(line['bytes']))}"
        rows.append(f"<li>{_swatch(line['part'])}<b>{part}</b> <span>{formula}</span>{difference}</li>")
    lead = escape(translate("plan.explained.lead"))
    return f'<section class="plan"><p class="small">{lead}</p><ul class="arithmetic">{"".join(rows)}</ul></section>'


def largest_models(translate: Callable, rows: Sequence[dict], **sizes: int) -> str:
    """The largest model that each card can chat with and fine-tune: cards down, bits across.

    sizes: "context", "batch" and "length" that the models were predicted for.
    """
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    names = {card["id"]: f"{card['gib']} GB\n{card['name']}" for card in cards()}
    by_card = {(row["card"], row["bits"]): row for row in rows}
    head = [translate("plan.largest.card"), *(translate("plan.largest.bits", bits=bits) for bits in widths)]
    tables = []
    for job in ("chat", "tune"):
        lines = [
            [names[card], *(_model_name(translate, by_card[card, bits][job]) for bits in widths)]
            for card in dict.fromkeys(row["card"] for row in rows)
        ]
        title = escape(translate(f"plan.largest.{job}"))
        tables.append(f"<h4>{title}</h4><div class=names>{table(head, lines, 'stacked')}</div>")
    lead = escape(translate("plan.largest.lead", **{name: f"{value:,}" for name, value in sizes.items()}))
    return f'<section class="plan"><p class="small">{lead}</p>{"".join(tables)}</section>'


def _header(translate: Callable, prediction: dict) -> str:
    """The model's name, its size, and how many of its weights are trained."""
    trained, parameters = prediction["trainable"], prediction["parameters"]
    key = f"plan.trains.{prediction['method']}"
    trains = translate(key, trainable=_format_parameters(trained), share=trained / parameters)
    about = translate(
        "plan.about",
        parameters=_format_parameters(parameters),
        layers=prediction["layers"],
        bits=prediction["bits"],
    )
    name = escape(catalog.display_name(prediction["model"]))
    pill, took = escape(translate("plan.predicted")), escape(translate("plan.took", seconds=prediction["seconds"]))
    return (
        f'<header><strong>{name}</strong> <em class="pill">{pill}</em> <small>{took}</small>'
        f"<p>{escape(about)} · {escape(trains)}</p></header>"
    )


def _scale(largest: int) -> float:
    """Bytes of a bar of full width: a little more than the smallest card that is 25 % larger than the largest bar."""
    return 1.05 * next((card["bytes"] for card in cards() if card["bytes"] >= 1.25 * largest), largest)


def _card_lines(scale: float, capacity: int, machine_bytes: int) -> list[CardLine]:
    """The lines of all cards in view and of this machine. Where labels would overlap, the chosen card keeps its own."""
    in_view = [card for card in cards() if card["bytes"] <= scale]
    looks = {card["id"]: "chosen" if card["bytes"] == capacity else "card" for card in in_view}
    labelled: list[float] = []
    for card in sorted(in_view, key=lambda card: looks[card["id"]] != "chosen"):
        position = card["bytes"] / scale
        if all(abs(position - other) >= LABEL_GAP for other in labelled):
            labelled.append(position)
    lines = []
    for card in in_view:
        position = card["bytes"] / scale
        lines.append(CardLine(position, str(card["gib"]) if position in labelled else "", looks[card["id"]]))
    if machine_bytes <= scale:
        look = "here chosen" if machine_bytes == capacity else "here"
        lines.append(CardLine(machine_bytes / scale, "", look))
    return lines


def _axis_labels(lines: Iterable[CardLine]) -> str:
    labels = []
    for line in lines:
        if line.label:
            look = f"{line.look} end" if line.position > 0.8 else line.look
            label = escape(line.label)
            labels.append(f'<span class="{look}" style="left:{100 * line.position:.2f}%">{label}</span>')
    return "".join(labels)


def _machine_axis(translate: Callable, lines: Iterable[CardLine]) -> str:
    """The label of this machine's line, if it is in view: too long to stand among the cards' labels."""
    machine = [CardLine(line.position, translate("plan.here"), line.look) for line in lines if "here" in line.look]
    return f'<div class="axis below" aria-hidden="true">{_axis_labels(machine)}</div>' if machine else ""


def _phase_bar(
    translate: Callable, name: str, prediction: dict, capacity: int, scale: float, lines: Iterable[CardLine]
) -> str:
    """A phase's name, verdict and bar."""
    phase = prediction["phases"][name]
    title = escape(translate(f"plan.phase.{name}", context=f"{prediction['context']:,}"))
    fit = verdict(phase["need"], capacity)
    verdict_text = translate(f"plan.verdict.{fit}")
    sizes = _parts_with_program(phase)
    parts = [
        (part, f"{translate('chart.part.' + part)} {format_bytes(sizes[part])}") for part in PARTS if sizes.get(part)
    ]
    label = translate(
        "plan.bar",
        phase=translate(f"plan.phase.{name}", context=f"{prediction['context']:,}"),
        need_bytes=phase["need"],
        verdict=verdict_text,
        parts=", ".join(text for _, text in parts),
    )
    blocks = "".join(
        f'<i style="width:{100 * sizes[part] / scale:.3f}%;background:var(--live-part-{part})"'
        f' title="{escape(text)}"></i>'
        for part, text in parts
    )
    marks = "".join(f'<u class="{line.look}" style="left:{100 * line.position:.2f}%"></u>' for line in lines)
    needs = escape(translate("plan.needs", need_bytes=phase["need"], room_bytes=capacity))
    return (
        f'<div class="phase"><p><b>{title}</b> <span class="verdict {fit}">{escape(verdict_text)}</span>'
        f' <span>{needs}</span></p><div class="bar" role="img" aria-label="{escape(label)}"'
        f' style="--room:{100 * capacity / scale:.2f}%">{blocks}{marks}</div></div>'
    )


def _step_text(translate: Callable, prediction: dict) -> str:
    step = prediction["phases"]["tune"]
    return translate("plan.step", rows=step["rows"], tokens=f"{step['tokens']:,}", checkpointing=step["checkpointing"])


def _parts_with_program(phase: dict) -> dict[str, int]:
    """A phase's parts in bytes. On a CPU the program itself is one: what the other parts leave of the whole."""
    if "rss" not in phase or "program" in phase["parts"]:
        return phase["parts"]
    return phase["parts"] | {"program": phase["rss"] - sum(phase["parts"].values())}


def _parts_table(translate: Callable, phases: dict) -> str:
    """Parts down, phases across, in GiB; and their totals."""
    columns = [phases[name] for name in PHASES]
    parts_of = [_parts_with_program(phase) for phase in columns]
    rows = []
    for part in PARTS:
        if any(parts.get(part) for parts in parts_of):
            name = f"{_swatch(part)}{escape(translate('chart.part.' + part))}"
            rows.append(f"<tr><th scope=row>{name}</th>{_gib_cells(parts.get(part, 0) for parts in parts_of)}</tr>")
    for key, kind in TOTALS:
        if kind in columns[0]:
            name = escape(translate(key))
            cells = _gib_cells(phase.get(kind) for phase in columns)
            rows.append(f'<tr class="sum"><th scope=row>{name}</th>{cells}</tr>')
    head = "".join(f"<th scope=col>{escape(translate(f'plan.head.{name}'))}</th>" for name in PHASES)
    first = f"<th scope=col>{escape(translate('plan.parts'))}</th>"
    return f"<table><thead><tr>{first}{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _gib_cells(sizes: Iterable[int | None]) -> str:
    return "".join(f"<td>{_format_gib(size)}</td>" for size in sizes)


def _format_gib(size: int | None) -> str:
    if size is None:
        return ""
    if not size:
        return "–"
    return f"{size / GIB:.2f}" if size >= GIB / 200 else "&lt; 0.01"


def _swatch(part: str) -> str:
    return f'<i class="swatch" style="background:var(--live-part-{escape(part)})"></i>'


def _model_name(translate: Callable, entry: dict | None) -> str:
    return f"{entry['name']}\n{format_bytes(entry['device_used'])}" if entry else translate("plan.largest.none")


def _format_parameters(count: int) -> str:
    """A count of parameters as people write it: 6.8 B, 125 M."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
