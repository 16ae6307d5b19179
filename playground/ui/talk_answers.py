"""The talk's questions, answered by the base and the tuned model, as recorded earlier; live_answers.py asks them now.

Styles are in assets/talk.css. All text is escaped here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from playground import catalog
from playground.ui.talk_bars import badge


@dataclass(frozen=True)
class Answered:
    """A question with both answers, as far as they are written."""

    question: str
    base: str = "…"
    tuned: str = "…"


def recorded_answers(events: Iterable[dict]) -> list[Answered]:
    """Each sample question of a fine-tune with its first answer, before the training, and its last one."""
    texts: dict[str, list[str]] = {}
    for event in events:
        if event["kind"] == "sample":
            text = event["text"] + ("" if event.get("closed", True) else " …")
            texts.setdefault(event["prompt"], []).append(text)
    return [Answered(question, both[0], both[-1]) for question, both in texts.items()]


def recorded_figure(word: Callable, recordings: Sequence[Sequence[dict]]) -> str:
    """The answers of recorded fine-tunes, each with its model, rows, hardware and date."""
    return "".join(_recorded(word, events) for events in recordings if events)


def _recorded(word: Callable, events: Sequence[dict]) -> str:
    first = events[0]
    rows = next((e["values"]["rows"] for e in events if e["kind"] == "note" and e["key"] == "note.data"), 0)
    about = word("talk.answers.how", model=catalog.display_name(first["settings"]["load"]["model"]), rows=rows)
    hardware = first["hardware"]
    source = badge(word("talk.recorded", date=first["recorded"], hardware=f"{hardware['name']}, {hardware['cores']}"))
    return f"{answers_table(word, recorded_answers(events))}<p>{escape(about)}</p>{source}"


def answers_table(word: Callable, answered: Sequence[Answered]) -> str:
    """A line a question, the base model's answer beside the tuned model's."""
    head = "".join(f'<th scope="col">{escape(word(f"talk.answers.{side}"))}</th>' for side in ("base", "tuned"))
    rows = "".join(
        f'<tr><th scope="row">{escape(one.question)}</th><td>{escape(one.base)}</td><td>{escape(one.tuned)}</td></tr>'
        for one in answered
    )
    return f'<table class="answers"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>'
