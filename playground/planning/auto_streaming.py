"""Predict a job as it would run: with the layers that it streams by the settings, or by what "auto" means for a GPU.

As the job itself would choose (engine/streaming.py).
"""

from dataclasses import replace

from transformers import PreTrainedConfig

from playground.catalog.cards import verdict
from playground.model.streamed_load import streaming_problem
from playground.planning import several
from playground.predict import meta_model, phases
from playground.predict.phases import Target
from playground.predict.streamed_choice import can_stream, choose_streamed_layers, streaming_need
from playground.predict.streamed_events import without_streaming
from playground.settings import Settings, streamed_count


def as_run(
    config: PreTrainedConfig, settings: Settings, target: Target, job: str, context: int
) -> tuple[Settings, dict]:
    """The settings with the number of layers that "auto" streams, if any, and the job's prediction with them.

    job: "load", "chat" (in context: so many tokens) or "tune". Raises PlaygroundError for a number of layers that can't
    be streamed.
    """
    layers, fine_tunes = layer_count(config, settings, target), job == "tune"
    _check_streamed_layers(config, settings, layers)
    prediction = _predict(config, settings, target, job, context)
    deciding = prediction if job != "chat" else _predict(config, settings, target, "load", context)
    streams = _streamed_settings(config, settings, target, layers, deciding["need"], fine_tunes)
    return (streams, _predict(config, streams, target, job, context)) if streams else (settings, prediction)


def layer_count(config: PreTrainedConfig, settings: Settings, target: Target) -> int:
    """How many repeated layers the model has."""
    load = without_streaming(settings.load)
    kinds = meta_model.model_facts(config, load, target.dtype, target.device).kinds
    return sum(len(stack) for stack in kinds)


def _predict(config: PreTrainedConfig, settings: Settings, target: Target, job: str, context: int) -> dict:
    if job == "load":
        return phases.predict_load(config, settings, several.checked_target(config, settings, target))
    if job == "chat":
        return phases.predict_chat(config, settings, target, context)
    return several.predict_tune(config, settings, target)


def _streamed_settings(
    config: PreTrainedConfig, settings: Settings, target: Target, layers: int, need: int, fine_tunes: bool
) -> Settings | None:
    """The settings with the number of layers that "auto" streams; None where they don't say so, or it streams none.

    layers: how many the model has; need: bytes that the job is predicted to take without streamed layers; fine_tunes:
    whether a fine-tune has to fit, not only the loaded model.
    """
    fits = not target.capacity or verdict(need, target.capacity) != "no"
    is_alone = settings.train.num_processes == 1 or not fine_tunes
    if fits or not is_alone or settings.load.streamed_layers != "auto" or target.device != "cuda":
        return None
    if not can_stream(config, settings if fine_tunes else Settings(), layers):
        return None
    count = choose_streamed_layers(streaming_need(config, target, fine_tunes), settings, layers, target.capacity)
    return replace(settings, load=replace(settings.load, streamed_layers=str(count))) if count else None


def _check_streamed_layers(config: PreTrainedConfig, settings: Settings, layers: int) -> None:
    """Raise PlaygroundError for a number of streamed layers that no job takes. layers: how many the model has."""
    count = streamed_count(settings.load)
    error = streaming_problem(config, layers, count) if count else None
    if error:
        raise error
