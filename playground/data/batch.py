"""Tokenize rows into examples, and collate examples into padded or packed batches."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from playground.data.row import Row
from playground.data.template import Template
from playground.errors import problem

IGNORED = -100  # the label of tokens that aren't trained on: torch's cross-entropy skips it


@dataclass(frozen=True)
class Example:
    """A row's token ids; those from `trained_from` on carry a label, but for the `masked` spans (begin, end) of them.

    For an encoder-decoder model the encoder reads the ids before `trained_from` and the decoder writes the rest.
    """

    ids: Sequence[int]
    trained_from: int
    masked: tuple[tuple[int, int], ...] = ()

    @property
    def labelled(self) -> int:
        """Number of tokens that are predicted and trained on; a row's first token is never predicted."""
        first, size = max(self.trained_from, 1), len(self.ids)
        masked = sum(max(0, min(end, size) - max(begin, first)) for begin, end in self.masked)
        return size - first - masked

    def labels(self, first: int = 0) -> list[int]:
        """The label of every token from `first` on: the token itself, or IGNORED."""
        trained_from = max(self.trained_from, first)
        labels = [IGNORED] * (trained_from - first) + [*self.ids[trained_from:]]
        for begin, end in self.masked:
            begin, end = max(begin, trained_from), min(end, len(self.ids))
            labels[begin - first : end - first] = [IGNORED] * (end - begin)
        return labels


def encode(
    rows: Sequence[Row], template: Template, length: int, train_on_prompt: bool = False, may_be_empty: bool = False
) -> tuple[list[Example], int]:
    """Tokenize rows and truncate them to `length` tokens. Returns the examples and the number of truncated answers.

    A row whose prompt alone fills `length` has no label left: it is dropped, and counted as truncated. Raises
    PlaygroundError if that drops every row, unless there `may_be_empty`, and if the prompt of an encoder-decoder model
    is to be trained on: its encoder predicts nothing.
    """
    if train_on_prompt and template.encoder:
        raise problem("error.prompt_is_read")
    examples, truncated = [], 0
    for prompt, answer, masked in template.encoded(rows):
        if len(prompt) >= length:
            truncated += 1
            continue
        truncated += len(prompt) + len(answer) > length
        examples.append(_example(prompt, answer, masked, length, train_on_prompt))
    if rows and not examples and not may_be_empty:
        raise problem("error.all_too_long", rows=len(rows), length=length)
    return examples, truncated


def _example(prompt: list[int], answer: list[int], masked: tuple, length: int, train_on_prompt: bool) -> Example:
    ids = (prompt + answer)[:length]
    return Example(ids, 0) if train_on_prompt else Example(ids, len(prompt), masked)


def shares_of(rows: Sequence[Any], processes: int) -> list[list[Any]]:
    """A step's rows by the process that computes them; some get none if there are fewer rows than processes."""
    return [list(rows[rank::processes]) for rank in range(processes)]


