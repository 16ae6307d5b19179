"""Trace the phases on a network without weights: loading it, an answer, an optimizer step.

Each function runs the program's own code under a network's allocation trace. What a trace amounts to is worked out
from its events afterwards: phases.py predicts the memory of a phase, tape.py what it holds at each layer.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedConfig, PreTrainedModel

from playground.data.batch import Example
from playground.memory import constants
from playground.memory.card_limit import runtime_limit
from playground.memory.ledger import tensors_by_part
from playground.model.shares import share_bytes
from playground.predict.allocation_trace import OUTSIDE, UNKNOWN, AllocationTrace, book_layer_stack, booked_as
from playground.predict.cpu_memory import memory_outside_tensors
from playground.predict.load_order import staged_elements, warmup_bytes, weights_in_load_order
from playground.predict.trace_cache import trace_phase
from playground.predict.traced_model import Target, TracedModel, checkpoint_interval
from playground.settings import Lora, Settings, Train, has_own_layers, streamed_count
from playground.train.loss import Loss
from playground.train.offloaded_optimizer import offloads
from playground.train.parallel import Team
from playground.train.prepare import build_trainer, make_trainable
from playground.train.split_ends import end_modules
from playground.train.trainer import Trainer, training_mode

LABELLED_SHARE = 0.6  # of a row's tokens, where no rows are known: a guess
CHAT_ROWS = 2  # base and tuned
UNLIMITED = 2**60  # bytes

SummarizePhase = Callable[[TracedModel], dict]
SummarizeTune = Callable[[TracedModel, Trainer, Sequence[Example]], dict]


def trace_load(config: PreTrainedConfig, settings: Settings, target: Target) -> TracedModel:
    """Trace loading: weights arrive one by one, and those that are quantized arrive in 16 bits."""
    traced = TracedModel(config, settings.load, target, None, with_weights=False)
    model, trace = traced.loaded.model, traced.trace
    by_layer = has_own_layers(settings.load) or streamed_count(settings.load) or target.split  # from main memory
    if target.device == "cuda" and not by_layer:
        trace.allocate_and_free(warmup_bytes(model), "weights")
    trace.stage = "load"
    for weight, quant_constants in weights_in_load_order(model):
        trace.layer = trace.layer_of(weight)
        staged = trace.allocate(staged_elements(weight) * target.dtype.itemsize, "buffers")
        trace.book("weights", weight)
        for tensor in quant_constants:
            trace.book("quant_constants", tensor)
        trace.free(staged)
    return traced


def trace_chat(
    summarize: SummarizePhase, config: PreTrainedConfig, settings: Settings, target: Target, context: int
) -> dict:
    """Trace an answer: the prompts are read, then a last token is generated, `context` tokens in all.

    An encoder-decoder model reads one half of them and generates the other. Returns what `summarize` makes of it.
    """

    def trace(traced: TracedModel, settings: Settings, target: Target) -> dict:
        return _trace_answer(summarize, traced, target, context)

    return trace_phase(trace, config, replace(settings, lora=Lora(), train=Train()), target)


def _trace_answer(summarize: SummarizePhase, traced: TracedModel, target: Target, context: int) -> dict:
    """Trace an answer and sum it up while its cache is still there: Python frees that in an arbitrary order."""
    model, trace = traced.loaded.model, traced.trace
    with torch.no_grad(), trace:
        if target.device == "cuda":
            trace.allocate(constants.CUBLAS_WORKSPACE, "buffers")
        with booked_as(trace, "activations"):
            for inputs in prefill_and_decode_inputs(model, context, partial(_book_cache_layer, trace)):
                trace.stage = "decode" if trace.stage == "prefill" else "prefill"
                model(**inputs, use_cache=True)
                _book_cache(trace, inputs[_cache_name(model)])
    return summarize(traced)


def prefill_and_decode_inputs(
    model: PreTrainedModel, context: int, on_filled_layer: Callable[[Any], None] = lambda layer: None
) -> Iterator[dict]:
    """The model's inputs when it reads the prompts, and then when it generates the last of `context` tokens.

    The caller calls the model between the two, which fills the cache. An encoder-decoder model's cache is filled up to
    length by this function; `on_filled_layer` is called with each of its layers after that.
    """
    ids = partial(torch.zeros, dtype=torch.long, device=model.device)
    if not model.config.is_encoder_decoder:
        cache = {_cache_name(model): DynamicCache(config=model.config)}
        yield {"input_ids": ids(CHAT_ROWS, context - 1), "logits_to_keep": 1, **cache}
        if not any(_cached_tensors(layer) for one in cache.values() for layer in one.layers):  # as in BERT
            yield {"input_ids": ids(CHAT_ROWS, context), "logits_to_keep": 1, **cache}
            return
        position_ids = torch.full((CHAT_ROWS, 1), context - 1, device=model.device)
        yield {"input_ids": ids(CHAT_ROWS, 1), "position_ids": position_ids, **cache}
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


def _cache_name(model: PreTrainedModel) -> str:
    """The name of the argument by which a model takes its cache; Mamba and its kin have one of their own."""
    return "cache_params" if "cache_params" in inspect.signature(model.forward).parameters else "past_key_values"


def _book_cache(trace: AllocationTrace, cache: Any) -> None:
    is_pair = isinstance(cache, EncoderDecoderCache)
    for one in (cache.self_attention_cache, cache.cross_attention_cache) if is_pair else (cache,):
        for layer in one.layers:
            _book_cache_layer(trace, layer)


def _book_cache_layer(trace: AllocationTrace, layer: Any) -> None:
    for tensor in _cached_tensors(layer):
        trace.assign_layer(trace.layer_of(tensor), [tensor])
        trace.book("kv_cache", tensor)


def _cached_tensors(layer: Any) -> list[Tensor]:
    """What a cache keeps for a layer: keys and values, or the states of a recurrent layer."""
    kept: list[Any] = []
    for value in vars(layer).values():
        kept += value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    return [tensor for tensor in kept if isinstance(tensor, Tensor)]


def trace_tune(
    summarize: SummarizeTune,
    config: PreTrainedConfig,
    settings: Settings,
    target: Target,
    lengths: Sequence[int],
    labelled: Sequence[int] = (),
    prefix: int = 0,
    all_logits: bool = False,
    batching: str | None = None,
) -> dict:
    """Trace an optimizer step over rows of these lengths; see phases.predict_tune.

    Returns what `summarize` makes of the traced network, its trainer and the rows.
    """
    labelled = labelled or [max(1, round(n * LABELLED_SHARE)) for n in lengths]
    rows = [
        Example([5] * prefix + [6 + row] * (n - prefix), max(1, n - part))
        for row, (n, part) in enumerate(zip(lengths, labelled))
    ]
    train = replace(
        settings.train,
        batch_size=min(settings.train.batch_size, len(rows)),
        compile="off",
        offload_optimizer=offloads(settings.train, target.device),
    )

    def trace(traced: TracedModel, settings: Settings, target: Target) -> dict:
        return summarize(traced, _trace_step(traced, settings, target, rows, all_logits, batching), rows)

    interval = checkpoint_interval(train.gradient_checkpointing)
    return trace_phase(trace, config, replace(settings, train=train), target, interval, _prepare_training)


def _prepare_training(traced: TracedModel, settings: Settings, target: Target) -> None:
    """Make the network trainable; nothing here depends on rows."""
    if target.device == "cuda":
        for _ in range(2):  # the forward pass and autograd run in a thread each
            traced.trace.allocate(constants.CUBLAS_WORKSPACE, "buffers")
    with traced.trace:
        traced.trace.layer = UNKNOWN
        make_trainable(traced.loaded, settings)
    traced.assign_layers()


def _trace_step(
    traced: TracedModel,
    settings: Settings,
    target: Target,
    rows: Sequence[Example],
    all_logits: bool,
    batching: str | None,
) -> Trainer:
    """Trace an optimizer step such as the second one, with the optimizer's moments there already.

    Of many micro-batches, the two largest are traced: that share of the step's tokens.
    """
    trace, train = traced.trace, settings.train
    at_once = train.micro_batch_size or train.batch_size
    with trace:
        saved, copied = traced.streaming(settings.load, target.shares)
        saved += _saved_by_split_ends(traced, target.shares)
        room = _room_to_plan_with(traced, target, saved)
        team, multiplicity = Team("meta", launched=False, shares=target.shares), traced.tensor_multiplicity
        trainer = build_trainer(traced.loaded, settings, rows, [], team, room, multiplicity, batching, copied)
        policy, batcher = trainer.plan.policy, trainer.batcher
        traced.check_interval(policy)
        trainer.loss_module.chunked &= not all_logits
        _book_trained(traced, trainer)
        _allocate_moments(trace, trainer)
        micro_batches = sorted(
            batcher.micro_batches(rows, at_once, policy.tokens), key=batcher.computed_tokens, reverse=True
        )
        largest = micro_batches[:2]
        _trace_micro_batches(trace, trainer, largest)
        trace.layer = OUTSIDE
        trainer.optimizer.update_buffers()
        traced.traced_share = sum(map(batcher.computed_tokens, largest)) / sum(
            map(batcher.computed_tokens, micro_batches)
        )
    return trainer


def _trace_micro_batches(trace: AllocationTrace, trainer: Trainer, micro_batches: Sequence[Sequence[Example]]) -> None:
    hooks = [hook for stack in _layer_stacks(trainer) for hook in book_layer_stack(trace, stack)]
    with training_mode(trainer, learning=True):
        for micro_batch in micro_batches:
            with booked_as(trace, "loss"):
                trace.stage = "forward"
                loss = trainer.loss_module(trainer.batcher.batch(micro_batch)) * 1.0
                trace.part = "activations"
                trainer.optimizer.backward(loss)
                del loss
            for gradient in trainer.optimizer.gradients():
                trace.book("gradients", gradient)
    for hook in hooks:
        hook.remove()


def _room_to_plan_with(traced: TracedModel, target: Target, saved: int) -> int:
    """Bytes that the training plan may use besides the model with its adapter; saved: of its weights, by streaming."""
    if not target.capacity:
        return UNLIMITED
    if target.device == "cpu":
        runtime = memory_outside_tensors(traced, target, "loaded")
    else:  # as limit_cuda_memory leaves it to a run. One workspace: when that plans, nothing has needed the second yet
        runtime = runtime_limit(target.processes) + constants.CUBLAS_WORKSPACE
    added = (tensor for part, tensor in tensors_by_part(traced.loaded.model) if part == "adapters")
    adapters = sum(tensor.nbytes * traced.tensor_multiplicity(tensor) for tensor in added)
    return target.capacity - runtime - traced.weight_bytes - adapters + saved


def _saved_by_split_ends(traced: TracedModel, shares: int) -> int:
    """Bytes that a process saves by keeping a share of head and embedding."""
    modules = end_modules(Loss(traced.loaded.model)) if shares else []
    return sum(module.weight.nbytes - share_bytes(module.weight.nbytes, shares) for module in modules)


def end_bytes(trainer: Trainer, target: Target) -> list[int]:
    """Bytes of the matrices outside of the layers that are split over processes with them; none where nothing is."""
    return [module.weight.nbytes for module in end_modules(trainer.loss_module)] if target.split else []


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


def _allocate_moments(trace: AllocationTrace, trainer: Trainer) -> None:
    for copy in trainer.optimizer.copies:
        trace.layer = trace.layer_of(copy)
        for _ in range(2):
            trace.allocate(trainer.optimizer.moment_bytes(copy) // 2, "optimizer")
    trace.layer = OUTSIDE
