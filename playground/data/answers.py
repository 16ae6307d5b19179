"""An answer among several: the first of a ranked list, or the one with the best score."""

import math
from dataclasses import dataclass
from typing import Any

from playground.data.messages import conversation_in, is_message
from playground.data.names import columns_named
from playground.data.row import text_of

SCORES = ("overall_score", "score", "rating", "reward")
RANKS = ("rank", "ranking")


@dataclass(frozen=True)
class Answer:
    """An answer's value, and remarks on how it was found: ("ranked",) if it was the best of several."""

    value: Any
    remarks: tuple[str, ...] = ()


def first_answer(value: Any, scores: Any = None) -> Answer:
    """The answer to train on: of a list, the one with the best score or rank, else the first.

    scores: numbers for a list of the same length, the highest for the best answer.
    """
    if isinstance(value, dict):
        texts = [value[key] for key in columns_named(value, "content") if _are_texts(value[key])]
        return first_answer(texts[0]) if texts else Answer(_text_in(value))  # SQuAD's {"text": […], …}
    if not isinstance(value, list) or not value or conversation_in(value) is not None:
        return Answer(value)
    if all(isinstance(item, dict) for item in value) and not _have_ranks(value):
        return Answer(value)  # content in parts, or something unknown
    if not all(isinstance(item, (str, dict)) or conversation_in(item) is not None for item in value):
        return Answer(value)
    best = value[_best(value, scores)]
    return Answer(_text_in(best) if isinstance(best, dict) else best, ("ranked",) if len(value) > 1 else ())


def _best(answers: list, scores: Any) -> int:
    """The place of the best answer."""
    if not isinstance(scores, list) or len(scores) != len(answers):
        scores = [_score(answer) for answer in answers]
    numbers = [score if isinstance(score, (int, float)) and not math.isnan(score) else -math.inf for score in scores]
    return numbers.index(max(numbers))


def _score(answer: Any) -> float | None:
    """An answer's own score, or its rank as one: the lowest rank is the best."""
    if not isinstance(answer, dict):
        return None
    score = next((answer[key] for key in SCORES if isinstance(answer.get(key), (int, float))), None)
    rank = next((answer[key] for key in RANKS if isinstance(answer.get(key), (int, float))), None)
    return score if score is not None else -rank if rank is not None else None


def _have_ranks(answers: list) -> bool:
    return all(_score(answer) is not None and isinstance(_text_in(answer), str) for answer in answers)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _text_in(value: dict) -> Any:
    """The text of an object that has one under a usual name and no speaker; any other object unchanged."""
    named = [*columns_named(value, "content"), *columns_named(value, "output")]
    keys = [key for key in named if isinstance(value[key], str)]
    return text_of(value[keys[0]]) if keys and not is_message(value) else value
