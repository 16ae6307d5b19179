"""Rank single changes of the settings by the memory they are predicted to save, after an out-of-memory."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from playground.catalog.cards import verdict
from playground.errors import PlaygroundError
from playground.planning import several
from playground.planning.auto_streaming import resolved
from playground.planning.forecast import resolve_target
from playground.predict import meta_model, phases
from playground.predict.heaviest import own_share, predict_share
from playground.predict.streamed_choice import can_stream
from playground.settings import BIT_WIDTHS, Settings

MIN_ROW_TOKENS = 32  # a shorter row has little left to learn from


def suggest_changes(
    settings: Settings,
    phase: str,
    capacity: int,
    device: str = "cuda",
    lengths: Sequence[int] = (),
    labelled: Sequence[int] = (),
    job: str = "",
) -> list[dict]:
    """Changes that save memory in `phase` ("load" or "tune"), the largest saving first.

    settings: validated, those that ran out of memory, their bit width resolved. capacity: bytes of that memory.
    lengths, labelled: tokens of each row of a step, of several GPUs one's, all of them and those trained on; without
    them every row has full length. job: "load" or "tune", which the phase was of: "auto" streams other layers for a
    fine-tune than for a load; empty: the job of that name. Returns [{"group", "field", "value", "bytes" (needed with
    that change alone), "saved" (bytes), "verdict"}].
    """
    job = job or phase
    before = _bytes_needed(settings, job, phase, capacity, device, lengths, labelled)
    suggestions = []
    for group, field, value in _possible_changes(settings, phase, device):
        changed = replace(settings, **{group: replace(getattr(settings, group), **{field: value})})
        rows = _truncated(lengths, labelled, changed.train.max_seq_length)
        try:
            after = _bytes_needed(changed, job, phase, capacity, device, *rows)
        except PlaygroundError:  # several GPUs can't train with it
            continue
        if after < before:
            change = {"group": group, "field": field, "value": value}
            suggestions.append(change | {"bytes": after, "saved": before - after, "verdict": verdict(after, capacity)})
    return sorted(suggestions, key=lambda suggestion: -suggestion["saved"])


def _possible_changes(settings: Settings, phase: str, device: str) -> Iterator[tuple[str, str, int | str | bool]]:
    """Every change that might help, as (group, field, value): always to a valid value.

    Under "auto" the run has tried all checkpointing and fewer tokens at once already.
    """
    load, train = settings.load, settings.train
    full = train.method == "full" and phase == "tune"
    yield from (("load", "bits", bits) for bits in BIT_WIDTHS if bits < load.bits and (bits == 16 or not full))
    if device == "cuda" and train.num_processes == 1:
        yield from _streaming_all_layers(settings)
    if phase == "load":
        return
    if full and not train.offload_optimizer:  # with which neither LoRA nor another optimizer is allowed
        yield "train", "method", "lora"
        if device == "cuda" and train.optimizer == "adamw":
            yield "train", "optimizer", "adamw8bit"
            if train.num_processes == 1:
                yield "train", "offload_optimizer", True
    elif not full and settings.lora.target_modules == "all-linear":
        yield "lora", "target_modules", "attention"
    if train.gradient_checkpointing not in ("auto", "all", "offload"):
        yield "train", "gradient_checkpointing", "all"
    if train.gradient_checkpointing not in ("auto", "offload"):
        yield "train", "gradient_checkpointing", "offload"
    if train.gradient_checkpointing != "auto" and not 0 < train.max_tokens_per_micro_batch <= train.max_seq_length:
        yield "train", "max_tokens_per_micro_batch", train.max_seq_length
    if train.max_seq_length >= 2 * MIN_ROW_TOKENS:
        yield "train", "max_seq_length", train.max_seq_length // 2


def _streaming_all_layers(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """The change by which the weights of all layers wait in main memory, for a model that allows it."""
    resolved, target = resolve_target(settings, "cuda", 0)
    config = meta_model.config_of(settings.load.model)
    layers = meta_model.model_facts(config, resolved.load, target.dtype, target.device).layers
    if can_stream(config, settings, layers) and settings.load.streamed_layers != str(layers):
        yield "load", "streamed_layers", str(layers)


def _truncated(lengths: Sequence[int], labelled: Sequence[int], cutoff: int) -> tuple[list[int], list[int]]:
    """Rows' tokens and labelled tokens at that cutoff: what is cut off a row is of its answer."""
    return (
        [min(tokens, cutoff) for tokens in lengths],
        [max(1, part - max(0, tokens - cutoff)) for tokens, part in zip(lengths, labelled)],
    )


def _bytes_needed(
    settings: Settings,
    job: str,
    phase: str,
    capacity: int,
    device: str,
    lengths: Sequence[int],
    labelled: Sequence[int],
) -> int:
    settings, target = resolve_target(settings, device, capacity)
    config = meta_model.config_of(settings.load.model)
    settings = resolved(config, settings, target, job)
    if job == "tune":
        target = several.checked_target(config, settings, target)
    if phase == "load":
        return phases.predict_load(config, settings, target)["need"]
    lengths = lengths or several.full_rows(own_share(settings, target.processes))
    return predict_share(config, settings, target, lengths, labelled)["need"]
