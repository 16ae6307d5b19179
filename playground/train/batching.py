"""Batch examples for a model: packed into one sequence where that is exact for it, else padded.

Packing saves padding. Whether a model keeps packed rows apart depends on how it computes its positions and masks, so it
is tried once on rows of this run rather than believed from a list of names. The modes, in order of preference:

rows     attention that knows where rows begin and end (attention.py): CUDA, half precision
masked   a mask of tokens × tokens; what all rows begin with, such as a chat template's preamble, is computed only once
padded   one sequence for each row, rows of similar length together; always used for a model with an encoder
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from playground import compat
from playground.data.batch import Batch, Example, collate, collate_seq2seq, pack, shared_prefix
from playground.model import float8
from playground.train import attention
from playground.train.loss import Loss
from playground.train.patches import patch_modules

# in tokens. On a CPU, torch and oneDNN compile their kernels for half precision anew for every size, and keep them: 300
# sizes of attention alone took 700 MiB (torch 2.13, an AMD EPYC with AVX-512 bf16). With sizes
# rounded up to a multiple there are fewer of them.
MULTIPLE = 32
MASKED_TOKENS = 1024  # a longer sequence pays more for its mask of tokens × tokens than packing saves
# as a share of a hidden state's norm; measured: up to 5e-7, 1e-3 and 8e-3, and 0.18 or more where rows see each other
ROUNDING = {torch.float32: 2e-4, torch.float16: 0.02, torch.bfloat16: 0.08}
TRIAL_TOKENS = 64  # of each row, after the shared prefix, when packing is tried


class Batcher:
    """Makes batches for one model.

    mode: "rows", "masked" or "padded".
    prefix: tokens that all rows share and that are computed once.
    longest: tokens of the longest row.
    encoder: whether the model has an encoder.
    """

    def __init__(
        self, loss_module: Loss, examples: Sequence[Example], pad: int, device: str, known_mode: str | None = None
    ):
        """known_mode: what another batcher of this model and these rows has found; None: it is tried."""
        self.model, self.pad, self.device = loss_module.causal[0], pad, device
        self.encoder = self.model.config.is_encoder_decoder
        self.longest = max(len(e.ids) for e in examples)
        for self.mode, self.prefix in (("rows", 0), ("masked", shared_prefix(examples)), ("padded", 0)):
            if known_mode in (None, self.mode) and self._suits(loss_module, examples, tried=known_mode is not None):
                break

    @property
    def packed(self) -> bool:
        """Whether several rows are one sequence."""
        return self.mode != "padded"

    def batch(self, examples: Sequence[Example]) -> Batch:
        """One micro-batch on the device."""
        if self.packed:
            return pack(examples, self.prefix, self.device, self.mode == "masked", self._multiple)
        return padded_batch(self.model, examples, self.pad, self.device)

    def attention(self) -> contextlib.AbstractContextManager:
        """The context in which the model has to compute these batches."""
        return attention.packed_rows(self.model) if self.mode == "rows" else contextlib.nullcontext()

    def micro_batches(self, examples: Sequence[Example], rows: int, tokens: int = 0) -> Iterator[list[Example]]:
        """Split examples, in order, into parts of at most `rows` rows and `tokens` computed tokens (0: no limit).

        A single row with more tokens than that is a part by itself.
        """
        if self.mode == "masked":
            tokens = min(tokens or MASKED_TOKENS, MASKED_TOKENS)
        part: list[Example] = []
        for example in examples:
            if part and (len(part) == rows or (tokens and self.computed_tokens([*part, example]) > tokens)):
                yield part
                part = []
            part.append(example)
        if part:
            yield part

    def computed_tokens(self, examples: Sequence[Example]) -> int:
        """Tokens that the model computes for these rows in one batch: with padding, and a shared prefix once."""
        if self.encoder:
            longest_prompt = max(e.trained_from for e in examples)
            longest_answer = max(len(e.ids) - e.trained_from for e in examples)
            return len(examples) * (longest_prompt + longest_answer)
        if not self.packed:
            return len(examples) * max(len(e.ids) for e in examples)
        tokens = self.prefix + sum(len(e.ids) - self.prefix for e in examples)
        return -(-tokens // self._multiple) * self._multiple

    @property
    def _multiple(self) -> int:
        """Packed sequences are filled up to a multiple of this many tokens."""
        kernels_by_size = getattr(self.model, "stands_for", self.device) == "cpu" and self.model.dtype.itemsize == 2
        return MULTIPLE if self.mode == "masked" and kernels_by_size else 1

    def _suits(self, loss_module: Loss, examples: Sequence[Example], tried: bool) -> bool:
        """Whether the current mode is exact for this model. tried: another batcher has found so."""
        return tried or self.mode == "padded" or (self._can_pack() and self._keeps_rows_apart(loss_module, examples))

    def _can_pack(self) -> bool:
        """Whether the current mode is possible by what the model's config says, before it is tried."""
        if self.mode == "rows" and not attention.supports_packed_rows(self.model):
            return False
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if window and window < self.longest:  # neither mode keeps a sliding window
            return False
        if self.mode == "masked" and compat.attention_implementation(self.model.config) == "eager":
            return False  # eager attention adds its mask, and would add true and false as numbers
        return not self.encoder and getattr(self.model, self.model.base_model_prefix, None) is not None

    def _keeps_rows_apart(self, loss_module: Loss, examples: Sequence[Example]) -> bool:
        """Whether two packed rows have the hidden states of the same rows alone, up to the rounding of the dtype."""
        limit = self.prefix + TRIAL_TOKENS
        rows = [min(examples, key=lambda e: len(e.ids)), max(examples, key=lambda e: len(e.ids))]
        rows = [Example(e.ids[:limit], min(e.trained_from, limit)) for e in rows]
        with torch.no_grad():
            try:
                with self.attention():
                    packed = self._hidden_states(loss_module, self.batch(rows))[0]
            except (ValueError, RuntimeError, TypeError, IndexError):  # a family that can't read such a batch at all
                return False
            if packed.is_meta:  # shapes alone, of a prediction: no values to compare
                return True
            start = self.prefix
            for row in rows:
                alone = self._hidden_states(loss_module, collate([row], self.pad, self.device))[0, self.prefix :]
                difference = packed[start : start + len(alone)] - alone
                if difference.norm() > ROUNDING[self.model.dtype] * alone.norm():
                    return False
                start += len(alone)
        return True

    def _hidden_states(self, loss_module: Any, batch: Batch) -> Tensor:
        """The decoder's hidden states in float32, by the layers that train.

        LLM.int8()'s own layers look for outliers over the whole batch, which would look like rows that see each other,
        and rounding to float8 would turn the smallest differences of other kernels into large ones.
        """
        with patch_modules(loss_module, self.model), float8.exact_products():
            return loss_module(batch, return_hidden=True).float()


def padded_batch(model: Any, examples: Sequence[Example], pad: int, device: str) -> Batch:
    """A micro-batch of rows that are a sequence each; for a model with an encoder, as it reads and writes them."""
    if not model.config.is_encoder_decoder:
        return collate(examples, pad, device)
    start = model.generation_config.decoder_start_token_id
    return collate_seq2seq(examples, pad, pad if start is None else start, device)
