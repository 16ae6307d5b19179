"""Evaluation metrics of base and tuned model, with 95 % confidence intervals, and the rows that changed most. No torch.

Intervals are a percentile bootstrap (Efron 1979, Ann. Statist. 7): rows are drawn with replacement, RESAMPLES times,
and the middle 95 % of the resulting values are kept. Both sides use the same draws, so the difference's interval is a
paired one; the seed is fixed. (scipy's `bootstrap(paired=True)` does the same, but nothing here needs scipy otherwise.)
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from playground.data.source import Row

RESAMPLES, SEED = 2000, 0
CHUNK = 200  # resamples in memory at once
SHOWN_ROWS = 3  # of those helped most, and of those hurt most
SHOWN_CHARACTERS = 600  # of a text
SIDES = ("base", "tuned")
VALUES = (*SIDES, "difference")

Terms = Sequence[tuple[float, float]]  # one row each: its (numerator, denominator); (0, 0) for a row that doesn't count


@dataclass(frozen=True)
class Answer:
    """A model's answer. tokens: without the end token; closed: whether it wrote one within the token limit."""

    text: str
    tokens: list[int]
    closed: bool


def names_fact(answer: str, row: Row) -> bool:
    """Whether an answer contains one of the row's keys, in any case; "6:40" isn't in "16:40" nor in "6:405"."""
    patterns = (rf"(?<![0-9A-Za-z]){re.escape(key)}" + (r"(?![0-9])" if key[-1:].isdigit() else "") for key in row.key)
    return any(re.search(pattern, answer, re.IGNORECASE) for pattern in patterns)


def distinct(tokens: Sequence[int], n: int) -> tuple[int, int]:
    """Return the numbers of different n-grams and of all n-grams: distinct-n (Li et al. 2016, arXiv 1510.03055).

    Over tokens, which needs no spaces between words; within one answer, so that it measures repetition and not how
    alike a set's answers are.
    """
    ngrams = list(zip(*(tokens[start:] for start in range(n))))
    return len(set(ngrams)), len(ngrams)


def compare_sides(
    base: Terms, tuned: Terms, transform: Callable[[np.ndarray], np.ndarray] = lambda ratio: ratio
) -> dict | None:
    """Compare one metric: `transform` of the ratio of two sums over rows. With denominators of 1 the ratio is a mean.

    Returns {"base", "tuned", "difference", "intervals": {the same three: [low, high]}, "rows"}; intervals are None for
    fewer than two rows. Returns None if no row counts, or a value isn't finite.
    """
    sides = [np.asarray(side, float).reshape(-1, 2) for side in (base, tuned)]
    if not all(side[:, 1].sum() for side in sides):
        return None
    rows = int((np.minimum(*(side[:, 1] for side in sides)) > 0).sum())
    with np.errstate(all="ignore"):
        base_value, tuned_value = (float(transform(side[:, 0].sum() / side[:, 1].sum())) for side in sides)
    values = (base_value, tuned_value, tuned_value - base_value)
    if not np.isfinite(values).all():
        return None
    return {
        **{name: _round(value) for name, value in zip(VALUES, values)},
        "intervals": _bootstrap_intervals(sides, transform) if rows > 1 else None,
        "rows": rows,
    }


def _bootstrap_intervals(
    sides: Sequence[np.ndarray], transform: Callable[[np.ndarray], np.ndarray]
) -> dict[str, list[float]]:
    """The paired percentile bootstrap of base, tuned and difference; sides: two arrays of (rows, 2)."""
    generator, chunks = np.random.default_rng(SEED), []
    with np.errstate(all="ignore"):
        for _ in range(0, RESAMPLES, CHUNK):
            picked = generator.integers(0, len(sides[0]), (CHUNK, len(sides[0])))
            sums = [side[picked].sum(1) for side in sides]
            chunks.append(np.stack([transform(total[:, 0] / total[:, 1]) for total in sums]))
        values = np.concatenate(chunks, 1)
        values = np.concatenate([values, values[1:] - values[:1]])
    values = values[:, np.isfinite(values).all(0)]  # without resamples of nothing but rows that don't count
    bounds = np.percentile(values, [2.5, 97.5], axis=1).T
    return {name: [_round(bound) for bound in pair] for name, pair in zip(VALUES, bounds)}


