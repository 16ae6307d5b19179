"""The Plan tab's forecast as HTML: predicted memory as bars against card lines, and as a table of parts.

Styles are in assets/figures.css. All text is escaped here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.i18n import format_bytes
from playground.ui import several_figures
from playground.ui.tables import significant, step_time

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


def forecast(translate: Callable, prediction: dict, capacity: int, machine_bytes: int, auto_bits: bool = False) -> str:
    """A forecast's verdict in large type, and its bars against card lines.

    capacity: bytes of the chosen card; machine_bytes: of this machine. auto_bits: the bit width was left open.
    """
    scale = _scale(max(capacity, *(phase["need"] for phase in prediction["phases"].values())))
    lines = _card_lines(scale, capacity, machine_bytes)
    bars = "".join(_phase_bar(translate, name, prediction, capacity, scale, lines) for name in PHASES)
    axis = f'<div class="axis" aria-hidden="true"><b>GiB</b>{_axis_labels(lines)}</div>'
    notes = f"{escape(_step_text(translate, prediction))} {escape(translate('plan.tight'))}"
    if several := prediction.get("several"):
        headline = several_figures.headline(translate, prediction, capacity)
        headline += several_figures.ways(translate, several, capacity)
    else:
        headline = _headline(translate, prediction["phases"], capacity) + _in_main_memory(translate, prediction)
    return (
        f'<section class="plan">{headline}'
        f"{_header(translate, prediction, auto_bits)}"
        f'<div class="bars">{axis}{bars}{_machine_axis(translate, lines)}</div>'
        f'<p class="small step-notes">{notes}</p></section>'
    )


def parts_table(translate: Callable, phases: dict) -> str:
    """Parts down, phases across, in GiB; and their totals."""
    columns = [phases[name] for name in PHASES]
    parts_of = [_parts_with_program(phase) for phase in columns]
    rows = []
    for part in _parts_present(phases):
        name = f"{swatch(part)}{escape(translate('chart.part.' + part))}"
        rows.append(f"<tr><th scope=row>{name}</th>{_gib_cells(parts.get(part, 0) for parts in parts_of)}</tr>")
    for key, kind in TOTALS:
        if kind in columns[0]:
            name = escape(translate(key))
            cells = _gib_cells(phase.get(kind) for phase in columns)
            rows.append(f'<tr class="sum"><th scope=row>{name}</th>{cells}</tr>')
    head = "".join(f"<th scope=col>{escape(translate(f'plan.head.{name}'))}</th>" for name in PHASES)
    first = f"<th scope=col>{escape(translate('plan.parts'))}</th>"
    table = f"<table><thead><tr>{first}{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<section class="plan">{table}</section>'


def swatch(part: str) -> str:
    """A small square in a part's color."""
    return f'<i class="swatch" style="background:var(--live-part-{escape(part)})"></i>'


def _headline(translate: Callable, phases: dict, capacity: int) -> str:
    """Whether the phase that needs most fits, in large type."""
    name = max(PHASES, key=lambda name: phases[name]["need"])
    need = phases[name]["need"]
    fit, job = verdict(need, capacity), translate(f"plan.headline.{name}")
    text = translate(f"plan.headline.{fit}", job=job, need=need / GIB, room_bytes=capacity)
    return f'<p class="headline verdict {fit}">{escape(text)}</p>'


def _in_main_memory(translate: Callable, prediction: dict) -> str:
    """How many layers the fine-tune streams from main memory, if any, or what else waits there."""
    streamed, offloaded = prediction.get("streamed"), prediction.get("offloaded")
    if offloaded:
        text = translate("plan.offloaded", main_bytes=offloaded["main_memory"])
        return f'<p class="streamed-layers">{escape(text)}</p>'
    if not streamed:
        return ""
    text = translate(
        "plan.streamed",
        count=streamed["layers"],
        layers=prediction["layers"],
        main_bytes=streamed["main_memory"],
    )
    return f'<p class="streamed-layers">{escape(text)}</p>'


def _parts_present(phases: dict) -> list[str]:
    """The parts that take memory in any phase."""
    parts_of = [_parts_with_program(phases[name]) for name in PHASES]
    return [part for part in PARTS if any(parts.get(part) for parts in parts_of)]


