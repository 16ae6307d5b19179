"""Rows as tokens; tokens as padded batches, or packed into one sequence that holds what all rows begin with once."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from playground.data.source import Row
from playground.data.template import Template
from playground.errors import problem

IGNORED = -100  # the label of tokens that aren't trained on (torch's cross-entropy leaves them out)


@dataclass(frozen=True)
class Example:
    """A row's tokens; those from `trained_from` on carry a label.

    Of a model with an encoder, the encoder reads the tokens before that, and the decoder writes the others.
    """

    ids: list[int]
    trained_from: int

    @property
    def labelled(self) -> int:
        """How many tokens are predicted and trained on; a row's first one has nothing before it."""
        return len(self.ids) - max(self.trained_from, 1)


def encode(
    rows: Sequence[Row], template: Template, length: int, train_on_prompt: bool = False
) -> tuple[list[Example], int]:
    """Examples of at most `length` tokens, and how many answers lost their end to that.

    A row whose prompt alone fills the length can teach nothing and is left out. Raises PlaygroundError if all are, and
    where a prompt is to be trained on that an encoder reads: nothing there is predicted.
    """
    if train_on_prompt and template.encoder:
        raise problem("error.prompt_is_read")
    examples, cut = [], 0
    for prompt, answer in template.tokens(rows):
        if len(prompt) >= length:
            cut += 1
            continue
        cut += len(prompt) + len(answer) > length
        examples.append(Example((prompt + answer)[:length], 0 if train_on_prompt else len(prompt)))
    if rows and not examples:
        raise problem("error.all_too_long", rows=len(rows), length=length)
    return examples, cut


def epoch_batches(examples: Sequence[Example], size: int, seed: int, alike: bool = True) -> list[list[Example]]:
    """One epoch in random order; alike: rows of like length together, so that little of padded batches is padding.

    Neighbours are sorted within a window of eight batches then: order stays random from window to window.
    """
    draw = random.Random(seed)
    order = list(examples)
    draw.shuffle(order)
    window = 8 * size
    for start in range(0, len(order) if alike else 0, window):
        order[start : start + window] = sorted(order[start : start + window], key=lambda e: len(e.ids))
    made = [order[start : start + size] for start in range(0, len(order), size)]
    draw.shuffle(made)
    return made


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model on its device.

    inputs: what it reads. predicts (labelled,): the positions, over the flattened batch, whose next token is
    trained on; wanted (labelled,): those tokens. Both are found before anything is on the device, so nothing waits for it.
    """

    inputs: dict
    positions: torch.Tensor
    targets: torch.Tensor

    @property
    def labelled(self) -> int:
        """How many tokens are trained on."""
        return len(self.targets)


def collate(examples: Sequence[Example], pad: int, device: str) -> Batch:
    """Rows of their own, padded on the right: `input_ids` and `attention_mask`, each (rows, longest row)."""
    made = {
        "input_ids": _padded([e.ids for e in examples], pad),
        "attention_mask": _padded([[1] * len(e.ids) for e in examples], 0),
    }
    labels = _padded([[IGNORED] * e.trained_from + e.ids[e.trained_from :] for e in examples], IGNORED)
    return _batch(made, _ahead(labels), device)


def collate_seq2seq(examples: Sequence[Example], pad: int, start: int, device: str) -> Batch:
    """Rows for a model with an encoder, both sides padded on the right.

    `input_ids` and `attention_mask`, each (rows, longest prompt), are the encoder's. `decoder_input_ids` (rows, longest
    answer) begin with `start`, and every position predicts the answer's token there: the one that comes in next. They need
    no mask, for no token sees the padding behind it.
    """
    prompts, answers = [e.ids[: e.trained_from] for e in examples], [e.ids[e.trained_from :] for e in examples]
    made = {
        "input_ids": _padded(prompts, pad),
        "attention_mask": _padded([[1] * len(ids) for ids in prompts], 0),
        "decoder_input_ids": _padded([[start, *ids[:-1]] for ids in answers], pad),
    }
    return _batch(made, _padded(answers, IGNORED), device)


def shared_prefix(examples: Sequence[Example]) -> int:
    """How many tokens all examples begin with, as far as none of them is trained on or stands right before one that is.

    With a chat template that is its whole preamble, often half of a short row.
    """
    first = examples[0].ids
    most = min(max(e.trained_from - 1, 0) for e in examples)
    return next((at for at in range(most) if any(e.ids[at] != first[at] for e in examples)), most)


def pack(examples: Sequence[Example], prefix: int, device: str, masked: bool = True, multiple: int = 1) -> Batch:
    """All rows in one sequence without padding, their first `prefix` tokens, the same in all, only once.

    Masked, a last row that nothing is learned of fills the sequence up to a `multiple` of tokens.

    `input_ids`, `position_ids`: (1, tokens); positions go on from the prefix in every row. Masked: `attention_mask`
    (1, 1, tokens, tokens), true where a token may look: at the prefix, and at its own row up to itself. Otherwise, which
    needs a prefix of 0: where each row begins and ends, as transformers names it for attention that reads it.
    """
    ids, positions, owner, labels = (
        list(examples[0].ids[:prefix]),
        list(range(prefix)),
        [0] * prefix,
        [IGNORED] * prefix,
    )
    for row, example in enumerate(examples, 1):
        size = len(example.ids)
        trained_from = max(example.trained_from, prefix + 1)  # a row's first token has another row before it
        ids += example.ids[prefix:]
        positions += range(prefix, size)
        owner += [row] * (size - prefix)
        labels += [IGNORED] * (trained_from - prefix) + example.ids[trained_from:]
    if masked and len(ids) % multiple:
        filled = multiple - len(ids) % multiple
        ids, positions, labels = (
            ids + ids[-1:] * filled,
            positions + list(range(prefix, prefix + filled)),
            labels + [IGNORED] * filled,
        )
        owner += [len(examples) + 1] * filled
    made = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions])}
    if masked:
        own = torch.tensor(owner)
        sees = (own[:, None] == own[None]) | (own[None] == 0)
        made["attention_mask"] = (sees & torch.ones(len(ids), len(ids), dtype=torch.bool).tril())[None, None]
    else:
        ends = torch.tensor([0, *(len(e.ids) for e in examples)]).cumsum(0, dtype=torch.int32)
        longest = (
            1 << max(len(e.ids) - 1 for e in examples).bit_length()
        )  # a bound; few values, so that compiled layers serve all
        made |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return _batch(made, _ahead(torch.tensor([labels])), device)


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Rows of any length as (rows, longest row), filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def _ahead(labels: torch.Tensor) -> torch.Tensor:
    """What each position is to predict, of labels (rows, tokens) that stand at the tokens themselves: the next one's."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _batch(inputs: dict, ahead: torch.Tensor, device: str) -> Batch:
    """ahead: (rows, tokens), the token that is to be predicted there, or IGNORED."""
    positions = (ahead.flatten() != IGNORED).nonzero().squeeze(1)
    targets = ahead.flatten()[positions]
    return Batch(
        {name: _there(value, device) for name, value in inputs.items()},
        _there(positions, device),
        _there(targets, device),
    )


def _there(value, device: str):
    """A tensor on the device; a copy to CUDA is only begun, nothing waits for it."""
    if not isinstance(value, torch.Tensor) or device == "cpu":
        return value
    if device == "meta":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)
