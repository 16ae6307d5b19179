"""Answer how long loading a model takes on this machine, by the state of its files now: never remembered."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedConfig

from playground.errors import PlaygroundError
from playground.planning.auto_streaming import as_run
from playground.planning.durations import rates_for
from playground.planning.forecast import MIN_CONTEXT, resolve_target
from playground.predict import meta_model
from playground.predict.load_seconds import predict_load_seconds
from playground.predict.phases import Target
from playground.settings import Load, Settings


def load_times(settings: Settings, widths: Sequence[int], capacity: int = 0, device: str = "cuda") -> dict[str, dict]:
    """What a load takes at some bit widths (0: the one that "auto" means), of those whose seconds are known.

    Returns {width: {"card", "unit" ("load"), "seconds", "source" (Rates.trust), "stored": where most of the files are,
    "memory", "disk" or "absent" (not on this machine, so that the download comes before)}}. Known are none on another
    machine, of several GPUs, or of streamed layers. Raises PlaygroundError for a model that there isn't.
    """
    if settings.train.num_processes > 1 or not any(rates.loads for rates, _ in rates_for(device, capacity)):
        return {}
    config = meta_model.config_of(settings.load.model)
    times = {}
    for bits in widths:
        at_width, target = resolve_target(replace(settings, load=replace(settings.load, bits=bits)), device, capacity)
        with contextlib.suppress(OSError, PlaygroundError):  # said where that width is predicted, or loaded
            at_width, _ = as_run(config, at_width, target, "load", MIN_CONTEXT)
            if time := _time(config, at_width.load, target):
                times[str(bits)] = time
    return times


def _time(config: PreTrainedConfig, load: Load, target: Target) -> dict | None:
    for rates, _ in rates_for(target.device, target.capacity):
        found = predict_load_seconds(config, load, target.dtype, rates)
        if found:
            shown = {"seconds": round(found["seconds"], 3), "source": found["source"], "stored": found["stored"]}
            return {"card": rates.name, "unit": "load", **shown}
    return None
