"""How many layers to stream where a model doesn't fit: as few as that takes, or more where that is clearly faster."""

from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedConfig

from playground.catalog.cards import verdict
from playground.model.streamed_load import streaming_problem
from playground.model.streaming import BUFFERS
from playground.predict import phases
from playground.predict.traced_model import Target
from playground.settings import Settings

FASTER = 0.97  # of the work of fewer streamed layers: more of them leave more room, so that less is recomputed
# Share of the device that the choice plans with: at the edge the run itself plans for less room and offloads, which
# copies over the same bus (measured: OpenCALM-7B in 8 GiB, 25 layers, 67 % of its speed in 24 GiB)
PLANNED_SHARE = 0.97
TRIES = 4  # numbers beyond the least that are tried

Predict = Callable[[Settings], dict]


def choose_streamed_layers(predict: Predict, settings: Settings, layers: int, capacity: int) -> int | None:
    """The number of streamed layers for a job; 0 where it fits without, None where nothing makes it fit.

    predict: a prediction of the job under settings, of which "need" in bytes has to be at most `capacity`, and "work",
    if there, should be small. layers: how many the model has.
    """

    def predicted(count: int) -> dict:
        return predict(replace(settings, load=replace(settings.load, streamed_layers=str(count))))

    def fits(count: int) -> bool:
        return verdict(predicted(count)["need"], capacity) != "no"

    if fits(0):
        return 0
    least, most = BUFFERS + 1, layers
    if most < least or not fits(most):
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if fits(middle) else (middle + 1, most)
    chosen, work = least, predicted(least).get("work", 0.0)
    for count in sorted({least + (layers - least) * n // TRIES for n in range(1, TRIES + 1)} - {least}):
        other = predicted(count)
        if other.get("work", 0.0) < FASTER * work and verdict(other["need"], capacity) != "no":
            chosen, work = count, other["work"]
    return chosen


def can_stream(config: PreTrainedConfig, settings: Settings, layers: int) -> bool:
    """Whether a fine-tune leaves all weights alone, and the model's layers compute one after the other."""
    start_values = settings.lora.init != "default" or settings.lora.use_dora  # read all weights at once
    adapts = settings.train.method != "full" and not start_values
    return adapts and streaming_problem(config, layers, layers) is None


def streaming_need(config: PreTrainedConfig, target: Target, fine_tunes: bool) -> Predict:
    """A prediction by which the number of streamed layers is chosen: of loading, or of that and the whole fine-tune.

    The fine-tune's rows all have full length; without streamed layers, each is computed alone and recomputed: what fits
    so is never streamed.
    """

    target = replace(target, capacity=int(target.capacity * PLANNED_SHARE))

    def predict(settings: Settings) -> dict:
        loaded = phases.predict_load(config, settings, target)
        if not fine_tunes:
            return loaded
        train = settings.train
        rows = train.batch_size
        if settings.load.streamed_layers == "0":
            train = replace(train, gradient_checkpointing="all", micro_batch_size=1)
            settings, rows = replace(settings, train=train), 2
        tuned = phases.predict_tune(config, settings, target, [train.max_seq_length] * rows)
        return tuned | {"need": max(tuned["need"], loaded["need"])}

    return predict
