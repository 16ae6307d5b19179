"""An answer among several: the first of a ranked list, or the one with the best score."""

import math
from dataclasses import dataclass
from typing import Any

from playground.data.messages import conversation_in, is_message
from playground.data.names import columns_named
from playground.data.row import is_blank, text_of

SCORES = ("overall_score", "score", "rating", "reward")
RANKS = ("rank", "ranking")


@dataclass(frozen=True)
class Answer:
    """An answer's value, and remarks on how it was found: ("ranked",) if it was the best of several."""

    value: Any
    remarks: tuple[str, ...] = ()


def first_answer(value: Any, scores: Any = None) -> Answer:
    """The answer to train on: of a list, the one with the best score or rank, else the first that says something.

    scores: numbers for a list of the same length, the highest for the best answer.
    """
    if isinstance(value, (dict, list)) and is_blank(value):
        return Answer("")
    if isinstance(value, dict):
        contents = [value[key] for key in columns_named(value, "content")]
        if contents and not is_message(value) and not _has_text(value):
            return Answer("")  # SQuAD's question without an answer: {"text": [], "answer_start": []}
        texts = [content for content in contents if _are_texts(content)]
        return first_answer(texts[0]) if texts else Answer(_text_in(value))  # SQuAD's {"text": […], …}
    if isinstance(value, list) and any(map(is_blank, value)):
        return _first_of_rest(value, scores)
    if not isinstance(value, list) or not value or conversation_in(value) is not None:
        return Answer(value)
    if all(isinstance(item, dict) for item in value) and not _have_ranks(value):
        return Answer(value)  # content in parts, or something unknown
    if not all(isinstance(item, (str, dict)) or conversation_in(item) is not None for item in value):
        return Answer(value)
    best = value[_best(value, scores)]
    return Answer(_text_in(best) if isinstance(best, dict) else best, ("ranked",) if len(value) > 1 else ())


def _first_of_rest(answers: list, scores: Any) -> Answer:
    """The first answer of a list without those that say nothing, where it is a list of answers."""
    rest = [n for n, answer in enumerate(answers) if not is_blank(answer)]
    paired = isinstance(scores, list) and len(scores) == len(answers)
    found = first_answer([answers[n] for n in rest], [scores[n] for n in rest] if paired else None)
    return Answer(answers) if isinstance(found.value, list) and conversation_in(found.value) is None else found


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
    texts = [text for text in value if text is not None] if isinstance(value, list) else []
    return bool(texts) and all(isinstance(text, str) for text in texts)


def _has_text(value: Any) -> bool:
    """Whether there is a visible text in a value or in what it contains; numbers and marks are none."""
    if isinstance(value, (dict, list)):
        return any(map(_has_text, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and not is_blank(value)


def _text_in(value: dict) -> Any:
    """The text of an object that has one under a usual name and no speaker; any other object unchanged."""
    named = [*columns_named(value, "content"), *columns_named(value, "output")]
    keys = [key for key in named if isinstance(value[key], str)]
    return text_of(value[keys[0]]) if keys and not is_message(value) else value
