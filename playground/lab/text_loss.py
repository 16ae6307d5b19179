"""A model's loss on a text, token by token; perplexity is its exponential."""

import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from playground.background import Stopped
from playground.errors import problem
from playground.model.language_part import max_context_length

WINDOW = 512  # tokens that are read at once; the first one of each isn't predicted
MIN_TOKENS = 64


def windows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, size: int = WINDOW
) -> list[list[int]]:
    """The text's tokens in windows of `size`, each after the start token where a tokenizer writes one: Gemma needs it.

    Raises PlaygroundError for a text too short to measure with.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < MIN_TOKENS:
        raise problem("error.lab_text", tokens=len(ids), least=MIN_TOKENS)
    size = min(size, max_context_length(model.config) or size)
    start = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
    parts = [start + ids[first : first + size - len(start)] for first in range(0, len(ids), size - len(start))]
    return [part for part in parts if len(part) > 1]


@torch.no_grad()
def token_losses(model: PreTrainedModel, parts: Sequence[list[int]], stop: threading.Event) -> Iterator[Tensor]:
    """Each window's losses in nats, float32, one a predicted token. Raises Stopped once `stop` is set."""
    for part in parts:
        if stop.is_set():
            raise Stopped
        ids = torch.tensor([part], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        yield functional.cross_entropy(logits, ids[0, 1:], reduction="none").cpu()
