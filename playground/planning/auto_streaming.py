"""Predict a job as it would run: with the layers that it streams by the settings, or by what "auto" means for a GPU.

As the job itself would choose (engine/streaming.py).
"""

import math
from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedConfig

from playground.model.streamed_load import streaming_problem
from playground.planning import several
from playground.predict import meta_model, phases
from playground.predict.phases import Target
from playground.predict.streamed_choice import can_stream, choose_streamed_layers, streaming_need
from playground.predict.streamed_events import STREAMED_PARTS, without_streaming
from playground.settings import Settings, streamed_count


def as_run(
    config: PreTrainedConfig, settings: Settings, target: Target, job: str, context: int
) -> tuple[Settings, dict]:
    """`predict_as_run` of a job whose rows all have full length.

    job: "load", "chat" or "tune". context: tokens of the chat.
    """
    return predict_as_run(config, settings, target, job, lambda chosen: _predict(config, chosen, target, job, context))


def predict_as_run(
    config: PreTrainedConfig, settings: Settings, target: Target, job: str, predict: Callable[[Settings], dict]
) -> tuple[Settings, dict]:
    """The settings with the number of layers that "auto" streams, if any, and the job's prediction with them.

    predict: the prediction under settings. Raises PlaygroundError for a number of layers that can't be streamed.
    """
    layers = layer_count(config, settings, target)
    _check_streamed_layers(config, settings, layers)
    prediction = predict(settings)
    deciding = prediction if job != "chat" else phases.predict_load(config, settings, target)
    streams = _streamed_settings(config, settings, target, layers, deciding, job == "tune")
    return (streams, predict(streams)) if streams else (settings, prediction)


def resolved(config: PreTrainedConfig, settings: Settings, target: Target, job: str) -> Settings:
    """The settings with the number of layers that "auto" streams in a "load" or a "tune", if any."""
    layers = layer_count(config, settings, target)
    if not _may_stream(config, settings, target, layers, job == "tune"):
        return settings
    return as_run(config, settings, target, job, 0)[0]


def streamed_facts(config: PreTrainedConfig, settings: Settings, target: Target, prediction: dict) -> dict | None:
    """{"count", "layers" (of the model), "main_bytes"} of a job that is predicted to stream layers; else None."""
    count = prediction.get("streamed_layers")
    if not count:
        return None
    layers = layer_count(config, settings, target)
    return {"count": count, "layers": layers, "main_bytes": prediction["main_memory"]}


def layer_count(config: PreTrainedConfig, settings: Settings, target: Target) -> int:
    """How many repeated layers the model has."""
    load = without_streaming(settings.load)
    return meta_model.model_facts(config, load, target.dtype, target.device).layers


def _predict(config: PreTrainedConfig, settings: Settings, target: Target, job: str, context: int) -> dict:
    if job == "load":
        return phases.predict_load(config, settings, several.checked_target(config, settings, target))
    if job == "chat":
        return phases.predict_chat(config, settings, target, context)
    return several.predict_tune(config, settings, target)


def _streamed_settings(
    config: PreTrainedConfig, settings: Settings, target: Target, layers: int, prediction: dict, fine_tunes: bool
) -> Settings | None:
    """The settings with the number of layers that "auto" streams; None where they don't say so, or it streams none.

    layers: how many the model has; prediction: of the job without streamed layers; fine_tunes: whether a fine-tune has
    to fit, not only the loaded model.
    """
    may_stream = _may_stream(config, settings, target, layers, fine_tunes)
    if not may_stream or _most_need(prediction, settings, fine_tunes) <= target.capacity:
        return None
    count = choose_streamed_layers(streaming_need(config, target, fine_tunes), settings, layers, target.capacity)
    return replace(settings, load=replace(settings.load, streamed_layers=str(count))) if count else None


def _may_stream(config: PreTrainedConfig, settings: Settings, target: Target, layers: int, fine_tunes: bool) -> bool:
    """Whether "auto" streams layers of this model where it doesn't fit."""
    is_alone = settings.train.num_processes == 1 or not fine_tunes
    is_auto = settings.load.streamed_layers == "auto" and target.device == "cuda" and target.capacity > 0
    return is_auto and is_alone and can_stream(config, settings if fine_tunes else Settings(), layers)


def _most_need(prediction: dict, settings: Settings, fine_tunes: bool) -> float:
    """Bytes that are enough without streamed layers, whatever the rows, as a prediction of some rows tells.

    A run streams by what one row of full length takes, with all layers recomputed and nothing offloaded: what more
    tokens take is enough, and of fewer tokens all but the weights may grow with their square. (Loading took less, with
    every model of the catalog.)
    """
    need = prediction["need"]
    if not fine_tunes:
        return need
    if prediction["checkpointing"] == "offload":
        return math.inf
    weights = sum(prediction["parts"].get(part, 0) for part in STREAMED_PARTS)
    longer = max(1.0, settings.train.max_seq_length / prediction["tokens"])
    return weights + (need - weights) * longer**2


def _check_streamed_layers(config: PreTrainedConfig, settings: Settings, layers: int) -> None:
    """Raise PlaygroundError for a number of streamed layers that no job takes. layers: how many the model has."""
    count = streamed_count(settings.load)
    error = streaming_problem(config, layers, count) if count else None
    if error:
        raise error
