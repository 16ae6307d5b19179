"""What a model and a fine-tune will take, before either is there: from the config alone, on no GPU.

The program's own code is run on shapes without values (shape.py, trace.py), the allocator is simulated (allocator.py), and
what no trace sees is added from a table (table.py). Phases: load; chat, two rows of `context` tokens, base and tuned; tune,
the heaviest optimizer step. Each has `parts`, which add up to `allocated`, and on CUDA `reserved` and `device`, what nvidia-smi
shows; on a CPU `resident`, the whole program's main memory.

A few layers are traced where they can stand for all (few.py), and what was predicted once is remembered: after a slider has
moved, only the phases that depend on it are predicted anew.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedConfig, PreTrainedModel

from playground.data.batch import Example
from playground.memory import constants
from playground.memory.ledger import tensors_by_part
from playground.model import adapt
from playground.model.load import LoadedModel
from playground.predict.allocation_trace import AllocationTrace, book_layer_stack, booked_as, peak
from playground.predict.allocator import simulate_reserved
from playground.predict.trace_cache import Target, TracedModel, cached_prediction, checkpoint_interval, trace_shallow
from playground.settings import Lora, Settings, Train
from playground.train.loop import Trainer, training_mode
from playground.train.parallel import Team
from playground.train.prepare import build_trainer, make_trainable

LABELLED_SHARE = 0.6  # of a row's tokens, where no rows are given: a guess
CHAT_ROWS = 2  # rows: base and tuned


@cached_prediction
def predict_load(config: PreTrainedConfig, settings: Settings, place: Target) -> dict:
    """The phase `load`: weights as they come in, each of those that are quantized in 16 bits at first.

    On a CPU also "after": resident once the model is there, and the file's pages are gone if they go.
    """
    traced = TracedModel(config, settings.load, place, None, empty=True)
    loaded, tape = traced.loaded, traced.tape
    if place.device == "cuda":
        tape.passing(_warm_up(loaded), "weights")
    for tensor, quant_constants in _arriving(loaded.model):
        whole = tape.keep(_before_quantizing(tensor) * place.dtype.itemsize, "buffers")
        tape.hold("weights", tensor)
        for constant in quant_constants:
            tape.hold("quant_constants", constant)
        tape.drop(whole)
    told, parts = _prediction(traced, place, "load", settings.load.bits), {}
    for _, size, part in tape.events:
        parts[part] = parts.get(part, 0) + size
    parts = {part: size for part, size in parts.items() if size}  # as it stays; beside it, what came and went
    passed = {"buffers": told["allocated"] - sum(parts.values())} if told["allocated"] > sum(parts.values()) else {}
    runtime = {"runtime": told["parts"]["runtime"]} if "runtime" in told["parts"] else {}
    after = (
        {"after": sum(parts.values()) + _memory_beside_tensors(traced, place, "after", settings.load.bits)}
        if "rss" in told
        else {}
    )
    return told | {"parts": parts | passed | runtime} | after


def _arriving(model: PreTrainedModel) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Each weight and what is kept beside it, in the order in which transformers loads them: by name, numbers as numbers, the head first."""
    head = model.get_output_embeddings().weight
    names = {id(tensor): name.split(".") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    found: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    for part, tensor in tensors_by_part(model):
        if part == "quant_constants":
            found[-1][1].append(tensor)
        else:
            found.append((tensor, []))
    found.sort(
        key=lambda pair: [
            (pair[0] is not head, 0, ""),
            *((not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in names.get(id(pair[0]), ())),
        ]
    )
    return found


def _warm_up(loaded: LoadedModel) -> int:
    """Bytes that transformers takes and gives back before it loads (caching_allocator_warmup): about the weights'."""
    own = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for part, tensor in tensors_by_part(loaded.model)
        if part == "weights"
    }
    return sum(own.values())


def _before_quantizing(tensor: torch.Tensor) -> int:
    """How many numbers wait on the device to be quantized into this tensor; 0 for one that isn't quantized."""
    if getattr(tensor, "quant_state", None) is not None:
        return tensor.quant_state.shape.numel()
    return 2 * tensor.numel() if getattr(tensor, "SCB", None) is not None else 0  # LLM.int8() makes a copy in float16


@cached_prediction
def predict_chat(config: PreTrainedConfig, settings: Settings, place: Target, context: int) -> dict:
    """The phase `chat`: prompts are read, and the last token is written, with `context` tokens in all.

    Of a model with an encoder, that reads one half of them and writes the other.
    """
    return trace_shallow(partial(_chat, context=context), config, replace(settings, lora=Lora(), train=Train()), place)


def _chat(traced: TracedModel, settings: Settings, place: Target, context: int) -> dict:
    loaded, tape = traced.loaded, traced.tape
    with torch.no_grad(), tape:
        if place.device == "cuda":
            tape.keep(constants.CUBLAS_WORKSPACE, "buffers")
        with booked_as(tape, "activations"):
            for inputs in first_and_last(loaded.model, context, partial(_hold_layer, tape)):
                _hold_cache(tape, loaded.model(**inputs, use_cache=True).past_key_values)
    return _prediction(traced, place, "chat", settings.load.bits)


def first_and_last(model: PreTrainedModel, context: int, hold: Callable = lambda layer: None) -> Iterator[dict]:
    """What the model reads at first, and then with a cache of all but one of `context` tokens; it is called in between.

    hold: is told of each layer of a cache that is filled up here. The cache is passed on from what the model returned.
    """
    ids = partial(torch.zeros, dtype=torch.long, device=model.device)
    if not model.config.is_encoder_decoder:
        cache = DynamicCache(config=model.config)
        yield {"input_ids": ids(CHAT_ROWS, context - 1), "past_key_values": cache, "logits_to_keep": 1}
        yield {
            "input_ids": ids(CHAT_ROWS, 1),
            "past_key_values": cache,
            "position_ids": torch.full((CHAT_ROWS, 1), context - 1, device=model.device),
        }
        return
    reads, states = context // 2, model.get_encoder()(input_ids=ids(CHAT_ROWS, context // 2))
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    yield {"encoder_outputs": states, "decoder_input_ids": ids(CHAT_ROWS, 1), "past_key_values": cache}
    for layer in cache.self_attention_cache.layers:
        layer.keys, layer.values = (
            tensor.expand(-1, -1, context - reads - 1, -1).contiguous() for tensor in (layer.keys, layer.values)
        )
        hold(layer)
    yield {"encoder_outputs": states, "decoder_input_ids": ids(CHAT_ROWS, 1), "past_key_values": cache}


@cached_prediction
def predict_tune(
    config: PreTrainedConfig,
    settings: Settings,
    place: Target,
    lengths: Sequence[int],
    labelled: Sequence[int] = (),
    prefix: int = 0,
    all_logits: bool = False,
) -> dict:
    """The phase `tune`: a step over rows of these lengths, in tokens, of which so many are `labelled`, and all begin with the same `prefix`.

    all_logits: as if the loss weren't chunked. Beside the usual: "checkpointing" and "budget" of tokens, as planned for what
    the place has, and the "work" of a token under them, in forward passes; "tokens" and "rows" at once; "batching", how they
    are packed; "trainable" parameters. Raises PlaygroundError for settings that don't fit the model.
    """
    labelled = labelled or [max(1, round(n * LABELLED_SHARE)) for n in lengths]
    rows = [
        Example([5] * prefix + [6 + row] * (n - prefix), max(1, n - part))
        for row, (n, part) in enumerate(zip(lengths, labelled))
    ]
    settings = replace(
        settings, train=replace(settings.train, batch_size=min(settings.train.batch_size, len(rows)), compile="off")
    )
    return trace_shallow(
        partial(_tune, rows=rows, all_logits=all_logits),
        config,
        settings,
        place,
        checkpoint_interval(settings.train.gradient_checkpointing),
        _learning,
    )


def _learning(traced: TracedModel, settings: Settings, place: Target) -> None:
    """The network as it learns, before anything depends on rows."""
    for _ in range(2 if place.device == "cuda" else 0):  # the thread that goes forward, and autograd's
        traced.tape.keep(constants.CUBLAS_WORKSPACE, "buffers")
    with traced.tape:
        traced.tape.layer = None
        make_trainable(traced.loaded, settings)
    traced.know()


def _tune(traced: TracedModel, settings: Settings, place: Target, rows: Sequence[Example], all_logits: bool) -> dict:
    loaded, tape, train = traced.loaded, traced.tape, settings.train
    room = (
        place.capacity
        - constants.cuda_runtime_bytes("tune", settings.load.bits)
        - 2 * constants.CUBLAS_WORKSPACE
        - traced.weights
        if place.capacity
        else 2**60
    )
    with tape:
        trainer = build_trainer(
            loaded, settings, rows, [], Team("meta"), room, lambda tensor: traced.count(tape.of(tensor))
        )
        policy, batcher = trainer.plan.policy, trainer.batcher
        traced.check(policy)
        trainer.loss_module.chunked &= not all_logits
        _hold_trained(tape, loaded, trainer)
        _step(tape, trainer, rows, train.micro_batch_size or train.batch_size)
    told = _prediction(traced, place, "tune", settings.load.bits)
    part = next(batcher.parts(rows, train.micro_batch_size or train.batch_size, policy.tokens))
    return told | {
        "checkpointing": policy.checkpointing,
        "budget": policy.tokens if policy.tokens < sum(len(row.ids) for row in rows) else 0,
        "work": trainer.plan.work,
        "tokens": batcher.size(part),
        "rows": len(part),
        "batching": batcher.mode,
        "trainable": sum(p.numel() * traced.count(tape.of(p)) for p in trainer.optimizer.parameters),
    }


def _step(tape: AllocationTrace, trainer: Trainer, rows: Sequence[Example], at_once: int) -> None:
    """One optimizer step as it is from the second on, the optimizer's averages there already; of many micro-batches, two."""
    for copy in trainer.optimizer.copies:
        tape.layer = tape.of(copy)
        tape.keep(trainer.optimizer.moment_bytes(copy) // 2, "optimizer")
        tape.keep(trainer.optimizer.moment_bytes(copy) // 2, "optimizer")
    parts = sorted(
        trainer.batcher.parts(rows, at_once, trainer.plan.policy.tokens), key=trainer.batcher.size, reverse=True
    )
    network = trainer.batcher.model
    stacks = (
        [network.get_encoder(), network.get_decoder()]
        if trainer.batcher.encoder
        else [getattr(network, network.base_model_prefix, None)]
    )
    hooks = [hook for stack in stacks if stack is not None for hook in book_layer_stack(tape, stack)]
    with training_mode(trainer, learning=True):
        for part in parts[:2]:
            with booked_as(tape, "loss"):
                loss = trainer.loss_module(trainer.batcher.batch(part)) * 1.0
                tape.part = "activations"
                trainer.optimizer.backward(loss)
                del loss
            for gradient in trainer.optimizer.gradients():
                tape.hold("gradients", gradient)
    for hook in hooks:
        hook.remove()


def _hold_trained(tape: AllocationTrace, loaded: LoadedModel, trainer: Trainer) -> None:
    for part, tensor in tensors_by_part(loaded.model):
        tape.hold(part, tensor)
    if trainer.optimizer.copies is not trainer.optimizer.parameters:
        for copy, parameter in zip(trainer.optimizer.copies, trainer.optimizer.parameters):
            tape.know(tape.of(parameter), [copy])
            tape.hold("optimizer", copy)


def _hold_cache(tape: AllocationTrace, cache) -> None:
    apart = (
        (cache.self_attention_cache, cache.cross_attention_cache)
        if isinstance(cache, EncoderDecoderCache)
        else (cache,)
    )
    for layer in (layer for one in apart for layer in one.layers):
        _hold_layer(tape, layer)


def _hold_layer(tape: AllocationTrace, layer) -> None:
    for tensor in (layer.keys, layer.values):
        tape.know(tape.of(tensor), [tensor])
        tape.hold("kv_cache", tensor)


def _memory_beside_tensors(traced: TracedModel, place: Target, phase: str, bits: int) -> int:
    """Bytes of main memory beside tensors: the program, its kernels, the tokenizer, and pages of the file that weights were read from.

    A file of 16 bits a weight is assumed, which is mapped and read (load.read_in). Weights of 16 bits lie in its pages themselves;
    where they are made into 32 bits the pages go once they are; where into fewer, those that are left as they were keep the
    whole file, and are in it.
    """
    model, pages = traced.loaded.model, 0

    def count(sizes: Iterable[tuple[torch.Tensor, int]]) -> int:
        return sum(traced.count(traced.tape.of(tensor)) * size for tensor, size in sizes)

    base = [p for name, p in model.named_parameters() if "lora_" not in name]
    if bits > 16:
        pages = 2 * count((p, p.numel()) for p in base) if phase == "load" else 0
    elif bits < 16:
        pages = 2 * count(
            (m.weight, m.in_features * m.out_features)
            for m in adapt.linear_layers(model).values()
            if hasattr(m, "in_features") and m.weight.dtype.itemsize == 1
        )
    vocabulary = model.config.get_text_config().vocab_size
    return (
        constants.PROGRAM_RSS
        + constants.TOKENIZER_BYTES_PER_TOKEN * vocabulary
        + pages
        + (constants.CPU_KERNELS[place.dtype] if phase in ("chat", "tune") else 0)
    )


def _prediction(traced: TracedModel, place: Target, phase: str, bits: int) -> dict:
    events = traced.events()
    allocated, parts = peak(events)
    if place.device == "cpu":
        rss = allocated + _memory_beside_tensors(traced, place, phase, bits)
        return {"parts": parts, "allocated": allocated, "rss": rss, "need": rss}
    taken = simulate_reserved(events)
    device = taken + constants.cuda_runtime_bytes(phase, bits)
    return {
        "parts": parts | {"runtime": device - allocated},
        "allocated": allocated,
        "reserved": taken,
        "device_used": device,
        "need": device,
    }
