"""What a fine-tune changed, in figures: base beside tuned, with 95 % intervals, and the rows where it helped and hurt most. No torch here.

An interval is a percentile bootstrap (Efron 1979, Ann. Statist. 7): rows are drawn anew, with replacement, DRAWS times, and
the middle 95 % of what they give are kept. Both sides are given the same draws, so the difference's interval is a paired
one; the seed is fixed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from playground.data.source import Row

DRAWS, SEED = 2000, 0
AT_ONCE = 200  # draws in memory at once
SHOWN = 3  # rows of those helped most, and of those hurt most
CLIPPED = 600  # characters shown of a text

Parts = Sequence[
    tuple[float, float]
]  # a row each: what it adds above and below the fraction bar; (0, 0) where it has nothing to add


@dataclass(frozen=True)
class Answer:
    """What a model answered. `tokens`: without the one that closes it; `closed`: whether it wrote that one within the limit."""

    text: str
    tokens: list[int]
    closed: bool


def names_fact(answer: str, row: Row) -> bool:
    """Whether an answer holds one of the row's keys, whatever its case; "6:40" isn't in "16:40" nor in "6:405"."""
    found = (rf"(?<![0-9A-Za-z]){re.escape(key)}" + (r"(?![0-9])" if key[-1:].isdigit() else "") for key in row.key)
    return any(re.search(pattern, answer, re.IGNORECASE) for pattern in found)


def distinct(tokens: Sequence[int], n: int) -> tuple[int, int]:
    """How many different n-grams an answer has, and how many in all: distinct-n (Li et al. 2016, arXiv 1510.03055).

    Over tokens, which needs no spaces between words; within one answer, so that it tells of repetition and not of how
    alike a set's answers are.
    """
    grams = list(zip(*(tokens[start:] for start in range(n))))
    return len(set(grams)), len(grams)


def compare_sides(
    base: Parts, tuned: Parts, of: Callable[[np.ndarray], np.ndarray] = lambda ratio: ratio
) -> dict | None:
    """One figure: `of` the ratio of two sums over rows (with ones below the bar, a mean), for both sides and their difference.

    {"base", "tuned", "difference", "intervals": {the same three: [low, high]}, "rows"}; intervals are None for fewer than
    two rows. None where no row adds anything, or a figure is too large to be one.
    """
    sides = [np.asarray(side, float).reshape(-1, 2) for side in (base, tuned)]
    rows = int((np.minimum(*(side[:, 1] for side in sides)) > 0).sum())
    draw, drawn = np.random.default_rng(SEED), []
    if not all(side[:, 1].sum() for side in sides):
        return None
    with np.errstate(all="ignore"):
        points = [float(of(side[:, 0].sum() / side[:, 1].sum())) for side in sides]
        for _ in range(0, DRAWS if rows > 1 else 0, AT_ONCE):
            picked = draw.integers(0, len(sides[0]), (AT_ONCE, len(sides[0])))
            sums = [side[picked].sum(1) for side in sides]
            drawn.append(np.stack([of(s[:, 0] / s[:, 1]) for s in sums]))
    points = np.array([*points, points[1] - points[0]])
    if not np.isfinite(points).all():
        return None
    found = {name: _short(value) for name, value in zip(("base", "tuned", "difference"), points)} | {
        "intervals": None,
        "rows": rows,
    }
    if drawn:
        values = np.concatenate(drawn, 1)
        values = np.concatenate([values, values[1:] - values[:1]])
        values = values[:, np.isfinite(values).all(0)]  # draws of nothing but rows that add nothing
        ends = np.percentile(values, [2.5, 97.5], axis=1).T
        found["intervals"] = {
            name: [_short(end) for end in pair] for name, pair in zip(("base", "tuned", "difference"), ends)
        }
    return found


def loss_figures(before: Parts, after: Parts) -> dict[str, dict]:
    """Loss in nats a labelled token and perplexity, its exponential, of rows given as (nats, labelled tokens)."""
    return _those({"loss": compare_sides(before, after), "perplexity": compare_sides(before, after, np.exp)})


def score_rows(rows: Sequence[Row], base: Sequence[Answer], tuned: Sequence[Answer]) -> list[dict]:
    """Each row with both answers to it and what they are worth, as the run keeps them.

    chrF (Popović 2015), 0 to 100, is sacrebleu's with its defaults: character n-grams, spaces left out, so that it works for
    Japanese. "named": whether the fact was, or None where the row has no keys.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF()

    def side(row: Row, answer: Answer) -> dict:
        return {
            "text": answer.text,
            "closed": answer.closed,
            "characters": len(answer.text),
            "tokens": len(answer.tokens),
            "distinct": [distinct(answer.tokens, n) for n in (1, 2)],
            "chrf": round(metric.sentence_score(answer.text, [row.output]).score, 2),
            "named": names_fact(answer.text, row) if row.key else None,
        }

    return [
        {
            "question": f"{row.instruction}\n{row.input}".strip(),
            "reference": row.output,
            "base": side(row, one),
            "tuned": side(row, other),
        }
        for row, one, other in zip(rows, base, tuned, strict=True)
    ]


