"""What a model and a fine-tune will take, before either is there: from the config alone, on no GPU.

The program's own code is run on shapes without values (shape.py, trace.py), the allocator is simulated (allocator.py), and
what no trace sees is added from a table (table.py). Phases: load; chat, two rows of `context` tokens, base and tuned; tune,
the heaviest optimizer step. Each has `parts`, which add up to `allocated`; `reserved`; and `device`, what nvidia-smi shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

from playground.data.batch import Example
from playground.memory import shape, table
from playground.memory.allocator import reserved
from playground.memory.trace import Tape, book_decoder, booked, peak
from playground.model.load import Loaded
from playground.model.tensors import tensors
from playground.settings import Settings
from playground.train.loop import Trainer, computing
from playground.train.parallel import Team
from playground.train.prepare import prepare

LABELLED = 0.6  # of a row's tokens, where no rows are given: a guess
CHATTING = 2  # rows: base and tuned


@dataclass(frozen=True)
class Place:
    """Where it is to run. device: "cuda" or "cpu"; dtype: what is computed in; capacity: bytes of that memory, 0: no limit."""

    device: str
    dtype: torch.dtype
    capacity: int = 0


def load(config: PreTrainedConfig, settings: Settings, place: Place) -> dict:
    """The phase `load`: the weights, and what their largest layer takes on its way to fewer bits."""
    held = shape.held(config, settings.load, place.dtype, place.device)
    tape = Tape()
    _hold_weights(tape, held)
    if settings.load.bits < 16:
        widest = max((m.weight.quant_state.shape.numel() if hasattr(m.weight, "quant_state") else m.weight.numel() for m in held.model.modules() if hasattr(m, "compute_dtype") or hasattr(m, "state")), default=0)
        tape.passing(widest * place.dtype.itemsize)
    return _told(tape, place, 0)


def chat(config: PreTrainedConfig, settings: Settings, place: Place, context: int) -> dict:
    """The phase `chat`: prompts are read, and the last token is written, with `context` tokens in all."""
    held, tape = shape.held(config, settings.load, place.dtype, place.device), Tape()
    _hold_weights(tape, held)
    ids = torch.zeros((CHATTING, context - 1), dtype=torch.long, device="meta")
    with torch.no_grad(), tape:
        tape.keep(table.WORKSPACE, "buffers")
        with booked(tape, "activations"):
            made = held.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            cache = made.past_key_values
            _hold_cache(tape, cache)
            del made
            made = held.model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True, position_ids=torch.full((CHATTING, 1), context - 1, device="meta"))
            _hold_cache(tape, cache)
    return _told(tape, place, table.LIBRARIES)


def tune(config: PreTrainedConfig, settings: Settings, place: Place, lengths: Sequence[int], labelled: Sequence[int] = ()) -> dict:
    """The phase `tune`: a step over rows of these lengths, in tokens, of which so many are `labelled`.

    Beside the usual: "checkpointing" and "tokens", as planned for what the place has; "rows" at once; "feed", how they are
    packed; "trainable" parameters. Raises PlaygroundError for settings that don't fit the model.
    """
    train = settings.train
    labelled = labelled or [max(1, round(n * LABELLED)) for n in lengths]
    rows = [Example([5] * n, max(1, n - part)) for n, part in zip(lengths, labelled)]
    held, tape = shape.held(config, settings.load, place.dtype, place.device), Tape()
    _hold_weights(tape, held)
    weights = sum(size for _, size, _ in tape.events)
    room = place.capacity - table.CONTEXT - table.LIBRARIES - 2 * table.WORKSPACE - weights if place.capacity else 2**60
    for _ in range(2 if place.device == "cuda" else 0):  # the thread that goes forward, and autograd's
        tape.keep(table.WORKSPACE, "buffers")
    with tape:
        trainer = prepare(held, replace(settings, train=replace(train, batch=min(train.batch, len(rows)), compile="off")), rows, [], Team("meta"), room)
        _hold_trained(tape, held, trainer)
        _step(tape, trainer, rows, train.micro_batch or train.batch)
    told = _told(tape, place, table.LIBRARIES)
    dial, feed = trainer.plan.dial, trainer.feed
    part = next(feed.parts(rows, train.micro_batch or train.batch, dial.tokens))
    trained = sum(p.numel() for p in trainer.optimizer.parameters)
    return told | {"checkpointing": dial.checkpointing, "tokens": feed.size(part), "rows": len(part), "feed": feed.mode, "trainable": trained}


def _step(tape: Tape, trainer: Trainer, rows: Sequence[Example], at_once: int) -> None:
    """One optimizer step as it is from the second on, the optimizer's averages there already; of many micro-batches, two."""
    for copy in trainer.optimizer.copies:
        tape.keep(trainer.optimizer.averages(copy) // 2, "optimizer")
        tape.keep(trainer.optimizer.averages(copy) // 2, "optimizer")
    parts = sorted(trainer.feed.parts(rows, at_once, trainer.plan.dial.tokens), key=trainer.feed.size, reverse=True)
    decoder = trainer.loss_of._parts[0]
    hooks = book_decoder(tape, decoder) if decoder is not None else []
    with computing(trainer, learning=True):
        for part in parts[:2]:
            with booked(tape, "loss"):
                loss = trainer.loss_of(trainer.feed.batch(part)) * 1.0
                tape.part = "activations"
                trainer.optimizer.backward(loss)
                del loss
            for gradient in trainer.optimizer.gradients():
                tape.hold("gradients", gradient)
    for hook in hooks:
        hook.remove()


def _hold_weights(tape: Tape, held: Loaded) -> None:
    for part, tensor in tensors(held.model):
        tape.hold(part, tensor)


def _hold_trained(tape: Tape, held: Loaded, trainer: Trainer) -> None:
    for part, tensor in tensors(held.model):
        tape.hold(part, tensor)
    if trainer.optimizer.copies is not trainer.optimizer.parameters:
        for copy in trainer.optimizer.copies:
            tape.hold("optimizer", copy)


def _hold_cache(tape: Tape, cache) -> None:
    for layer in cache.layers:
        for tensor in (layer.keys, layer.values):
            tape.hold("kv_cache", tensor)


def _told(tape: Tape, place: Place, libraries: int) -> dict:
    allocated, parts = peak(tape.events)
    if place.device == "cpu":
        return {"parts": parts, "allocated": allocated}
    taken = reserved(tape.events)
    return {"parts": parts | {"runtime": taken - allocated + table.CONTEXT + libraries}, "allocated": allocated, "reserved": taken, "device": taken + table.CONTEXT + libraries}
