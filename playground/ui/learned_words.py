"""Find in an answer what it shares with the reference but not with the question: the words that were learned.

A text's units are its words, and in scripts without spaces every two neighboring characters.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

# Kanji and kana, with their marks of repetition and length; runs of them have no spaces between words.
UNSPACED = "\u3005\u3007\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
RUN = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+(?:[-'’.:,][^\W_{UNSPACED}]+)*")
COMMON_SHARE = 0.1  # of the references: a unit in more of them than that says nothing about one


def learned_units(reference: str, question: str, common: frozenset[str] = frozenset()) -> frozenset[str]:
    """The units of a reference that are neither in the question nor among the common ones."""
    return _unit_set(reference) - _unit_set(question) - common


def common_units(references: Iterable[str]) -> frozenset[str]:
    """The units that occur in more than a tenth of the distinct references: articles, particles, endings of verbs."""
    distinct = set(references)
    counts = Counter(unit for reference in distinct for unit in _unit_set(reference))
    most = max(1, COMMON_SHARE * len(distinct))
    return frozenset(unit for unit, count in counts.items() if count > most)


def split_at_units(text: str, units: frozenset[str]) -> list[tuple[str, bool]]:
    """Cut a text into pieces, each with whether it consists of `units`; the pieces join to the text again."""
    pieces, done = [], 0
    for start, end in _merged((start, end) for start, end, unit in _units(text) if unit in units):
        pieces += [(text[done:start], False), (text[start:end], True)]
        done = end
    return [(piece, marked) for piece, marked in [*pieces, (text[done:], False)] if piece]


def _units(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, normalized unit) of every unit; two neighboring characters overlap with the two after them."""
    for run in RUN.finditer(text):
        start, end = run.span()
        if run["unspaced"] and end - start > 1:
            for at in range(start, end - 1):
                yield at, at + 2, _normalized(text[at : at + 2])
        else:
            yield start, end, _normalized(run[0])


def _unit_set(text: str) -> frozenset[str]:
    return frozenset(unit for _, _, unit in _units(text))


def _normalized(unit: str) -> str:
    return unicodedata.normalize("NFKC", unit).casefold()


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that overlap or touch; they come in the order of their starts."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
