"""Neutral text: bundled prose in each language, on whose loss is seen what a fine-tune has made a model forget."""

from collections.abc import Mapping

from playground import ASSETS
from playground.data.batch import Example
from playground.eval.metrics import Terms, compare_sides
from playground.i18n import LANGUAGES
from playground.lab.text_loss import MIN_TOKENS, windows
from playground.model.load import LoadedModel

MAX_TOKENS = 1024  # of each language: a few seconds on two cores for a model of 135 million parameters
WINDOW, MIN_WINDOW = 128, 8  # tokens that are read at once
MAX_UNKNOWN = 0.1  # share of a text's tokens that are the unknown one: more say nothing of the language

Windows = dict[str, list[Example]]  # by language


def neutral_windows(loaded: LoadedModel, longest: int) -> Windows:
    """The prose of each language in windows that a model's loss is measured on.

    longest: tokens of the longest training row. No window is longer, so that measuring needs no more memory than
    training does. A model with an encoder reads the first half of each window, and its loss is that of the second. A
    language that the tokenizer can't write is left out.
    """
    size = max(MIN_WINDOW, min(WINDOW, longest))
    is_seq2seq = loaded.model.config.is_encoder_decoder
    found = {}
    for language in LANGUAGES:
        text = (ASSETS / "data" / f"prose.{language}.txt").read_text(encoding="utf-8")
        if _can_write(loaded, text):
            parts = windows(loaded.model, loaded.tokenizer, text, size)[: MAX_TOKENS // size]
            found[language] = [Example(ids, len(ids) // 2 if is_seq2seq else 0) for ids in parts]
    return found


def _can_write(loaded: LoadedModel, text: str) -> bool:
    """Whether the tokenizer has tokens for a text; one of words alone may have none for another language."""
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return len(ids) >= MIN_TOKENS and ids.count(loaded.tokenizer.unk_token_id) <= MAX_UNKNOWN * len(ids)


def forgetting_figures(base: Mapping[str, Terms], tuned: Mapping[str, Terms]) -> dict[str, dict]:
    """Compare the loss on neutral text, by language: as `metrics.compare_sides`, with windows as "rows", and "tokens".

    base, tuned: by language, each window's (nats, predicted tokens). A positive difference is what was forgotten. A
    language is left out where a loss isn't finite.
    """
    figures = {}
    for language in base:
        figure = compare_sides(base[language], tuned[language])
        if figure:
            figures[language] = figure | {"tokens": int(sum(tokens for _, tokens in base[language]))}
    return figures
