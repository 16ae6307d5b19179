"""What would have helped where memory ran out: single changes of the settings, the one that is predicted to save most first."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from playground.catalog.cards import verdict
from playground.predict import meta_model, phases
from playground.settings import Settings

SHORTEST = 32  # tokens of a row that still say something


def suggest_changes(
    settings: Settings,
    phase: str,
    capacity: int,
    device: str = "cuda",
    lengths: Sequence[int] = (),
    labelled: Sequence[int] = (),
) -> list[dict]:
    """Changes that save memory in `phase` ("load" or "tune"): [{"group", "field", "value", "bytes", "saved", "verdict"}].

    settings: those that ran out, their bit width decided. capacity: bytes of the memory. lengths, labelled: tokens of the
    rows of a step, all and trained on; without them every row is of full length. `bytes` is the peak with that change alone.
    """
    before = _need(settings, phase, capacity, device, lengths, labelled)
    found = []
    for group, field, value in _changes(settings, phase, device):
        changed = replace(settings, **{group: replace(getattr(settings, group), **{field: value})})
        most = changed.train.max_seq_length
        rows = [
            (min(n, most), max(1, part - max(0, n - most))) for n, part in zip(lengths, labelled)
        ]  # what is cut off a row is of its answer
        after = _need(changed, phase, capacity, device, *map(list, zip(*rows)))
        if after < before:
            found.append(
                {
                    "group": group,
                    "field": field,
                    "value": value,
                    "bytes": after,
                    "saved": before - after,
                    "verdict": verdict(after, capacity),
                }
            )
    return sorted(found, key=lambda change: -change["saved"])


def _changes(settings: Settings, phase: str, device: str) -> Iterator[tuple[str, str, object]]:
    """Everything that might help, as (group, field, value); `auto` has tried checkpointing and the tokens at once already."""
    load, lora, train = settings.load, settings.lora, settings.train
    full = train.method == "full" and phase == "tune"
    yield from (("load", "bits", bits) for bits in (16, 8, 4) if bits < load.bits and (bits == 16 or not full))
    if phase == "load":
        return
    if full:
        yield "train", "method", "lora"
        if device == "cuda" and train.optimizer == "adamw":
            yield "train", "optimizer", "adamw8bit"
    elif lora.target_modules == "all-linear":
        yield "lora", "target_modules", "attention"
    if train.gradient_checkpointing not in ("auto", "all", "offload"):
        yield "train", "gradient_checkpointing", "all"
    if train.gradient_checkpointing not in ("auto", "offload"):
        yield "train", "gradient_checkpointing", "offload"
    if train.gradient_checkpointing != "auto" and not 0 < train.max_tokens_per_micro_batch <= train.max_seq_length:
        yield "train", "max_tokens_per_micro_batch", train.max_seq_length
    if train.max_seq_length >= 2 * SHORTEST:
        yield "train", "max_seq_length", train.max_seq_length // 2


def _need(
    settings: Settings,
    phase: str,
    capacity: int,
    device: str,
    lengths: Sequence[int] = (),
    labelled: Sequence[int] = (),
) -> int:
    """Bytes at the peak of that phase."""
    half = torch.float16 if settings.load.dtype == "float16" else torch.bfloat16
    place = phases.Target(device, torch.float32 if settings.load.bits == 32 else half, capacity)
    config = meta_model.config_of(settings.load.model)
    if phase == "load":
        told = phases.predict_load(config, settings, place)
    else:
        told = phases.predict_tune(
            config, settings, place, lengths or [settings.train.max_seq_length] * settings.train.batch_size, labelled
        )
    return told["need"]