def epoch_batches(
    examples: Sequence[Example], size: int, seed: int, group_by_length: bool = True
) -> list[list[Example]]:
    """Split one shuffled epoch into batches of `size` rows.

    group_by_length: sort rows by length within windows of eight batches, so that padded batches hold little padding
    while the order stays random from window to window.
    """
    generator = random.Random(seed)
    order = list(examples)
    generator.shuffle(order)
    window = 8 * size
    if group_by_length:
        for start in range(0, len(order), window):
            order[start : start + window] = sorted(order[start : start + window], key=lambda e: len(e.ids))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    generator.shuffle(batches)
    return batches


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model, on its device.

    inputs: the model's keyword arguments. positions (labelled,): indices into the flattened batch whose next token is
    trained on; targets (labelled,): those tokens. Both are computed before anything is copied to the device, so that
    nothing waits for it.
    """

    inputs: dict[str, Any]
    positions: torch.Tensor
    targets: torch.Tensor

    @property
    def labelled(self) -> int:
        """Number of tokens that are trained on."""
        return len(self.targets)


def collate(examples: Sequence[Example], pad: int, device: str) -> Batch:
    """Pad rows on the right, one sequence each: `input_ids` and `attention_mask`, each (rows, longest row)."""
    inputs = {
        "input_ids": _padded([e.ids for e in examples], pad),
        "attention_mask": _padded([[1] * len(e.ids) for e in examples], 0),
    }
    labels = _padded([e.labels() for e in examples], IGNORED)
    return _make_batch(inputs, _next_labels(labels), device)


def collate_seq2seq(examples: Sequence[Example], pad: int, start: int, device: str) -> Batch:
    """Pad rows for an encoder-decoder model, both sides on the right.

    `input_ids` and `attention_mask`, each (rows, longest prompt), are the encoder's. `decoder_input_ids` (rows, longest
    answer) are the answer shifted right behind `start`, so that every position predicts the answer's token at that
    position. They need no mask: no token attends to the padding behind it.
    """
    prompts, answers = [e.ids[: e.trained_from] for e in examples], [e.ids[e.trained_from :] for e in examples]
    inputs = {
        "input_ids": _padded(prompts, pad),
        "attention_mask": _padded([[1] * len(ids) for ids in prompts], 0),
        "decoder_input_ids": _padded([[start, *ids[:-1]] for ids in answers], pad),
    }
    return _make_batch(inputs, _padded(answers, IGNORED), device)


def shared_prefix(examples: Sequence[Example]) -> int:
    """Number of leading tokens that all examples share and that a packed batch can store once.

    Tokens that are trained on don't count, nor does the one right before the first of them. With a chat template the
    prefix is the template's whole preamble, often half of a short row.
    """
    first = examples[0].ids
    limit = min(max(e.trained_from - 1, 0) for e in examples)
    return next((i for i in range(limit) if any(e.ids[i] != first[i] for e in examples)), limit)


def pack(examples: Sequence[Example], prefix: int, device: str, masked: bool = True, multiple: int = 1) -> Batch:
    """Pack rows into one sequence without padding, their shared first `prefix` tokens stored once.

    Inputs: `input_ids` and `position_ids`, each (1, tokens); positions continue from the prefix in every row.
    Masked: `attention_mask` (1, 1, tokens, tokens), true where a token may attend: to the prefix, and to its own row up
    to itself; a last, unlabelled row fills the sequence up to a `multiple` of tokens.
    Unmasked, which needs a prefix of 0: the row boundaries under the names that transformers gives them for
    variable-length attention (`cu_seq_lens_q`, `max_length_q`, …).
    """
    ids, positions = list(examples[0].ids[:prefix]), list(range(prefix))
    owner, labels = [0] * prefix, [IGNORED] * prefix  # owner: number of each token's row, 0 for the prefix
    for row, example in enumerate(examples, 1):
        size = len(example.ids)
        ids += example.ids[prefix:]
        positions += range(prefix, size)
        owner += [row] * (size - prefix)
        labels += [IGNORED, *example.labels(prefix + 1)]  # a row's first token follows another row
    if masked and len(ids) % multiple:
        missing = multiple - len(ids) % multiple
        ids += ids[-1:] * missing
        positions += range(prefix, prefix + missing)
        owner += [len(examples) + 1] * missing
        labels += [IGNORED] * missing
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    if masked:
        inputs["attention_mask"] = _row_mask(torch.tensor(owner))
    else:
        inputs |= _row_boundaries([len(e.ids) for e in examples])
    return _make_batch(inputs, _next_labels(torch.tensor([labels])), device)


def _row_mask(owner: torch.Tensor) -> torch.Tensor:
    """Causal attention mask (1, 1, tokens, tokens) within each row and to the shared prefix, whose owner is 0."""
    visible = (owner[:, None] == owner[None]) | (owner[None] == 0)
    return (visible & torch.ones(len(owner), len(owner), dtype=torch.bool).tril())[None, None]


def _row_boundaries(sizes: list[int]) -> dict[str, Any]:
    """Cumulative row ends and an upper bound of the row length, as transformers names them.

    The bound is a power of two: with few distinct values, one compiled layer serves all batches.
    """
    ends = torch.tensor([0, *sizes]).cumsum(0, dtype=torch.int32)
    longest = 1 << (max(sizes) - 1).bit_length()
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Rows of any length as a tensor (rows, longest row), padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def _next_labels(labels: torch.Tensor) -> torch.Tensor:
    """Labels (rows, tokens) shifted left by one: each position gets the label of the token that follows it."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _make_batch(inputs: dict[str, Any], next_labels: torch.Tensor, device: str) -> Batch:
    """next_labels: (rows, tokens), the token to predict at each position, or IGNORED."""
    flat = next_labels.flatten()
    positions = (flat != IGNORED).nonzero().squeeze(1)
    return Batch(
        {name: _to_device(value, device) for name, value in inputs.items()},
        _to_device(positions, device),
        _to_device(flat[positions], device),
    )


def _to_device(value: Any, device: str) -> Any:
    """Move a tensor to the device, other values unchanged; a copy to CUDA is asynchronous, from pinned memory."""
    if not isinstance(value, torch.Tensor) or device == "cpu":
        return value
    if device == "meta":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)