def loss_figures(before: Terms, after: Terms) -> dict[str, dict]:
    """Return loss (nats per labelled token) and perplexity, its exponential; rows are (nats, labelled tokens)."""
    return _available({"loss": compare_sides(before, after), "perplexity": compare_sides(before, after, np.exp)})


def score_rows(rows: Sequence[Row], base: Sequence[Answer], tuned: Sequence[Answer]) -> list[dict]:
    """Return each row with both answers and their scores, in the form that a run stores.

    "chrf": chrF (Popović 2015), 0 to 100, by sacrebleu with its defaults: character n-grams without spaces, so that it
    works for Japanese. "named": whether the answer names the fact, or None if the row has no keys.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF()

    def score(row: Row, answer: Answer) -> dict:
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
            "base": score(row, base_answer),
            "tuned": score(row, tuned_answer),
        }
        for row, base_answer, tuned_answer in zip(rows, base, tuned, strict=True)
    ]


def answer_figures(scored: Sequence[dict]) -> dict[str, dict]:
    """Return the metrics of scored rows: shares of 1, means over rows; chrF also "whole", over all rows as one text."""
    from sacrebleu.metrics import CHRF

    def compare(term: Callable[[dict], tuple[float, float]]) -> dict | None:
        return compare_sides([term(row["base"]) for row in scored], [term(row["tuned"]) for row in scored])

    def distinct_share(score: dict, n: int) -> tuple[float, float]:
        different, total = score["distinct"][n - 1]
        return (different / total, 1) if total else (0, 0)

    figures = _available(
        {
            "closed": compare(lambda score: (score["closed"], 1)),
            "recall": compare(lambda score: (0, 0) if score["named"] is None else (score["named"], 1)),
            "chrf": compare(lambda score: (score["chrf"], 1)),
            "characters": compare(lambda score: (score["characters"], 1)),
            "tokens": compare(lambda score: (score["tokens"], 1)),
            "distinct_1": compare(lambda score: distinct_share(score, 1)),
            "distinct_2": compare(lambda score: distinct_share(score, 2)),
        }
    )
    metric, references = CHRF(), [[row["reference"] for row in scored]]
    figures["chrf"]["whole"] = {
        side: round(metric.corpus_score([row[side]["text"] for row in scored], references).score, 2) for side in SIDES
    }
    figures["chrf"]["signature"] = str(metric.get_signature())
    return figures


def most_changed_rows(scored: Sequence[dict]) -> dict:
    """Return the scored rows that tuning "helped" and "hurt" most, and "counts" of helped, hurt and same.

    Ranked by whether the fact is named, then by chrF.
    """
    ranked = sorted(enumerate(scored), key=lambda pair: (_gain(pair[1]), -pair[0]), reverse=True)
    helped = [row for _, row in ranked if _gain(row) > (0, 0)]
    hurt = [row for _, row in reversed(ranked) if _gain(row) < (0, 0)]
    return {
        "helped": [_shorten_texts(row) for row in helped[:SHOWN_ROWS]],
        "hurt": [_shorten_texts(row) for row in hurt[:SHOWN_ROWS]],
        "counts": {"helped": len(helped), "hurt": len(hurt), "same": len(scored) - len(helped) - len(hurt)},
    }


def _gain(row: dict) -> tuple[float, float]:
    """What tuning added: facts named, then chrF."""
    base, tuned = row["base"], row["tuned"]
    return (tuned["named"] or 0) - (base["named"] or 0), round(tuned["chrf"] - base["chrf"], 2)


def _shorten_texts(row: dict) -> dict:
    """A scored row for the screen: texts cut, and of the scores only chrF and the fact."""

    def shorten(text: str) -> str:
        return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"

    sides = {
        side: {"text": shorten(row[side]["text"]), "chrf": row[side]["chrf"], "named": row[side]["named"]}
        for side in SIDES
    }
    return {"question": shorten(row["question"]), "reference": shorten(row["reference"]), **sides}


def _available(figures: dict[str, dict | None]) -> dict[str, dict]:
    return {name: figure for name, figure in figures.items() if figure}


def _round(value: float) -> float:
    return float(f"{value:.5g}")
