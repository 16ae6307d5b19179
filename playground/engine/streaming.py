"""Decide how many layers are streamed from main memory, before anything is loaded, and say which they are.

And say how a model's layers are split over several processes.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace

from transformers import PreTrainedConfig

from playground.engine.job import JobContext
from playground.errors import PlaygroundError, problem
from playground.memory import main_memory
from playground.memory.card_limit import available_memory
from playground.model.dtype import compute_dtype
from playground.model.load import LoadedModel
from playground.model.streamed_load import splitting_problem, streaming_problem
from playground.predict import meta_model
from playground.predict.phases import Target
from playground.predict.streamed_choice import can_stream, choose_streamed_layers, streaming_need
from playground.settings import Load, Settings, streamed_count

logger = logging.getLogger(__name__)


def decided_load(context: JobContext, config: PreTrainedConfig, settings: Settings, fine_tunes: bool) -> Load:
    """The load settings with a number of streamed layers; "auto" becomes 0 wherever the model fits without.

    fine_tunes: whether these settings' fine-tune has to fit, not only the loaded model. Raises PlaygroundError for a
    number of layers that this model can't be streamed with, for several processes, and for a model that can't be split
    over them where they split it.
    """
    load, device = settings.load, context.team.device
    count = streamed_count(load)
    if context.team.splits_bytes and fine_tunes:
        error = splitting_problem(config, _layers(config, load, _target(load, device)))
        if error:
            raise error
    if count:
        _check(context, config, load, count)
        return load
    if load.streamed_layers != "auto" or device != "cuda" or not context.is_alone:
        return replace(load, streamed_layers="0")
    try:
        target = Target(device, compute_dtype(load, device)[0], available_memory(load, device))
        layers = _layers(config, load, target)
        if not can_stream(config, settings if fine_tunes else Settings(), layers):
            return replace(load, streamed_layers="0")
        need = streaming_need(config, target, fine_tunes)
        chosen = choose_streamed_layers(need, settings, layers, target.capacity)
    except Exception:  # what can't be predicted is loaded as it always was
        logger.exception("how many layers to stream can't be predicted")
        chosen = None
    return replace(load, streamed_layers=str(chosen or 0))


def check_main_memory(prediction: dict, processes: int) -> None:
    """Raise PlaygroundError where the layers of all processes that wait in main memory need more than there is."""
    need, room = processes * prediction.get("main_memory", 0), main_memory.available_main_memory()
    if need > room:
        raise problem("error.streamed_main_memory", need_bytes=need, capacity_bytes=room)


def placement_events(loaded: LoadedModel, processes: int) -> Iterator[dict]:
    """A `streamed` event, which says which layers are streamed, or split over so many processes, where any are."""
    layers = loaded.streamed or loaded.split
    if layers:
        split = {"processes": processes} if loaded.split else {}
        numbers, total = layers.numbers, len(layers.layers)
        yield {"kind": "streamed", "layers": numbers, "total": total, "bytes": layers.bytes, **split}


def placement_notes(loaded: LoadedModel, processes: int) -> Iterator[dict]:
    """The same as a note."""
    if loaded.split:
        values = {"processes": processes, "layers": len(loaded.split.layers), "size_bytes": loaded.split.bytes}
        yield {"kind": "note", "key": "note.split_weights", "values": values}
    if loaded.streamed:
        streamed = loaded.streamed
        values = {"count": len(streamed.numbers), "layers": len(streamed.layers), "size_bytes": streamed.bytes}
        yield {"kind": "note", "key": "note.streamed", "values": values}


def _check(context: JobContext, config: PreTrainedConfig, load: Load, count: int) -> None:
    if not context.is_alone:
        raise problem("error.streamed_processes")
    target = _target(load, context.team.device)
    error: PlaygroundError | None = streaming_problem(config, _layers(config, load, target), count)
    if error:
        raise error


def _target(load: Load, device: str) -> Target:
    return Target(device, compute_dtype(load, device)[0])


def _layers(config: PreTrainedConfig, load: Load, target: Target) -> int:
    plain = replace(load, streamed_layers="0")
    return meta_model.model_facts(config, plain, target.dtype, target.device).layers
