"""The card picture: a job's memory at each bit width against the card, and the layers as the job goes through them.

Its scripts in assets/: card_picture_frames.js (figures of bars and of the tape's instants), card_picture.js (the page).
The property `picture` is what it draws, as JSON text: an object would make Gradio fire `change` without end. Choosing
a width fires `select`, with the bits as the event's value.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground import ASSETS
from playground.catalog.cards import cards
from playground.errors import PlaygroundError
from playground.i18n import table
from playground.planning.client import this_machine
from playground.runs.measured import Measurement, latest_measurements
from playground.settings import BIT_WIDTHS, Settings
from playground.ui.gpu_choice import THIS_MACHINE, memory_of
from playground.ui.page import EACH_CLICK, LATEST_ONLY, UNQUEUED, Page, Update
from playground.ui.tables import step_time

# For listeners that draw a picture: the old one stays, dimmed, until the new one is there.
DRAWING: dict[str, Any] = {**LATEST_ONLY, "show_progress": "minimal"}
SCRIPTS = ("card_picture_frames.js", "card_picture.js")
SECTIONS = {"load": ("load",), "chat": ("load",), "tune": ("load", "lora", "train")}  # of the settings, by job
# Settings of loading that its memory doesn't depend on: without them, more questions are the same.
IRRELEVANT = {"accept_terms": False, "force": False, "simulate_gpu_gib": 0, "device": "auto"}

# Static on purpose: Gradio leaves the page alone when the rendered template stays the same text.
TEMPLATE = """
<section class="picture">
  <header><strong></strong> <em></em> <span class="on"></span></header>
  <div class="widths" role="radiogroup"></div>
  <ul class="legend"></ul>
  <div class="steps">
    <p class="now"><strong class="stage"></strong> <b class="bytes"></b> <span class="peak"></span>
      <span class="account"></span></p>
    <div class="line" aria-hidden="true"><svg preserveAspectRatio="none"></svg><i class="here"></i></div>
    <div class="controls">
      <button class="play" type="button"></button>
      <input class="scrub" type="range" min="0" step="1" value="0">
      <select class="speed"><option value="0.25">¼×</option><option value="1" selected>1×</option>
        <option value="4">4×</option></select>
    </div>
    <div class="cells" role="group"></div>
    <ul class="places" hidden></ul>
    <p class="cell-text"></p>
  </div>
  <p class="reason" hidden></p>
</section>
"""


@dataclass(frozen=True)
class Room:
    """The memory that a picture is drawn against: its bytes (0: unknown), its device, "cuda" or "cpu", and its name."""

    capacity: int
    device: str
    name: str = ""


def room_of(card: str) -> Room:
    """The room of a card, or of this machine, by its value among gpu_choice.card_choices."""
    memory, names = memory_of(card), {entry["id"]: entry["name"] for entry in cards()}
    return Room(memory["bytes"], memory["device"], names.get(memory["name"], memory["name"]))


def room_of_size(gib: float) -> Room:
    """The room of a GPU of so many GiB that is simulated; 0: of this machine."""
    return Room(int(gib * 2**30), "cuda", f"{gib:g} GiB GPU") if gib else room_of(THIS_MACHINE)


def build(page: Page) -> gr.HTML:
    """The picture, empty until its property `picture` is set."""
    words = f"const WORDS = {json.dumps(_words(page.lang), ensure_ascii=False)};"
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "card_picture.css").read_text(encoding="utf-8"),
        js_on_load="\n".join([words, *((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)]),
        apply_default_css=False,
        container=True,
        elem_classes="counted",
        picture="",
    )


def updates(page: Page, settings: Settings, job: str, room: Room, context: int = 1024) -> Iterator[Update]:
    """Updates of a picture for a job ("load", "chat", "tune"): first with its bars, then with its tape as well.

    settings: validated; their bit width is the one that is marked, 0 for none. context: tokens of a chat. What goes
    wrong with one width is told at that width, so that the others stay.
    """
    sections = {section: settings.to_dict()[section] for section in SECTIONS[job]}
    sections["load"] |= IRRELEVANT
    question: dict[str, Any] = {"job": job, "context": context, "capacity": room.capacity, "device": room.device}

    def ask(do: str, bits: int) -> dict:
        of_width = sections | {"load": sections["load"] | {"bits": bits}}
        try:
            return page.planner.ask(do, settings=of_width, **question)
        except PlaygroundError as error:
            return {"bits": bits, "trouble": _trouble(page, error)}

    measured = _measured(page, settings, job, room)
    picture: dict[str, Any] = {
        "job": job,
        "chosen": settings.load.bits,
        "model": settings.load.model,
        "room": {"capacity": room.capacity, "name": room.name, "device": room.device},
        "bars": [ask("bar", bits) | {"measured": measured.get(bits)} for bits in BIT_WIDTHS],
    }
    told = _told_width(picture["bars"], settings.load.bits)
    if told is None:
        yield _update(picture | {"tape": None} | _told_once(picture["bars"]))
        return
    yield _update(picture | {"awaited": True})
    answer = ask("job_tape", told)
    if job == "load":  # not before: it is computed anew each time
        _add_times(page, picture["bars"], sections, room)
    reason = answer.get("trouble") or (page.translate("picture.no_layers") if answer.get("reason") else "")
    yield _update(picture | {"tape": answer.get("tape"), "told": told, "reason": reason})


def connect_form(page: Page, picture: gr.HTML, job: str, header: gr.Tab, live_view: gr.HTML) -> None:
    """Keep a picture of a job with the form's settings, and after a job with what it measured. header: of its tab."""
    names = [name for name in page.fields if name[0] in SECTIONS[job]]
    fields = [page.fields[name] for name in names]

    def draw(*values: Any) -> Iterator[Update]:
        settings = page.parse_fields(names, values)
        yield from updates(page, settings, job, room_of_size(settings.load.simulate_gpu_gib))

    connect(picture, draw, fields, page.fields["load", "bits"], header, [live_view.change])