def answer_figures(found: Sequence[dict]) -> dict[str, dict]:
    """The figures of `results`: shares of 1, means over rows; of chrF also "whole", over the set as one text."""
    from sacrebleu.metrics import CHRF

    def both(parts: Callable[[dict], tuple[float, float]]) -> dict | None:
        return compare_sides(*([parts(row[side]) for row in found] for side in ("base", "tuned")))

    def repeated(n: int) -> dict | None:
        return both(
            lambda side: (
                (side["distinct"][n - 1][0] / side["distinct"][n - 1][1], 1) if side["distinct"][n - 1][1] else (0, 0)
            )
        )

    figures = _those(
        {
            "closed": both(lambda side: (side["closed"], 1)),
            "recall": both(lambda side: (0, 0) if side["named"] is None else (side["named"], 1)),
            "chrf": both(lambda side: (side["chrf"], 1)),
            "characters": both(lambda side: (side["characters"], 1)),
            "tokens": both(lambda side: (side["tokens"], 1)),
            "distinct_1": repeated(1),
            "distinct_2": repeated(2),
        }
    )
    metric, references = CHRF(), [[row["reference"] for row in found]]
    figures["chrf"]["whole"] = {
        side: round(metric.corpus_score([row[side]["text"] for row in found], references).score, 2)
        for side in ("base", "tuned")
    }
    figures["chrf"]["signature"] = str(metric.get_signature())
    return figures


def most_changed_rows(found: Sequence[dict]) -> dict:
    """Of `results`, the rows that tuning "helped" and "hurt" most: by the fact named or not, then by chrF; and how many each, "counts"."""
    ranked = sorted(
        ((_gain(row), at) for at, row in enumerate(found)), key=lambda pair: (pair[0], -pair[1]), reverse=True
    )
    helped, hurt = [at for gain, at in ranked if gain > (0, 0)], [at for gain, at in reversed(ranked) if gain < (0, 0)]
    shown = {name: [_clipped(found[at]) for at in rows[:SHOWN]] for name, rows in (("helped", helped), ("hurt", hurt))}
    return shown | {"counts": {"helped": len(helped), "hurt": len(hurt), "same": len(found) - len(helped) - len(hurt)}}


def _gain(row: dict) -> tuple[float, float]:
    base, tuned = row["base"], row["tuned"]
    return (tuned["named"] or 0) - (base["named"] or 0), round(tuned["chrf"] - base["chrf"], 2)


def _clipped(row: dict) -> dict:
    def cut(text: str) -> str:
        return text if len(text) <= CLIPPED else text[: CLIPPED - 1] + "…"

    sides = {
        side: {"text": cut(row[side]["text"]), "chrf": row[side]["chrf"], "named": row[side]["named"]}
        for side in ("base", "tuned")
    }
    return {"question": cut(row["question"]), "reference": cut(row["reference"]), **sides}


def _those(figures: dict[str, dict | None]) -> dict[str, dict]:
    return {name: figure for name, figure in figures.items() if figure}


def _short(value: float) -> float:
    return float(f"{value:.5g}")
