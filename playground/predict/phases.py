"""Predict the memory of loading a model, chatting with it and fine-tuning it: from its config alone, without a GPU.

The program's own code runs on tensors without values (meta_model.py, allocation_trace.py), the allocator is simulated
(allocator.py), and what no trace can see is added from measured constants (memory/constants.py). On as few layers as
can represent all, with earlier results remembered (trace_cache.py).

Phases: load; chat, two rows of `context` tokens, base and tuned; tune, the heaviest optimizer step. A prediction is a
dict of bytes: `parts`, by part of the ledger, which add up to `allocated`, what tensors take at the peak; on CUDA
`reserved`, what torch's allocator takes, and `device_used`, what nvidia-smi shows, where `parts` includes the `runtime`
and adds up to that; on a CPU `rss`, the process's resident memory. `need` is the one of them that has to fit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedConfig, PreTrainedModel

from playground.data.batch import Example
from playground.memory import constants
from playground.predict.allocation_trace import (
    UNKNOWN,
    AllocationTrace,
    book_layer_stack,
    booked_as,
    bytes_by_part,
    peak,
)
from playground.predict.allocator import simulate_reserved
from playground.predict.cpu_memory import memory_outside_tensors
from playground.predict.load_order import staged_elements, warmup_bytes, weights_in_load_order
from playground.predict.trace_cache import cached_prediction, trace_phase
from playground.predict.traced_model import Target, TracedModel, checkpoint_interval
from playground.settings import Lora, Settings, Train
from playground.train.loop import Trainer, training_mode
from playground.train.parallel import Team
from playground.train.prepare import build_trainer, make_trainable

LABELLED_SHARE = 0.6  # of a row's tokens, where no rows are known: a guess
CHAT_ROWS = 2  # base and tuned
UNLIMITED = 2**60  # bytes


@cached_prediction("load")
def predict_load(config: PreTrainedConfig, settings: Settings, target: Target) -> dict:
    """Predict the memory of loading: weights arrive one by one, and those that are quantized arrive in 16 bits.

    `parts` are what stays, and as `buffers` what the peak needs beyond that. On a CPU also "after": resident bytes once
    the model is loaded, without the pages of its file where they are released.
    """
    bits = settings.load.bits
    traced = TracedModel(config, settings.load, target, None, with_weights=False)
    model, trace = traced.loaded.model, traced.trace
    if target.device == "cuda":
        trace.allocate_and_free(warmup_bytes(model), "weights")
    for weight, quant_constants in weights_in_load_order(model):
        staged = trace.allocate(staged_elements(weight) * target.dtype.itemsize, "buffers")
        trace.book("weights", weight)
        for tensor in quant_constants:
            trace.book("quant_constants", tensor)
        trace.free(staged)
    prediction = _prediction_from_trace(traced, target, "load", bits)
    parts = bytes_by_part(trace.events)
    loaded = sum(parts.values())
    if prediction["allocated"] > loaded:
        parts["buffers"] = prediction["allocated"] - loaded
    if "runtime" in prediction["parts"]:
        parts["runtime"] = prediction["parts"]["runtime"]
    prediction["parts"] = parts
    if "rss" in prediction:
        prediction["after"] = loaded + memory_outside_tensors(traced, target, "loaded", bits)
    return prediction


@cached_prediction("load")
def predict_chat(config: PreTrainedConfig, settings: Settings, target: Target, context: int) -> dict:
    """Predict the memory of an answer: the prompts are read, then a last token is generated, `context` tokens in all.

    An encoder-decoder model reads one half of them and generates the other.
    """
    untrained = replace(settings, lora=Lora(), train=Train())
    return trace_phase(partial(_trace_chat, context=context), config, untrained, target)


def _trace_chat(traced: TracedModel, settings: Settings, target: Target, context: int) -> dict:
    model, trace = traced.loaded.model, traced.trace
    with torch.no_grad(), trace:
        if target.device == "cuda":
            trace.allocate(constants.CUBLAS_WORKSPACE, "buffers")
        with booked_as(trace, "activations"):
            for inputs in prefill_and_decode_inputs(model, context, partial(_book_cache_layer, trace)):
                _book_cache(trace, model(**inputs, use_cache=True).past_key_values)
    return _prediction_from_trace(traced, target, "chat", settings.load.bits)


def prefill_and_decode_inputs(
    model: PreTrainedModel, context: int, on_filled_layer: Callable[[Any], None] = lambda layer: None
) -> Iterator[dict]:
    """The model's inputs when it reads the prompts, and then when it generates the last of `context` tokens.

    The caller calls the model between the two, which fills the cache. An encoder-decoder model's cache is filled up to
    length by this function; `on_filled_layer` is called with each of its layers after that.
    """
    ids = partial(torch.zeros, dtype=torch.long, device=model.device)
    if not model.config.is_encoder_decoder:
        cache = DynamicCache(config=model.config)
        yield {"input_ids": ids(CHAT_ROWS, context - 1), "past_key_values": cache, "logits_to_keep": 1}
        position_ids = torch.full((CHAT_ROWS, 1), context - 1, device=model.device)
        yield {"input_ids": ids(CHAT_ROWS, 1), "past_key_values": cache, "position_ids": position_ids}
        return
    prompt, encoder = context // 2, model.get_encoder()
    states = encoder(input_ids=ids(CHAT_ROWS, prompt))
    caches: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
    yield {"encoder_outputs": states, "decoder_input_ids": ids(CHAT_ROWS, 1), "past_key_values": caches}
    for layer in caches.self_attention_cache.layers:
        layer.keys, layer.values = (
            tensor.expand(-1, -1, context - prompt - 1, -1).contiguous() for tensor in (layer.keys, layer.values)
        )
        on_filled_layer(layer)
    yield {"encoder_outputs": states, "decoder_input_ids": ids(CHAT_ROWS, 1), "past_key_values": caches}


@cached_prediction("load", "lora", "train")
def predict_tune(
    config: PreTrainedConfig,
    settings: Settings,
    target: Target,
    lengths: Sequence[int],
    labelled: Sequence[int] = (),
    prefix: int = 0,
    all_logits: bool = False,
) -> dict:
    """Predict the memory of a fine-tune's optimizer step over rows of these lengths in tokens.

    labelled: how many tokens of each row are labelled. prefix: how many tokens all rows begin with alike.
    all_logits: the loss isn't chunked. The prediction also has, as planned for the target's capacity, "checkpointing",
    "budget", the most tokens in a micro-batch (0: no limit), and "work", a token's cost in forward passes; "tokens" and
    "rows" of the largest micro-batch; "batching", how rows are packed; and the number of "trainable" parameters. Raises
    PlaygroundError for settings that don't fit the model.
    """
    labelled = labelled or [max(1, round(n * LABELLED_SHARE)) for n in lengths]
    rows = [
        Example([5] * prefix + [6 + row] * (n - prefix), max(1, n - part))
        for row, (n, part) in enumerate(zip(lengths, labelled))
    ]
    train = replace(settings.train, batch_size=min(settings.train.batch_size, len(rows)), compile="off")
    return trace_phase(
        partial(_trace_tune, rows=rows, all_logits=all_logits),
        config,
        replace(settings, train=train),
        target,
        checkpoint_interval(train.gradient_checkpointing),
        _prepare_training,
    )


def _prepare_training(traced: TracedModel, settings: Settings, target: Target) -> None:
    """Make the network trainable; nothing here depends on rows."""
    if target.device == "cuda":
        for _ in range(2):  # the forward pass and autograd run in a thread each
            traced.trace.allocate(constants.CUBLAS_WORKSPACE, "buffers")
    with traced.trace:
        traced.trace.layer = UNKNOWN
        make_trainable(traced.loaded, settings)
    traced.assign_layers()


def _trace_tune(
    traced: TracedModel, settings: Settings, target: Target, rows: Sequence[Example], all_logits: bool
) -> dict:
    trace, train = traced.trace, settings.train
    at_once = train.micro_batch_size or train.batch_size
    with trace:
        room = _room_to_plan_with(traced, target, settings.load.bits)
        trainer = build_trainer(traced.loaded, settings, rows, [], Team("meta"), room, traced.tensor_multiplicity)
        policy, batcher = trainer.plan.policy, trainer.batcher
        traced.check_interval(policy)
        trainer.loss_module.chunked &= not all_logits
        _book_trained(traced, trainer)
        _trace_step(trace, trainer, rows, at_once)
    prediction = _prediction_from_trace(traced, target, "tune", settings.load.bits)
    largest = next(batcher.micro_batches(rows, at_once, policy.tokens))
    return prediction | {
        "checkpointing": policy.checkpointing,
        "budget": policy.tokens if policy.tokens < sum(len(row.ids) for row in rows) else 0,
        "work": trainer.plan.forward_passes,
        "tokens": batcher.computed_tokens(largest),
        "rows": len(largest),
        "batching": batcher.mode,
        "trainable": sum(p.numel() * traced.tensor_multiplicity(p) for p in trainer.optimizer.parameters),
    }


def _room_to_plan_with(traced: TracedModel, target: Target, bits: int) -> int:
    """Bytes that the training plan may use besides the weights."""
    if not target.capacity:
        return UNLIMITED
    runtime = constants.cuda_runtime_bytes("tune", bits) + 2 * constants.CUBLAS_WORKSPACE
    return target.capacity - runtime - traced.weight_bytes


def _trace_step(trace: AllocationTrace, trainer: Trainer, rows: Sequence[Example], at_once: int) -> None:
    """Trace an optimizer step such as the second one, with the optimizer's moments there already.

    Of many micro-batches, the two largest are traced.
    """
    for copy in trainer.optimizer.copies:
        trace.layer = trace.layer_of(copy)
        for _ in range(2):  # both moments
            trace.allocate(trainer.optimizer.moment_bytes(copy) // 2, "optimizer")
    micro_batches = sorted(
        trainer.batcher.micro_batches(rows, at_once, trainer.plan.policy.tokens),
        key=trainer.batcher.computed_tokens,
        reverse=True,
    )
    hooks = [hook for stack in _layer_stacks(trainer) for hook in book_layer_stack(trace, stack)]
    with training_mode(trainer, learning=True):
        for micro_batch in micro_batches[:2]:
            with booked_as(trace, "loss"):
                loss = trainer.loss_module(trainer.batcher.batch(micro_batch)) * 1.0
                trace.part = "activations"
                trainer.optimizer.backward(loss)
                del loss
            for gradient in trainer.optimizer.gradients():
                trace.book("gradients", gradient)
    for hook in hooks:
        hook.remove()


def _layer_stacks(trainer: Trainer) -> list[Any]:
    """The modules that contain the repeated layers, without the output head."""
    network: Any = trainer.batcher.model
    if trainer.batcher.encoder:
        return [network.get_encoder(), network.get_decoder()]
    stack = getattr(network, network.base_model_prefix, None)
    return [] if stack is None else [stack]


def _book_trained(traced: TracedModel, trainer: Trainer) -> None:
    """Book the trainable model's tensors, and the optimizer's float32 copies where it has some."""
    trace, optimizer = traced.trace, trainer.optimizer
    traced.book_weights()
    if optimizer.copies is not optimizer.parameters:
        for copy, parameter in zip(optimizer.copies, optimizer.parameters):
            trace.assign_layer(trace.layer_of(parameter), [copy])
            trace.book("optimizer", copy)


def _book_cache(trace: AllocationTrace, cache: Any) -> None:
    is_pair = isinstance(cache, EncoderDecoderCache)
    for one in (cache.self_attention_cache, cache.cross_attention_cache) if is_pair else (cache,):
        for layer in one.layers:
            _book_cache_layer(trace, layer)


def _book_cache_layer(trace: AllocationTrace, layer: Any) -> None:
    for tensor in (layer.keys, layer.values):
        trace.assign_layer(trace.layer_of(tensor), [tensor])
        trace.book("kv_cache", tensor)


def _prediction_from_trace(traced: TracedModel, target: Target, phase: str, bits: int) -> dict:
    """The prediction of a phase whose trace is complete."""
    events = traced.whole_events()
    allocated, parts = peak(events)
    if target.device == "cpu":
        rss = allocated + memory_outside_tensors(traced, target, phase, bits)
        return {"parts": parts, "allocated": allocated, "rss": rss, "need": rss}
    reserved = simulate_reserved(events)
    device_used = reserved + constants.cuda_runtime_bytes(phase, bits)
    return {
        "parts": parts | {"runtime": device_used - allocated},
        "allocated": allocated,
        "reserved": reserved,
        "device_used": device_used,
        "need": device_used,
    }