def connect(
    picture: gr.HTML,
    draw: Callable[..., Iterator[Update]],
    inputs: Sequence,
    bits: gr.Radio,
    header: gr.Tab,
    triggers: Sequence[Callable] = (),
) -> None:
    """Draw a picture once its tab was opened, and again whenever an input changes; choosing a width in it sets `bits`.

    draw: yields the updates for the inputs' values; where it raises PlaygroundError the old picture stays, since what
    is wrong is said elsewhere. Nothing is computed for a tab that nobody looks at.
    """
    opened = gr.State(False)

    def draw_if_open(is_open: bool, *values: Any) -> Iterator[Update]:
        try:
            yield from draw(*values) if is_open else [gr.skip()]
        except PlaygroundError:
            yield gr.skip()

    listener = (draw_if_open, [opened, *inputs], picture)
    header.select(lambda: True, None, opened, **UNQUEUED).then(*listener, **DRAWING)
    gr.on([*(component.change for component in inputs), *triggers], *listener, **DRAWING)
    picture.select(chosen_bits, None, bits, **EACH_CLICK)


def chosen_bits(event: gr.SelectData) -> int:
    """The bit width that was chosen in a picture: for a listener of its `select`. Anything else counts as 16."""
    return event.value if event.value in BIT_WIDTHS else 16


def _update(picture: dict) -> Update:
    return gr.update(picture=json.dumps(picture, ensure_ascii=False, separators=(",", ":")))


def _add_times(page: Page, bars: list[dict], settings: dict, room: Room) -> None:
    """Put what a load takes beside each bar, in words, where it is known."""
    question: dict[str, Any] = {"widths": BIT_WIDTHS, "capacity": room.capacity, "device": room.device}
    try:
        times = page.planner.ask("load_times", settings=settings, **question)
    except PlaygroundError:  # a bar says what is wrong
        return
    for bar in bars:
        if time := times.get(str(bar["bits"])):
            figure = step_time(page.translate, time["seconds"])
            bar["time"] = page.translate(f"picture.time.{time['stored']}", figure=figure)


def _trouble(page: Page, error: PlaygroundError) -> str:
    """An error as it stands beside a bar."""
    is_split = [problem.key for problem in error.problems] == ["error.split_not_predicted"]
    return page.translate("picture.not_predicted") if is_split else error.text(page.lang)


def _told_width(bars: list[dict], chosen: int) -> int | None:
    """The width whose tape is shown: the chosen one, else 16 bits; None where neither can be predicted."""
    predicted = [bar["bits"] for bar in bars if "need" in bar]
    return next((bits for bits in (chosen, 16) if bits in predicted), None)


def _told_once(bars: list[dict]) -> dict:
    """Bars that can't be predicted, with a trouble that they all share told once, as the picture's reason."""
    troubles = {bar.get("trouble") for bar in bars}
    if len(troubles) > 1:
        return {"bars": bars, "reason": ""}
    return {"bars": [bar | {"trouble": None} for bar in bars], "reason": troubles.pop()}


def _measured(page: Page, settings: Settings, job: str, room: Room) -> dict[int, dict]:
    """What was measured here at each width, where the picture is of this machine's device."""
    machine = this_machine()
    if machine["device"] != room.device:
        return {}
    found = latest_measurements(page.root, settings.load.model, job, machine)
    return {bits: _measured_bar(measurement, settings) for bits, measurement in found.items()}


def _measured_bar(measurement: Measurement, settings: Settings) -> dict:
    """A measurement as {"total", "parts" that add up to it, "same" (settings), "run"}."""
    parts = dict(measurement.parts)
    rest = measurement.total - sum(parts.values())
    if rest > 0:
        parts["rest_cpu" if measurement.hardware.get("device") == "cpu" else "runtime"] = rest
    same = measurement.is_of_same_settings(settings)
    return {"total": measurement.total, "parts": parts, "same": same, "run": measurement.run}


def _words(lang: str) -> dict[str, str]:
    """The texts of the picture, keyed as its scripts name them."""
    shared = ("chart.part.", "chart.verdict.", "chart.layers.")
    return {
        key.removeprefix("picture.").removeprefix("chart."): text
        for key, text in table(lang).items()
        if key.startswith(("picture.", *shared))
    }
