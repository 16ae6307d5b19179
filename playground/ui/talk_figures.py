"""The figure of each kind of talk step, as HTML: predicted, recorded or made here and now, and it says which.

Styles are in assets/talk.css, and those of the figures in theirs. All text is escaped here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path

from playground import catalog
from playground.catalog.cards import cards
from playground.errors import PlaygroundError, Problem
from playground.i18n import LANGUAGES, format_bytes, format_duration, translate
from playground.runs.recordings import read_recording
from playground.talk.steps import MODEL, Step
from playground.ui import plan_figures
from playground.ui.lab_recorded import recorded_badge, recorded_figures
from playground.ui.talk_answers import recorded_answers, recorded_figure
from playground.ui.talk_bars import Bar, badge, bars
from playground.ui.talk_models import (
    WEIGHT_MODEL,
    Ask,
    formats_figure,
    is_asked,
    lora_shape,
    peft_entries,
    savings_of,
    stored,
)
from playground.ui.talk_recordings import cost_table, measured_peaks, peft_table
from playground.ui.weight_figure import lora_figure, weight_figure

WIDTHS = (32, 16, 8, 4)
GB = 10**9
# Kinds whose figure a slider changes: the option, the slider's label, its range, and where it stands.
LIVE: dict[str, tuple[str, str, tuple[int, int], int]] = {
    "weight": ("bits", "talk.bits_slider", (2, 8), 4),
    "lora": ("r", "talk.rank_slider", (1, 256), 8),
}


def step_figure(step: Step, lang: str, ask: Ask | None = None, root: Path | None = None) -> str:
    """The figure of a step; "" for a kind that has none.

    ask: the planner's, for a figure of which `is_asked` says that it needs it; without it, its place until then.
    root: the runs of whoever looks at it, for what was measured here.
    """
    draw: dict[str, Callable[[Step, str, Callable], str]] = {
        "bytes": _bytes,
        "cards": _cards,
        "guess": lambda step, lang, word: _guess(step, lang, word, ask),
        "measured": lambda step, _lang, word: measured_peaks(step, word),
        "peft": lambda step, _lang, word: peft_table(word, peft_entries(step, ask)),
        "savings": lambda step, _lang, word: _savings(step, word, ask),
        "weight": _weight,
        "largest": _largest,
        "formats": lambda step, lang, _word: formats_figure(step, lang, root),
        "lora": _lora,
        "run": _run,
        "prompts": _prompts,
        "cost": lambda step, _lang, word: cost_table(step, word),
    }
    word = partial(translate, lang)
    if step.kind not in draw:
        return ""
    if is_asked(step) and ask is None and step.kind != "guess":
        return _waiting(word)
    try:
        return draw[step.kind](step, lang, word)
    except PlaygroundError as error:
        return f"<p>{escape(error.text(lang))}</p>"


def _waiting(word: Callable) -> str:
    return f'<p role="status">{escape(word("talk.predicting"))}</p>'


def check_figures(steps: Sequence[Step]) -> None:
    """Draw every figure that nothing has to be asked for. Raises PlaygroundError for recordings that can't be shown."""
    problems = []
    for step in steps:
        try:
            step_figure(step, LANGUAGES[0])
        except (ValueError, AttributeError, LookupError, TypeError, ArithmeticError):  # of a recording edited by hand
            problems.append(Problem("error.talk_damaged", {"step": step.number, "line": step.line, "kind": step.kind}))
    if problems:
        raise PlaygroundError(*problems)


def slider(step: Step, lang: str) -> str:
    """What changes a step's figure while one speaks: a slider for LIVE kinds, else ""."""
    if step.kind not in LIVE:
        return ""
    option, key, (least, most), default = LIVE[step.kind]
    value = step.options.get(option, default)
    return (
        f'<label class="live">{escape(translate(lang, key))} <input type="range" min="{least}" max="{most}" '
        f'value="{value}"><output>{value}</output></label>'
    )


def redrawn(step: Step, lang: str, value: int, ask: Callable[..., dict]) -> str:
    """The figure of a LIVE step for another value of its slider. ask: the planner's."""
    option, _, (least, most), _ = LIVE[step.kind]
    value = min(max(value, least), most)
    if step.kind == "lora":
        return _lora(replace(step, options=step.options | {option: value}), lang, partial(translate, lang))
    word, model = partial(translate, lang), step.options.get("model", WEIGHT_MODEL)
    layer = recorded_figures()["weight"]["layer"] if model == WEIGHT_MODEL else ""
    try:
        picture = ask("weight_picture", model=model, layer=layer, format=f"int{value}")
    except PlaygroundError as error:
        if model != WEIGHT_MODEL:
            return f"<p>{escape(error.text(lang))}</p>"
        return f"<p>{escape(word('talk.not_here'))}</p>{_weight(step, lang, word)}"
    return weight_figure(word, picture) + badge(word("talk.computed_now"))


