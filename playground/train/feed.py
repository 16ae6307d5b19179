"""How examples reach the model: packed into one sequence where that is exact for it, else padded.

Packing saves padding and computes what all rows begin with once. Whether a model keeps packed rows apart depends on how
it makes its positions and masks, so it is tried out once on rows of this run rather than believed from a list of names.
"""

from collections.abc import Iterator, Sequence

import torch

from playground.data.batch import Example, collate, pack, shared_prefix
from playground.settings import Train

PACKED_TOKENS = 1024  # a longer sequence pays more for its square of a mask than packing saves


class Feed:
    """Batches for one model. `packed` says which way; `prefix` is the number of tokens that all rows share."""

    def __init__(self, model, examples: Sequence[Example], pad: int, device: str):
        self.pad, self.device = pad, device
        self.prefix = shared_prefix(examples)
        self.packed = _keeps_apart(model, examples, self.prefix, device)

    def batch(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """One micro-batch on the device."""
        return pack(examples, self.prefix, self.device) if self.packed else collate(examples, self.pad, self.device)

    def parts(self, examples: Sequence[Example], rows: int) -> Iterator[Sequence[Example]]:
        """Consecutive examples, at most `rows` at a time, and packed at most as many as fit a sequence."""
        start = 0
        while start < len(examples):
            end, tokens = start, self.prefix
            while end < min(start + rows, len(examples)):
                tokens += len(examples[end].ids) - self.prefix
                if self.packed and tokens > PACKED_TOKENS and end > start:
                    break
                end += 1
            yield examples[start:end]
            start = end

    def micro_batches(self, examples: Sequence[Example], settings: Train) -> list[dict[str, torch.Tensor]]:
        """An optimizer step's micro-batches."""
        return [self.batch(part) for part in self.parts(examples, settings.micro_batch or settings.batch)]


def _keeps_apart(model, examples: Sequence[Example], prefix: int, device: str) -> bool:
    """Whether two packed rows give the hidden states of the same two rows alone, to the rounding of the model's type."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = getattr(causal, causal.base_model_prefix, None)
    rows = [min(examples, key=lambda e: len(e.ids)), max(examples, key=lambda e: len(e.ids))]
    rows = [Example(e.ids[: prefix + 64], min(e.trained_from, prefix + 64)) for e in rows]
    window = getattr(causal.config.get_text_config(), "sliding_window", None)
    if decoder is None or causal.config.is_encoder_decoder or (window and window < max(len(e.ids) for e in examples)):
        return False  # the packed mask stands in for the sliding one, which must not matter
    packed = pack(rows, prefix, device)
    packed.pop("labels")
    with torch.no_grad():
        try:
            together = decoder(**packed, use_cache=False)[0][0].float()
        except (ValueError, RuntimeError, TypeError, IndexError):  # a family that can't read such a mask at all
            return False
        start = prefix
        for row in rows:
            alone = decoder(input_ids=torch.tensor([row.ids], device=device), use_cache=False)[0][0, prefix:].float()
            ours = together[start : start + len(alone)]
            start += len(alone)
            if (ours - alone).norm() > 40 * torch.finfo(causal.dtype).eps ** 0.75 * alone.norm():
                return False
    return True
