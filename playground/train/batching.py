"""How examples reach the model: packed into one sequence where that is exact for it, else padded.

Packing saves padding. Whether a model keeps packed rows apart depends on how it makes its positions and masks, so it is
tried out once on rows of this run rather than believed from a list of names. In order of preference:

rows     attention that knows where rows begin and end (attention.py): CUDA, half precision
masked   a mask of tokens × tokens; what all rows begin with, a chat template's preamble, is then computed only once
padded   every row by itself, rows of like length together; a model with an encoder is always fed so
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch

from playground.data.batch import Batch, Example, collate, collate_seq2seq, pack, shared_prefix
from playground.train import attention
from playground.train.loss import Loss
from playground.train.patches import patch_modules

# On a CPU, torch's and oneDNN's kernels for half precision are made anew for every size, and kept: 300 sizes of attention
# alone took 700 MiB (torch 2.13, an AMD EPYC with AVX-512 bf16). Sizes a multiple of this apart are few.
MULTIPLE = 32
MASKED_TOKENS = 1024  # a longer sequence pays more for its square of a mask than packing saves
# of a hidden state's norm; seen: up to 5e-7, 1e-3 and 8e-3, and 0.18 or more where rows see each other
ROUNDING = {torch.float32: 2e-4, torch.float16: 0.02, torch.bfloat16: 0.08}


class Batcher:
    """Batches for one model. `mode` says which way; `prefix` is the number of tokens that all rows share."""

    def __init__(self, loss_module: Loss, examples: Sequence[Example], pad: int, device: str):
        self.model, self.pad, self.device = loss_module.causal[0], pad, device
        self.encoder = self.model.config.is_encoder_decoder
        self.longest = max(len(e.ids) for e in examples)
        shared = shared_prefix(examples)
        for self.mode, self.prefix in (("rows", 0), ("masked", shared), ("padded", 0)):
            if self.mode == "padded" or (self._possible() and self._keeps_apart(loss_module, examples)):
                break

    @property
    def packed(self) -> bool:
        return self.mode != "padded"

    def batch(self, examples: Sequence[Example]) -> Batch:
        """One micro-batch on the device."""
        if self.packed:
            return pack(examples, self.prefix, self.device, self.mode == "masked", self._multiple)
        if self.encoder:
            start = self.model.generation_config.decoder_start_token_id
            return collate_seq2seq(examples, self.pad, self.pad if start is None else start, self.device)
        return collate(examples, self.pad, self.device)

    def attention(self):
        """The context in which batches are to be computed."""
        return attention.packed_rows(self.model) if self.mode == "rows" else contextlib.nullcontext()

    def parts(self, examples: Sequence[Example], rows: int, tokens: int = 0) -> Iterator[list[Example]]:
        """Micro-batches: consecutive examples, at most `rows` of them and, with padding, `tokens` tokens (0: no limit).

        A single row that is longer goes alone.
        """
        if self.mode == "masked":
            tokens = min(tokens or MASKED_TOKENS, MASKED_TOKENS)
        part: list[Example] = []
        for example in examples:
            if part and (len(part) == rows or (tokens and self.size([*part, example]) > tokens)):
                yield part
                part = []
            part.append(example)
        if part:
            yield part

    def size(self, examples: Sequence[Example]) -> int:
        """Tokens that the model computes for these rows, padding included, a shared prefix once."""
        if self.encoder:
            return len(examples) * (
                max(e.trained_from for e in examples) + max(len(e.ids) - e.trained_from for e in examples)
            )
        if not self.packed:
            return len(examples) * max(len(e.ids) for e in examples)
        tokens = self.prefix + sum(len(e.ids) - self.prefix for e in examples)
        return -(-tokens // self._multiple) * self._multiple

    @property
    def _multiple(self) -> int:
        """What packed sequences are a multiple of, in tokens."""
        made_anew = getattr(self.model, "stands_for", self.device) == "cpu" and self.model.dtype.itemsize == 2
        return MULTIPLE if self.mode == "masked" and made_anew else 1

    def _possible(self) -> bool:
        if self.mode == "rows" and not attention.supports_packed_rows(self.model):
            return False
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        decoder = getattr(self.model, self.model.base_model_prefix, None)
        whole = not (window and window < self.longest)  # neither way keeps a window
        understood = (
            self.mode == "rows" or self.model.config._attn_implementation != "eager"
        )  # which reads a mask of true and false as numbers
        return decoder is not None and not self.encoder and whole and understood

    def _as_trained(self, loss_module: Loss):
        """The layers as they train: LLM.int8()'s own look for outliers over the whole batch, which isn't a leak of the model's."""
        return patch_modules(loss_module, self.model)

    def _keeps_apart(self, loss_module: Loss, examples: Sequence[Example]) -> bool:
        """Whether two packed rows give the hidden states of the same two rows alone, to the rounding of the model's type."""
        rows = [min(examples, key=lambda e: len(e.ids)), max(examples, key=lambda e: len(e.ids))]
        rows = [Example(e.ids[: self.prefix + 64], min(e.trained_from, self.prefix + 64)) for e in rows]
        with torch.no_grad():
            try:
                with self._as_trained(loss_module), self.attention():
                    together = loss_module(self.batch(rows), states=True)[0].float()
            except (ValueError, RuntimeError, TypeError, IndexError):  # a family that can't read such a batch at all
                return False
            if together.is_meta:  # shapes alone (memory/): there is nothing to compare
                return True
            start = self.prefix
            for row in rows:
                with self._as_trained(loss_module):
                    alone = loss_module(collate([row], self.pad, self.device), states=True)[0, self.prefix :].float()
                ours = together[start : start + len(alone)]
                start += len(alone)
                if (ours - alone).norm() > ROUNDING[self.model.dtype] * alone.norm():
                    return False
        return True
