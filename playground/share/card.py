"""The facts of a result card: one fine-tune's question, both answers, memory, loss, hardware and time, from its run."""

from dataclasses import dataclass, replace
from typing import Any

from playground import catalog
from playground.catalog.entries import data_sets
from playground.catalog.public_name import public_name
from playground.errors import PlaygroundError, problem
from playground.i18n import translate
from playground.runs import Run, last_result
from playground.runs.answers import read_answers
from playground.runs.private_text import without_paths
from playground.runs.summary import forgetting_of, number, pair_of
from playground.settings import Settings
from playground.share.command_lines import tune_command

TOTALS = ("device_used", "rss")  # what decides whether a fine-tune fits: of a GPU, or of a CPU


@dataclass(frozen=True)
class Exchange:
    """A question with the base model's and the fine-tuned model's answer. named: whether each names the fact."""

    question: str
    base: str
    tuned: str
    named: tuple[bool | None, bool | None] = (None, None)
    gain: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes: of the whole GPU or program, and of its parts; the rest belongs to none of them."""

    total: int
    parts: dict[str, int]


@dataclass(frozen=True)
class Card:
    """What a card shows.

    exchange: None where no answers were kept; loss: held-out, before and after, or None; forgetting: the rise of the
    loss on neutral text, in nats a token, by language; recorded: the date of a recording, "" for a run of this machine.
    """

    run: str
    model: str
    bits: int
    method: str
    r: int
    data: str
    hardware: str
    device: str
    seconds: float
    steps: int
    loss: tuple[float, float] | None
    forgetting: dict[str, float]
    predicted: Memory | None
    measured: Memory | None
    exchange: Exchange | None
    command: str
    recorded: str = ""


def card_of(run: Run, lang: str, question: int = 0) -> Card:
    """The card of a run. question: its number from 1 on in `exchanges`; 0: the one that shows most.

    Raises PlaygroundError for a run that isn't a fine-tune, and for a question that it hasn't.
    """
    events = list(run.events())
    first = events[0] if events else {}
    if first.get("job") != "tune":
        raise problem("card.error.job", run=run.id)
    asked = exchanges(run)
    if question and not 1 <= question <= len(asked):
        raise problem("card.error.question", question=question, count=len(asked))
    chosen = asked[question - 1] if question else max(asked, key=_shows, default=None)
    settings, result = run.settings(), last_result(run)
    hardware = first.get("hardware", {})
    return Card(
        run=run.id,
        model=catalog.display_name(settings.load.model),
        bits=settings.load.bits,
        method=settings.train.method,
        r=settings.lora.r,
        data=_data_name(settings.data.source, lang),
        hardware=str(hardware.get("name", "")),
        device=str(hardware.get("device", "cpu")),
        seconds=float(number(result.get("seconds")) or max((e["t"] for e in events), default=0.0)),
        steps=max((e["step"] for e in events if e["kind"] == "step"), default=0),
        loss=pair_of(result.get("loss"), "before", "after"),
        forgetting=forgetting_of(result),
        predicted=_memory(events, "memory_predicted", ""),
        measured=_memory(events, "memory_measured", "peak"),
        exchange=chosen,
        command=tune_command(shareable(settings)),
        recorded=str(first.get("recorded", "")),
    )


def shareable(settings: Settings) -> Settings:
    """Settings without the folders of this machine: a path becomes its last part."""
    values, start = without_paths(settings.to_dict()), settings.lora.start_from
    load = replace(settings.load, model=public_name(values["load"]["model"]))
    data = replace(settings.data, source=public_name(values["data"]["source"]))
    return replace(settings, load=load, data=data, lora=replace(settings.lora, start_from=public_name(start)))


def exchanges(run: Run) -> list[Exchange]:
    """Every question whose answers by both sides the run kept: to its held-out rows, else to its sample questions."""
    found = [_exchange(row) for row in read_answers(run.folder)]
    if not any(found):
        measures = (e for e in run.events() if e["kind"] == "eval" and e.get("when") == "measures")
        found = [_exchange(row) for e in measures for row in (*e.get("helped", ()), *e.get("hurt", ()))]
    return [exchange for exchange in found if exchange] or _samples(run)


def _exchange(row: Any) -> Exchange | None:
    try:
        base, tuned = row["base"], row["tuned"]
        gain = (number(tuned.get("chrf")) or 0) - (number(base.get("chrf")) or 0)
        named = tuple(side.get("named") if isinstance(side.get("named"), bool) else None for side in (base, tuned))
        return Exchange(str(row["question"]), str(base["text"]), str(tuned["text"]), (named[0], named[1]), gain)
    except (KeyError, TypeError, AttributeError):
        return None


def _samples(run: Run) -> list[Exchange]:
    """The first and the last sample answer to each question that was asked during training."""
    answers: dict[str, list[str]] = {}
    for event in run.events():
        if event["kind"] == "sample":
            answers.setdefault(str(event.get("prompt", "")), []).append(str(event.get("text", "")))
    return [Exchange(prompt, texts[0], texts[-1]) for prompt, texts in answers.items() if len(texts) > 1]


def _shows(exchange: Exchange) -> tuple:
    """How much a question shows: the fact is named only after the fine-tune, then the gain in chrF."""
    base, tuned = exchange.named
    return (tuned or 0) - (base or 0), exchange.gain


def _memory(events: list[dict], kind: str, inner: str) -> Memory | None:
    """Of the last event of this kind about the fine-tune. inner: the field that its totals are in; "" for none."""
    event = next((e for e in reversed(events) if e["kind"] == kind and e.get("phase") == "tune"), None)
    totals = (event.get(inner) or {}) if event and inner else event or {}
    total = next((totals[name] for name in TOTALS if isinstance(totals.get(name), int)), None)
    if event is None or total is None:
        return None
    parts = {name: size for name, size in (event.get("parts") or {}).items() if isinstance(size, int) and size > 0}
    return Memory(total, parts)


def _data_name(source: str, lang: str) -> str:
    entry = data_sets().get(source)
    if entry:
        return translate(lang, f"{entry['name']}.short")
    return public_name(source)


def question_choices(run: Run) -> list[tuple[str, int]]:
    """(question, its number) of every question, for a list to choose from; [] for a run that can't be read."""
    try:
        return [(exchange.question[:120], number) for number, exchange in enumerate(exchanges(run), 1)]
    except (PlaygroundError, OSError):
        return []
