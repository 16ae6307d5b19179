"""How many layers a job streams: those of the settings, or the number that "auto" means for a GPU of so much memory.

As the job itself would choose (engine/streaming.py).
"""

from dataclasses import replace

from transformers import PreTrainedConfig

from playground.catalog.cards import verdict
from playground.model.streamed_load import streaming_problem
from playground.predict.phases import Target
from playground.predict.streamed_choice import can_stream, choose_streamed_layers, streaming_need
from playground.settings import Settings, streamed_count


def streamed_settings(
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


def check_streamed_layers(config: PreTrainedConfig, settings: Settings, layers: int) -> None:
    """Raise PlaygroundError for a number of streamed layers that no job takes. layers: how many the model has."""
    count = streamed_count(settings.load)
    error = streaming_problem(config, layers, count) if count else None
    if error:
        raise error
