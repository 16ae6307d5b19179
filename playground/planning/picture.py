"""Answer the card picture's questions: the bar of a job at one bit width, and its tape, layer by layer.

Every function takes validated settings; the planning process parses them. job: "load", "chat" or "tune"; context:
tokens of a chat; capacity: bytes of the memory, 0: no limit; device: "cuda" or "cpu".
"""

from pathlib import Path

from transformers import PreTrainedConfig

from playground.catalog.cards import verdict
from playground.memory.cuda_snapshot import write_snapshot
from playground.planning import several
from playground.planning.auto_streaming import as_run, layer_count
from playground.planning.forecast import MIN_CONTEXT, check_context_length, resolve_target
from playground.predict import meta_model, snapshot, tape
from playground.settings import Settings, streamed_count


def bar(settings: Settings, job: str, context: int = 1024, capacity: int = 0, device: str = "cuda") -> dict:
    """What a job is predicted to need at the settings' bit width.

    Returns {"bits", "need" (bytes), "verdict" (None without a capacity), "parts": {part: bytes} that add up to the
    need: on a CPU with the `program` itself, on CUDA with its `runtime`}; where layers are streamed, by the settings or
    because the job only fits so, also "streamed": how many, of "layers". Raises PlaygroundError.
    """
    config = _checked_config(settings, job, context)
    settings, target = resolve_target(settings, device, capacity)
    settings, prediction = as_run(config, settings, target, job, max(context, MIN_CONTEXT))
    need, parts = prediction["need"], prediction["parts"]
    if device == "cpu":
        parts = parts | {"program": need - sum(parts.values())}
    fit = verdict(need, capacity) if capacity else None
    streamed = streamed_count(settings.load)
    further = {"streamed": streamed, "layers": layer_count(config, settings, target)} if streamed else {}
    return {"bits": settings.load.bits, "need": need, "verdict": fit, "parts": parts, **further}


def job_tape(settings: Settings, job: str, context: int = 1024, capacity: int = 0, device: str = "cuda") -> dict:
    """What a job holds in memory as it goes through the layers: {"tape": predict.tape.condense's, "reason": ""}.

    For a network without repeated layers that a trace can tell apart: {"tape": None, "reason": "layers"}. Raises
    PlaygroundError.
    """
    config = _checked_config(settings, job, context)
    settings, target = resolve_target(settings, device, capacity)
    settings, _ = as_run(config, settings, target, job, max(context, MIN_CONTEXT))
    if job == "load":
        built = tape.load_tape(config, settings, target)
    elif job == "chat":
        built = tape.chat_tape(config, settings, target, max(context, MIN_CONTEXT))
    else:
        built = tape.tune_tape(config, *several.own_step(config, settings, target))
    visited = {visit["layer"] for visit in built["visits"]}
    if not built["layers"] or not visited >= set(range(built["layers"])):
        return {"tape": None, "reason": "layers"}
    return {"tape": built, "reason": ""}


def write_tune_snapshot(settings: Settings, path: str | Path, capacity: int = 0, device: str = "cuda") -> None:
    """Write the predicted allocations of a fine-tune's step for PyTorch's memory viewer. Raises PlaygroundError."""
    config = _checked_config(settings, "tune", MIN_CONTEXT)
    settings, target = resolve_target(settings, device, capacity)
    settings, _ = as_run(config, settings, target, "tune", MIN_CONTEXT)
    write_snapshot(snapshot.tune_snapshot(config, *several.own_step(config, settings, target)), Path(path))


def _checked_config(settings: Settings, job: str, context: int) -> PreTrainedConfig:
    """The model's config. Raises PlaygroundError if it can't take rows of the job's length."""
    config = meta_model.config_of(settings.load.model)
    lengths = {"load": 1, "chat": context, "tune": settings.train.max_seq_length}
    check_context_length(config, lengths[job])
    return config