def _header(translate: Callable, prediction: dict, auto_bits: bool) -> str:
    """The model's name, its size, and how many of its weights are trained."""
    trained, parameters = prediction["trainable"], prediction["parameters"]
    about = [
        translate("plan.about", parameters=parameters, layers=prediction["layers"], bits=prediction["bits"]),
        *([translate("plan.about.auto", bits=prediction["bits"])] if auto_bits else []),
        translate(f"plan.trains.{prediction['method']}", trainable=trained, share=trained / parameters),
    ]
    name = escape(catalog.display_name(prediction["model"]))
    pill, source, earlier = (escape(translate(key)) for key in ("plan.predicted", "plan.took", "plan.earlier"))
    return (
        f'<header><strong>{name}</strong> <em class="pill">{pill}<span class="earlier"> {earlier}</span></em>'
        f" <small>{source}</small><p>{escape(' · '.join(about))}</p></header>"
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
    is_one = name == "chat" and "several" in prediction  # of the GPUs
    title = translate(f"plan.phase.{name}{'_one' if is_one else ''}", context=prediction["context"])
    fit = verdict(phase["need"], capacity)
    verdict_text = translate(f"plan.verdict.{fit}")
    sizes = _parts_with_program(phase)
    parts = [
        (part, f"{translate('chart.part.' + part)} {format_bytes(sizes[part])}") for part in PARTS if sizes.get(part)
    ]
    label = translate(
        "plan.bar",
        phase=title,
        need_bytes=phase["need"],
        verdict=verdict_text,
        parts=", ".join(text for _, text in parts),
    )
    blocks = "".join(
        f'<i style="width:{100 * sizes[part] / scale:.3f}%;background-color:var(--live-part-{part})"'
        f' title="{escape(text)}"></i>'
        for part, text in parts
    )
    marks = "".join(f'<u class="{line.look}" style="left:{100 * line.position:.2f}%"></u>' for line in lines)
    needs = translate("plan.needs", need_bytes=phase["need"], room_bytes=capacity)
    needs = escape(" · ".join([needs, *durations(translate, phase)]))
    return (
        f'<div class="phase"><p><b>{escape(title)}</b> <span class="verdict {fit}">{escape(verdict_text)}</span>'
        f' <span>{needs}</span></p><div class="bar" role="img" aria-label="{escape(label)}"'
        f' style="--room:{100 * capacity / scale:.2f}%">{blocks}{marks}</div></div>'
    )


def durations(translate: Callable, phase: dict) -> list[str]:
    """What a load or a step takes, or how fast answers come, on the chosen GPU; or estimates for all of that size."""
    texts, estimates, unit = [], [], ""
    for time in phase.get("time", ()):
        unit, seconds = time["unit"], time["seconds"]
        figure = significant(1 / seconds) if unit == "token" else step_time(translate, seconds)
        if time["source"] == "estimated":
            estimates.append(translate("plan.time.of_card", figure=figure, card=time["card"]))
            continue
        known = "rough_token" if unit == "token" else time["source"]
        if unit == "load":  # files that come from the disk, or are still to be downloaded, take longer
            unit, known = f"load.{time['stored']}", f"{known}_load"
        source = translate(f"plan.time.{known}", card=time["card"])
        texts.append(translate(f"plan.time.{unit}", figure=figure, source=source))
    if estimates:
        texts.append(translate(f"plan.time.estimated.{unit}", figures=translate("catalog.and").join(estimates)))
    return texts


def _step_text(translate: Callable, prediction: dict) -> str:
    step = prediction["phases"]["tune"]
    return translate("plan.step", rows=step["rows"], tokens=step["tokens"], checkpointing=step["checkpointing"])


def _parts_with_program(phase: dict) -> dict[str, int]:
    """A phase's parts in bytes. On a CPU the program itself is one: what the other parts leave of the whole."""
    if "rss" not in phase or "program" in phase["parts"]:
        return phase["parts"]
    return phase["parts"] | {"program": phase["rss"] - sum(phase["parts"].values())}


def _gib_cells(sizes: Iterable[int | None]) -> str:
    return "".join(f"<td>{_format_gib(size)}</td>" for size in sizes)


def _format_gib(size: int | None) -> str:
    if size is None:
        return ""
    if not size:
        return "–"
    return f"{size / GIB:.2f}" if size >= GIB / 200 else "&lt; 0.01"
