"""Token counts of rows, and what a cutoff does to them. Only the counts are stored, whatever the size of the data."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from playground.data.batch import Example, epoch_batches
from playground.data.row import Row
from playground.data.template import ROWS_AT_ONCE, Template

MAX_BARS = 48
QUANTILE = 0.995  # rows up to here have bars; longer ones share the last, so that one long row doesn't flatten the rest
OUTLIER = 1.25  # times the quantile: a longest row below this isn't an outlier, and has its own bar


@dataclass(frozen=True)
class Lengths:
    """Tokens of every row's prompt and answer, its end token included: int32, (rows,) each.

    encoder: whether an encoder reads the prompts, separately from the answers. shortest: tokens of every row's prompt
    without earlier turns; None if no row has any.
    """

    prompts: np.ndarray
    answers: np.ndarray
    encoder: bool = False
    shortest: np.ndarray | None = None

    def within(self, cutoff: int) -> "Lengths":
        """Truncate as `fit_turns` and `encode` do.

        Leave out early turns, drop rows whose prompt alone fills the cutoff, cut the other answers. Of a conversation
        that loses turns, the rest is taken to fill the cutoff: a bound, since whole turns are left out.
        """
        prompts = self.prompts
        if self.shortest is not None:
            recent = np.minimum(prompts, np.maximum(self.shortest, cutoff - self.answers))
            prompts = np.where(self.rows > cutoff, recent, prompts)
        kept = prompts < cutoff
        return Lengths(prompts[kept], np.minimum(self.answers[kept], cutoff - prompts[kept]), self.encoder)

    def shortened(self, cutoff: int) -> int:
        """Number of rows that fit once early turns are left out."""
        if self.shortest is None:
            return 0
        return int(((self.rows > cutoff) & (self.shortest + self.answers <= cutoff)).sum())

    @property
    def rows(self) -> np.ndarray:
        """Tokens of every row."""
        return self.prompts + self.answers

    def examples(self, train_on_prompt: bool = False) -> list[Example]:
        """Placeholder examples of these lengths, for code that reads nothing else of them."""
        return [
            Example(range(size), 0 if train_on_prompt else prompt)
            for size, prompt in zip(self.rows.tolist(), self.prompts.tolist())
        ]


def count_tokens(rows: Sequence[Row], template: Template, on_progress: Callable = lambda *_: None) -> Lengths:
    """Count the tokens of all rows, without truncation.

    on_progress(done, total, unit) is called now and then, and may raise to cancel.
    """
    prompts, answers = array("i"), array("i")
    for done, (prompt, answer) in enumerate(template.tokens(rows)):
        if done % ROWS_AT_ONCE == 0:
            on_progress(done, len(rows), "rows")
        prompts.append(len(prompt))
        answers.append(len(answer))
    shortest = np.asarray(prompts, np.int32).copy()
    places = [place for place, row in enumerate(rows) if row.before]
    alone = template.tokens([rows[place].with_recent_turns(0) for place in places])
    for place, (prompt, _) in zip(places, alone):
        shortest[place] = len(prompt)
    counted = np.asarray(prompts, np.int32), np.asarray(answers, np.int32)
    return Lengths(*counted, template.encoder, shortest if places else None)


def cutoff_effect(lengths: Lengths, cutoff: int, train_on_prompt: bool = False) -> dict:
    """What a cutoff does to the rows.

    {"rows", "kept", "left_out" (rows whose prompt alone fills the cutoff), "truncated" (kept rows whose answer loses
    its end), "shortened" (rows that lose early turns alone), "lost_share" (left out and truncated, of all rows),
    "tokens" and "trained" (tokens of an epoch, and those with a label), "uncut" (tokens without a cutoff)}.
    """
    kept, rows = lengths.within(cutoff), len(lengths.prompts)
    left_out, shortened = rows - len(kept.prompts), lengths.shortened(cutoff)
    too_long = (
        int((lengths.rows > cutoff).sum()) - shortened
    )  # including those left out: no answer is without its end token
    trained = kept.rows - np.maximum(0 if train_on_prompt else kept.prompts, 1)
    return {
        "rows": rows,
        "kept": rows - left_out,
        "left_out": left_out,
        "truncated": too_long - left_out,
        "shortened": shortened,
        "lost_share": too_long / max(1, rows),
        "tokens": int(kept.rows.sum()),
        "trained": int(trained.sum()),
        "uncut": int(lengths.rows.sum()),
    }


def padding(kept: Lengths, batch: int, seed: int) -> dict:
    """Tokens of an epoch without and with the padding of batches of `batch` rows, grouped by length as in training.

    {"tokens", "padded", "saved": the share of the padded tokens that packing saves}.
    """
    batches = epoch_batches(kept.examples(), batch, seed)
    tokens = int(kept.rows.sum())
    if kept.encoder:
        padded = sum(
            len(rows) * (max(e.trained_from for e in rows) + max(len(e.ids) - e.trained_from for e in rows))
            for rows in batches
        )
    else:
        padded = sum(len(rows) * max(len(e.ids) for e in rows) for rows in batches)
    return {"tokens": tokens, "padded": padded, "saved": 1 - tokens / padded if padded else 0.0}


def histogram(lengths: Lengths, cutoff: int) -> dict:
    """Histogram of the rows' token counts.

    {"width" (tokens a bar), "counts" (rows a bar), "over" (of these, longer than the cutoff), "open" (whether the last
    bar includes all longer rows), "longest", "median", "mean"}.
    """
    sizes = lengths.rows
    longest, top = int(sizes.max()), int(np.quantile(sizes, QUANTILE, method="higher"))
    top = longest if longest <= OUTLIER * top else top
    width = _round_width(top / MAX_BARS)
    bars = top // width + 1
    bar_of_row = np.minimum(sizes // width, bars - 1)
    return {
        "width": width,
        "counts": np.bincount(bar_of_row, minlength=bars).tolist(),
        "over": np.bincount(bar_of_row[sizes > cutoff], minlength=bars).tolist(),
        "open": longest >= bars * width,
        "longest": longest,
        "median": float(np.median(sizes)),
        "mean": round(float(sizes.mean()), 2),
    }


def _round_width(minimum: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, … that is at least `minimum`."""
    return next(size for power in range(9) for size in (10**power, 2 * 10**power, 5 * 10**power) if size >= minimum)
