"""Predict the memory of loading a model, chatting with it and fine-tuning it: from its config alone, without a GPU.

The program's own code runs on tensors without values (phase_traces.py, meta_model.py, allocation_trace.py), the
allocator is simulated (allocator.py), and what no trace can see is added from measured constants (memory/constants.py).
On as few layers as can represent all, with earlier results remembered (trace_cache.py).

Phases: load; chat, two rows of `context` tokens, base and tuned; tune, the heaviest optimizer step. A prediction is a
dict of bytes: `parts`, by part of the ledger, which add up to `allocated`, what tensors take at the peak; on CUDA
`reserved`, what torch's allocator takes, and `device_used`, what nvidia-smi shows, where `parts` includes the `runtime`
and adds up to that; on a CPU `rss`, the process's resident memory. `need` is the one of them that has to fit.
"""

from collections.abc import Sequence

from transformers import PreTrainedConfig

from playground.data.batch import Example
from playground.memory import constants
from playground.predict.allocation_trace import bytes_by_part, peak
from playground.predict.allocator import simulate_reserved
from playground.predict.cpu_memory import memory_outside_tensors
from playground.predict.phase_traces import end_bytes, trace_chat, trace_load, trace_tune
from playground.predict.start_values import start_value_bytes, with_start_values
from playground.predict.trace_cache import cached_prediction
from playground.predict.traced_model import Target, TracedModel
from playground.predict.work import calls_of, inputs_in_main_memory, update_calls
from playground.settings import Load, Settings, streamed_count
from playground.train.trainer import Trainer


@cached_prediction("load")
def predict_load(config: PreTrainedConfig, settings: Settings, target: Target) -> dict:
    """Predict the memory of loading.

    `parts` are what stays, and as `buffers` what the peak needs beyond that. On a CPU also "after": resident bytes once
    the model is loaded.
    """
    load, traced = settings.load, trace_load(config, settings, target)
    prediction = _prediction_from_trace(traced, target, "load", load)
    parts = bytes_by_part(traced.placed_events(load, target)[0])
    loaded = sum(parts.values())
    if prediction["allocated"] > loaded:
        parts["buffers"] = prediction["allocated"] - loaded
    if "runtime" in prediction["parts"]:
        parts["runtime"] = prediction["parts"]["runtime"]
    prediction["parts"] = parts
    if "rss" in prediction:
        prediction["after"] = loaded + memory_outside_tensors(traced, target, "loaded")
    return prediction


@cached_prediction("load")
def predict_chat(config: PreTrainedConfig, settings: Settings, target: Target, context: int) -> dict:
    """Predict the memory of an answer of `context` tokens with its prompt."""

    def summarize(traced: TracedModel) -> dict:
        prediction = _prediction_from_trace(traced, target, "chat", settings.load)
        return prediction | {"calls": [] if "streamed_layers" in prediction else calls_of(traced)}

    return trace_chat(summarize, config, settings, target, context)


@cached_prediction("load", "lora", "train")
def predict_tune(
    config: PreTrainedConfig,
    settings: Settings,
    target: Target,
    lengths: Sequence[int],
    labelled: Sequence[int] = (),
    prefix: int = 0,
    all_logits: bool = False,
    batching: str | None = None,
) -> dict:
    """Predict the memory of a fine-tune's optimizer step over rows of these lengths in tokens.

    Where an adapter's start values take more than the step, it is their memory (start_values.py).

    labelled: how many tokens of each row are labelled. prefix: how many tokens all rows begin with alike.
    all_logits: the loss isn't chunked. batching: the mode of train/batching.py, where it was tried on the model; None:
    the first that its config allows. The prediction also has, as planned for the target's capacity, "checkpointing",
    "budget", the most tokens in a micro-batch (0: no limit), and "work", a token's cost in forward passes; "tokens" and
    "rows" of the largest micro-batch; "batching", how rows are packed; the number of "trainable" parameters; and
    "main_memory" where gradients and optimizer state wait there. Raises PlaygroundError for settings that don't fit the
    model.
    """
    train = settings.train

    def summarize(traced: TracedModel, trainer: Trainer, rows: Sequence[Example]) -> dict:
        started = start_value_bytes(traced.loaded, settings.lora)
        ends = end_bytes(trainer, target)
        prediction = with_start_values(_prediction_from_trace(traced, target, "tune", settings.load, ends), started)
        policy, batcher, optimizer = trainer.plan.policy, trainer.batcher, trainer.optimizer
        at_once = train.micro_batch_size or min(train.batch_size, len(rows))
        largest = next(batcher.micro_batches(rows, at_once, policy.tokens))
        offloaded = optimizer.main_memory_bytes(traced.tensor_multiplicity)
        copies = offloaded or "streamed_layers" in prediction
        kept = offloaded + inputs_in_main_memory(traced) + constants.CUDA_PROGRAM_RSS
        return prediction | {
            **({"main_memory": kept} if offloaded else {}),
            "checkpointing": policy.checkpointing,
            "budget": policy.tokens if policy.tokens < sum(len(row.ids) for row in rows) else 0,
            "work": trainer.plan.forward_passes,
            "tokens": batcher.computed_tokens(largest),
            "rows": len(largest),
            "batching": batcher.mode,
            # what copying gradients and moments, or weights, takes isn't known, so that no seconds are predicted
            "calls": [] if copies else [*calls_of(traced), *update_calls(traced, optimizer)],
            "trainable": sum(p.numel() * traced.tensor_multiplicity(p) for p in optimizer.parameters),
        }

    return trace_tune(summarize, config, settings, target, lengths, labelled, prefix, all_logits, batching)


def _prediction_from_trace(
    traced: TracedModel, target: Target, phase: str, load: Load, ends: Sequence[int] = ()
) -> dict:
    """The prediction of a phase whose trace is complete; "main_memory" where weights wait there.

    ends: phase_traces.end_bytes.
    """
    events, waiting = traced.placed_events(load, target, ends)
    allocated, parts = peak(events)
    streamed = {}
    if waiting:
        program = constants.PROGRAM_RSS if target.device == "cpu" else constants.CUDA_PROGRAM_RSS
        kept = waiting + program + inputs_in_main_memory(traced)
        streamed = {"main_memory": kept} | ({} if target.waits else {"streamed_layers": streamed_count(load)})
    if target.device == "cpu":
        rss = allocated + waiting + memory_outside_tensors(traced, target, phase)
        return {"parts": parts, "allocated": allocated, "rss": rss, "need": rss} | streamed
    receiving = traced.receive_bytes(load, target, ends) if phase == "tune" else 0  # a load gathers nothing
    reserved = simulate_reserved(events) + receiving
    device_used = reserved + constants.cuda_runtime_bytes(phase, load, target.processes)
    return streamed | {
        "parts": parts | {"runtime": device_used - allocated},
        "allocated": allocated,
        "reserved": reserved,
        "device_used": device_used,
        "need": device_used,
    }
