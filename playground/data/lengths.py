"""How many tokens rows have, and what a cutoff makes of them. Only lengths are kept, whatever the size of the data."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from playground.data.batch import Example, epoch_batches
from playground.data.source import Row
from playground.data.template import AT_ONCE, Template

BARS = 48
TAIL = 0.995  # of the rows have bars of their own; those beyond share the last, lest one long row flatten all others
FAR = 1.25  # times that: a longest row nearer than this has a bar of its own


@dataclass(frozen=True)
class Lengths:
    """Tokens of every row's prompt and answer, the end included: int32, (rows,) each. encoder: prompts are read apart from answers."""

    prompts: np.ndarray
    answers: np.ndarray
    encoder: bool = False

    def within(self, cutoff: int) -> "Lengths":
        """What `encode` keeps at this cutoff: rows whose prompt alone fills it are left out, answers are cut."""
        kept = self.prompts < cutoff
        return Lengths(self.prompts[kept], np.minimum(self.answers[kept], cutoff - self.prompts[kept]), self.encoder)

    @property
    def rows(self) -> np.ndarray:
        return self.prompts + self.answers

    def examples(self, train_on_prompt: bool = False) -> list[Example]:
        """Stand-ins of the right lengths, for what looks at nothing else."""
        return [
            Example(range(size), 0 if train_on_prompt else prompt)
            for size, prompt in zip(self.rows.tolist(), self.prompts.tolist())
        ]


def count_tokens(rows: Sequence[Row], template: Template, on_progress: Callable = lambda *_: None) -> Lengths:
    """The lengths of all rows, uncut. `tell(done, total, unit)` hears how far it is, and may raise to stop it."""
    prompts, answers = array("i"), array("i")
    for done, (prompt, answer) in enumerate(template.tokens(rows)):
        if done % AT_ONCE == 0:
            on_progress(done, len(rows), "rows")
        prompts.append(len(prompt))
        answers.append(len(answer))
    return Lengths(np.asarray(prompts, np.int32), np.asarray(answers, np.int32), template.encoder)


def cutoff_effect(lengths: Lengths, cutoff: int, train_on_prompt: bool = False) -> dict:
    """What a cutoff does: {"rows", "kept", "left_out", "truncated" (kept rows whose answer loses its end), "lost_share"
    (truncated and left out, of all), "tokens", "trained" (of an epoch), "uncut" (tokens without a cutoff)}."""
    kept, rows = lengths.within(cutoff), len(lengths.prompts)
    left_out, over = (
        rows - len(kept.prompts),
        int((lengths.rows > cutoff).sum()),
    )  # a row that is left out is over as well: no answer is without its end
    trained = kept.rows - np.maximum(0 if train_on_prompt else kept.prompts, 1)
    return {
        "rows": rows,
        "kept": rows - left_out,
        "left_out": left_out,
        "truncated": over - left_out,
        "lost_share": over / max(1, rows),
        "tokens": int(kept.rows.sum()),
        "trained": int(trained.sum()),
        "uncut": int(lengths.rows.sum()),
    }


def padding(kept: Lengths, batch: int, seed: int) -> dict:
    """Tokens of an epoch alone and with the padding of batches of `batch` rows, of like length as a run puts them
    together: {"tokens", "padded", "saved": the share of the padded ones that packing saves}."""
    made = epoch_batches(kept.examples(), batch, seed)
    tokens = int(kept.rows.sum())
    if kept.encoder:
        padded = sum(
            len(rows) * (max(e.trained_from for e in rows) + max(len(e.ids) - e.trained_from for e in rows))
            for rows in made
        )
    else:
        padded = sum(len(rows) * max(len(e.ids) for e in rows) for rows in made)
    return {"tokens": tokens, "padded": padded, "saved": 1 - tokens / padded if padded else 0.0}


def histogram(lengths: Lengths, cutoff: int) -> dict:
    """Rows by their tokens: {"width" (tokens a bar), "counts", "over" (of those, longer than the cutoff), "open" (the last bar
    also holds what is longer), "longest", "median", "mean"}."""
    sizes = lengths.rows
    longest, top = int(sizes.max()), int(np.quantile(sizes, TAIL, method="higher"))
    top = longest if longest <= FAR * top else top
    width = _width(top / BARS)
    bars = top // width + 1
    places = np.minimum(sizes // width, bars - 1)
    return {
        "width": width,
        "counts": np.bincount(places, minlength=bars).tolist(),
        "over": np.bincount(places[sizes > cutoff], minlength=bars).tolist(),
        "open": longest >= bars * width,
        "longest": longest,
        "median": float(np.median(sizes)),
        "mean": round(float(sizes.mean()), 2),
    }


def _width(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, … that is at least that."""
    return next(size for power in range(9) for size in (10**power, 2 * 10**power, 5 * 10**power) if size >= least)
