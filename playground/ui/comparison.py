"""The comparison on the Compare tab: every question with the answers to it side by side, as data and as HTML."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from playground.i18n import translate
from playground.ui.answer_markdown import answer_html

SIDES = ("base", "tuned")  # answered by the engine
COLUMNS = (*SIDES, "service")
MEASURED = ("chat.measured", "chat.measured_together", "chat.measured_apart")  # words keys
PENDING = "…"  # an answer that hasn't begun


@dataclass
class Answer:
    """One column's answer. `finish` is "" while it is written, later "end", "limit" or "stopped" (engine/chat.py).

    tokens, tokens_per_s: measured; None for a service, which tells neither.
    """

    text: str = ""
    finish: str = ""
    tokens: int | None = None
    tokens_per_s: float | None = None


@dataclass
class Turn:
    """A question and its answers by column.

    adapter: the run that answered on the tuned side, or ""; adapter_name: in words. expected: the reference, or "";
    learned: its units (learned_words.py) to be marked. status: what is going on while no answer is complete. measured:
    after that, one of MEASURED, how the speed was measured. dropped: whether the conversation was cleared. A dropped
    turn can still be in the page's state, if an answer's last update arrived after the click on Clear; it is neither
    shown nor sent to a model.
    """

    question: str
    answers: dict[str, Answer]
    adapter: str = ""
    adapter_name: str = ""
    expected: str = ""
    learned: frozenset[str] = field(default_factory=frozenset)
    status: str = ""
    measured: str = ""
    dropped: bool = False

    @property
    def stopped(self) -> bool:
        """Whether an answer was stopped by a person."""
        return any(answer.finish == "stopped" for answer in self.answers.values())


def kept(turns: Sequence[Turn]) -> list[Turn]:
    """The turns of a conversation that were not cleared."""
    return [turn for turn in turns if not turn.dropped]


def history(turns: Sequence[Turn], column: str, adapter: str) -> list[tuple[str, str]]:
    """The questions that a column has answered, with its answers; on the tuned side only those of this adapter."""
    return [
        (turn.question, turn.answers[column].text)
        for turn in kept(turns)
        if column in turn.answers and (column != "tuned" or turn.adapter == adapter)
    ]


def kept_text(turns: Sequence[Turn]) -> str:
    """What the browser keeps of a conversation, as JSON text; conversation.py reads it on the page that comes next."""
    return json.dumps(
        [
            {
                "question": turn.question,
                "answers": {column: vars(answer) for column, answer in turn.answers.items()},
                "adapter": turn.adapter,
                "adapter_name": turn.adapter_name,
                "measured": turn.measured,
            }
            for turn in kept(turns)
        ],
        ensure_ascii=False,
    )


def comparison_html(
    lang: str, turns: Sequence[Turn], adapter: str = "", has_service: bool = False, busy: bool = False
) -> str:
    """All turns as HTML; adapter: the run that is chosen now; busy: whether the last turn is being answered."""
    turns = kept(turns)
    columns = COLUMNS if has_service or any("service" in turn.answers for turn in turns) else SIDES
    kept_now = html.escape(kept_text(turns))
    open_tag = f'<div class="compare-log" role="log" aria-busy="{str(busy).lower()}" data-kept="{kept_now}">'
    if not turns:
        cells = "".join(f"<p>{_text(lang, f'chat.empty_{column}')}</p>" for column in columns)
        return f'{open_tag}<div class="answers nothing">{cells}</div></div>'
    names_adapters = any(turn.adapter != adapter for turn in turns)
    articles, shown = [], None
    for turn in turns:
        if names_adapters and turn.adapter != shown:
            articles.append(f'<p class="switch">{html.escape(turn.adapter_name)}</p>')
        shown = turn.adapter
        articles.append(_turn_html(lang, turn, columns, busy and turn is turns[-1]))
    return f"{open_tag}{''.join(articles)}</div>"


def heads_html(lang: str, texts: dict[str, str]) -> str:
    """The heads of the columns; texts: which model answers there, in words, by column."""
    cells = "".join(
        f'<div class="badge head-{column}"><strong>{_text(lang, f"chat.{column}")}</strong> {html.escape(text)}</div>'
        for column, text in texts.items()
    )
    return f'<div class="compare-log"><div class="answers heads">{cells}</div></div>'


def _turn_html(lang: str, turn: Turn, columns: Sequence[str], busy: bool) -> str:
    """A question and its answers; the expected answer only once they are there, so that nobody reads it first."""
    cells = "".join(_cell_html(lang, column, turn) for column in columns)
    lines = []
    if turn.expected and not busy:
        marked = f" <small>{_text(lang, 'chat.marked')}</small>" if turn.learned else ""
        expected = answer_html(turn.expected, turn.learned)
        lines.append(f'<div class="expected"><strong>{_text(lang, "chat.expected")}</strong>{marked}{expected}</div>')
    if status := turn.status or (translate(lang, turn.measured) if turn.measured else ""):
        lines.append(f'<p class="status">{html.escape(status)}</p>')
    question = f'<p class="asked">{html.escape(turn.question)}</p>'
    return f'<article class="turn">{question}<div class="answers">{cells}</div>{"".join(lines)}</article>'


def _cell_html(lang: str, column: str, turn: Turn) -> str:
    name = _text(lang, f"chat.{column}")
    answer = turn.answers.get(column)
    if answer is None:
        return f'<section class="answer absent" aria-label="{name}"></section>'
    return answer_section(lang, column, name, answer, turn.learned)


def answer_section(
    lang: str, side: str, name: str, answer: Answer, learned: frozenset[str] = frozenset(), detail: str = ""
) -> str:
    """An answer under who gave it: name and detail, as HTML. side: one of COLUMNS, for its look."""
    if answer.finish and not answer.text:
        text = f'<p class="silent">{_text(lang, "chat.silent")}</p>'
    else:
        text = answer_html(answer.text or PENDING, learned)
    more = f'<small class="detail">{detail}</small>' if detail else ""
    return (
        f'<section class="answer side-{side}" aria-label="{name}"><strong class="who">{name}</strong>{more}'
        f'<div class="text">{text}</div>{_facts_html(lang, answer)}</section>'
    )


def _facts_html(lang: str, answer: Answer) -> str:
    """Under an answer: whether it was cut or stopped, and its speed."""
    facts = []
    if answer.finish in ("limit", "stopped"):
        key = "chat.cut" if answer.finish == "limit" else "chat.stopped"
        key = key if answer.tokens is not None else "chat.unfinished"  # a service, or the page was left meanwhile
        facts.append(f'<strong class="cut">{_text(lang, key, tokens=answer.tokens)}</strong>')
    if answer.tokens_per_s is not None:
        facts.append(_text(lang, "chat.speed", tokens=answer.tokens, tokens_per_s=answer.tokens_per_s))
    return f'<p class="facts">{" · ".join(facts)}</p>' if facts else ""


def _text(lang: str, key: str, **values: object) -> str:
    return html.escape(translate(lang, key, **values))