def _parameters(step: Step) -> int:
    model = step.options.get("model", MODEL)
    return int({**catalog.shapes(), **catalog.models()}[model]["parameters"])


def _bytes(step: Step, lang: str, word: Callable) -> str:
    parameters = _parameters(step)
    rows = [
        Bar(word("talk.bits", bits=bits), parameters * bits / 8, f"{parameters * bits / 8 / GB:.1f} GB")
        for bits in WIDTHS
    ]
    head = f'<p class="big">{parameters:,} × 4 B = {parameters * 4 / GB:.1f} GB</p>'
    return head + bars(rows) + badge(word("talk.computed"))


def _cards(step: Step, lang: str, word: Callable) -> str:
    weights = _parameters(step) * 4
    rows = [Bar(_card_name(card, word), card["bytes"], f"{card['gib']} GB") for card in cards()]
    return bars(rows, weights, f"{weights / GB:.1f} GB") + badge(word("talk.computed_prices"))


def _card_name(card: dict, word: Callable) -> str:
    """The card's names; with the price of one of them, where one was announced."""
    return word("talk.price", **card["price"]) if "price" in card else card["name"]


def _guess(step: Step, lang: str, word: Callable, ask: Ask | None) -> str:
    """The question, and behind a button or a key the predicted answer."""
    parts = _waiting(word)
    try:
        if steps := savings_of(step, ask):
            parts = f'<p class="big">{escape(format_bytes(steps[0]["need"]))}</p>{badge(word("talk.predicted"))}'
    except PlaygroundError as error:
        parts = f"<p>{escape(error.text(lang))}</p>"
    return (
        f'<p class="big question">{escape(step.options.get("question", {}).get(lang, ""))}</p>'
        f'<div class="hidden-answer"><button type="button" class="reveal">{escape(word("talk.reveal"))}</button>'
        f'<div class="answer">{parts}</div></div>'
    )


def _savings(step: Step, word: Callable, ask: Ask | None) -> str:
    card = next(card["bytes"] for card in cards() if card["id"] == catalog.first_plan()["card"])
    steps = savings_of(step, ask)
    return (plan_figures.waterfall(word, steps, card) if steps else "") + badge(word("talk.predicted"))


def _largest(step: Step, lang: str, word: Callable) -> str:
    known = stored("largest_models")
    figure = plan_figures.largest_models(word, known["answer"], **known["arguments"]) if known else ""
    return figure + badge(word("talk.predicted"))


def _weight(step: Step, lang: str, word: Callable) -> str:
    return weight_figure(word, recorded_figures()["weight"]) + recorded_badge(word)


def _lora(step: Step, lang: str, word: Callable) -> str:
    options, of = step.options, ""
    if "model" in options:
        of = f"<p>{escape(word('talk.lora_of', model=catalog.display_name(options['model'])))}</p>"
    rows, columns = lora_shape(options["model"]) if "model" in options else (4096, 4096)
    shape = options.get("rows", rows), options.get("columns", columns)
    return of + lora_figure(word, shape, options.get("r", 8)) + badge(word("talk.computed"))


def _run(step: Step, lang: str, word: Callable) -> str:
    """What a recorded fine-tune brought, that of the demo in this language unless a step names another: facts before
    and after, time, memory, and a sample answer."""
    events = read_recording(step.options.get("recordings", [f"demo-{lang}"])[0])
    first, result = events[0], events[-1]["result"]
    shown = recorded_answers(events)[0]
    facts = [
        (word("talk.facts"), f"{result['recall']['base']:.0%} → {result['recall']['tuned']:.0%}"),
        (word("talk.time"), format_duration(result["seconds"])),
        (word("talk.peak"), format_bytes(result["peak"].get("device_used", result["peak"]["rss"]))),
    ]
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    answers = "".join(
        f"<p><small>{escape(word(key))}</small> {escape(text)}</p>"
        for key, text in (("talk.before", shown.base), ("talk.after", shown.tuned))
    )
    where = {
        "date": first.get("recorded", ""),
        "hardware": f"{first['hardware']['name']}, {first['hardware']['cores']}",
    }
    source = badge(word("talk.recorded", **where))
    return f'<dl class="tiles">{tiles}</dl><p class="asked">{escape(shown.question)}</p>{answers}{source}'


def questions(step: Step, lang: str) -> list[str]:
    """What a step of prompts asks: the questions of the recordings that it names, or else the talk's."""
    if "recordings" not in step.options:
        return list(catalog.prompts()["talk"]["prompts"][lang])
    answered = [one for name in step.options["recordings"] for one in recorded_answers(read_recording(name))]
    return list(dict.fromkeys(one.question for one in answered))


def _prompts(step: Step, lang: str, word: Callable) -> str:
    """The recorded answers of the base and the tuned model; those to the talk's prompts where the step names none."""
    names = step.options.get("recordings", [f"talk-{lang}"])
    return recorded_figure(word, [read_recording(name) for name in names])
