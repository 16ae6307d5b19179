"""Trace a phase on as few layers as possible, and remember what was computed for earlier predictions.

After a slider has moved, most of the work is done already. Three caches, all of the least recently used kind:

- each phase's predictions (`cached_prediction`): a phase whose inputs didn't change is not traced again;
- shallow networks, ready to be traced (`ShallowTraces.networks`): other rows or batch sizes reuse them;
- the checkpoint interval that `auto` chose last (`ShallowTraces.intervals`): tracing begins with enough layers for it.

What is known of whole networks is remembered in meta_model.py, and operators' output shapes in call_cache.py.
"""

import logging
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import wraps
from typing import Any, Protocol

from transformers import PreTrainedConfig

from playground.errors import PlaygroundError
from playground.predict import meta_model
from playground.predict.lru import LruCache
from playground.predict.shallow_model import LayersDiffer, ShallowModel, choose_shallow_model
from playground.predict.streamed_events import without_streaming
from playground.predict.traced_model import MoreLayersNeeded, Target, TracedModel, checkpoint_interval
from playground.settings import Settings, Train

MAX_PREDICTIONS = 256  # of each phase
MAX_SHALLOW_NETWORKS = 12  # some MB each
# Fields of Train that say how many steps there are, how large each is, and what is measured between them.
OF_STEPS = (
    *("epochs", "max_steps", "lr", "schedule", "warmup", "save_every", "eval_rows", "eval_every", "patience"),
    *("measure_forgetting", "sample_every"),
)

logger = logging.getLogger(__name__)
_caches: list[LruCache[dict]] = []

Prepare = Callable[[TracedModel, Settings, Target], None]


class CachedPrediction(Protocol):
    """A function that predicts a phase, with its cache."""

    cache: LruCache[dict]
    __wrapped__: Callable[..., dict]

    def __call__(
        self, config: PreTrainedConfig, settings: Settings, target: Target, *args: Any, **kwargs: Any
    ) -> dict: ...


def cached_prediction(*sections: str) -> Callable[[Callable[..., dict]], CachedPrediction]:
    """Decorate a function (config, settings, target, …) that predicts a phase: remember its results.

    sections: of the settings that it depends on. It depends on the target's capacity only if it depends on "train".
    """

    def decorate(predict: Callable[..., dict]) -> CachedPrediction:
        cache: LruCache[dict] = LruCache(MAX_PREDICTIONS)
        _caches.append(cache)

        @wraps(predict)
        def cached(config: PreTrainedConfig, settings: Settings, target: Target, *args: Any, **kwargs: Any) -> dict:
            key = (
                meta_model.config_key(config),
                target if "train" in sections else replace(target, capacity=0),
                *(_deciding(getattr(settings, section)) for section in sections),
                *map(_hashable, args),
                *((name, _hashable(value)) for name, value in kwargs.items()),
            )
            prediction = cache.get_or_compute(key, lambda: predict(config, settings, target, *args, **kwargs))
            return prediction | {"parts": dict(prediction["parts"])}  # a copy, which the caller may change

        cached.cache = cache  # type: ignore[attr-defined]
        return cached  # type: ignore[return-value]

    return decorate


def keep_predictions(count: int) -> None:
    """Remember at most `count` predictions of each phase of those modules that are imported by now."""
    for cache in _caches:
        cache.maxsize = count


class ShallowTraces:
    """What is kept of shallow networks from one prediction to the next."""

    def __init__(self) -> None:
        self.networks: LruCache[TracedModel] = LruCache(MAX_SHALLOW_NETWORKS)
        self.intervals: LruCache[int] = LruCache(meta_model.MAX_KNOWN_MODELS)  # that `auto` chose, by kinds of layers

    def prepared(
        self, config: PreTrainedConfig, target: Target, shallow: ShallowModel, prepare: Prepare
    ) -> TracedModel:
        """A fork of the shallow network after `prepare`."""
        settings = shallow.settings
        key = (
            meta_model.config_key(shallow.config),
            shallow.regions,
            shallow.interval,
            target.device,
            target.dtype,
            prepare,
            without_streaming(settings.load),
            settings.lora,
            settings.train.method,
            settings.train.seed,
        )

        def build() -> TracedModel:
            traced = TracedModel(config, settings.load, target, shallow)
            prepare(traced, settings, target)
            return traced

        return self.networks.get_or_compute(key, build).fork()


shallow_traces = ShallowTraces()


def no_preparation(traced: TracedModel, settings: Settings, target: Target) -> None:
    """For phases that run on the network as it was loaded."""


def trace_phase(
    trace: Callable[[TracedModel, Settings, Target], dict],
    config: PreTrainedConfig,
    settings: Settings,
    target: Target,
    interval: int = 1,
    prepare: Prepare = no_preparation,
) -> dict:
    """What `trace` predicts from a shallow network; from all layers where no shallow one can represent them.

    interval: every how many layers one is treated apart. prepare: what is done to a network before it is traced;
    shallow networks are kept after it. It may depend on how the model is loaded and on what is trained, on nothing
    else.
    """
    kinds = meta_model.model_facts(config, without_streaming(settings.load), target.dtype, target.device).kinds
    if settings.train.gradient_checkpointing == "auto":
        interval = max(interval, shallow_traces.intervals.get(kinds) or 1)
    try:
        while shallow := choose_shallow_model(config, settings, kinds, interval):
            try:
                prediction = trace(shallow_traces.prepared(config, target, shallow, prepare), shallow.settings, target)
            except MoreLayersNeeded as error:
                interval = error.interval
                continue
            except Exception:
                shallow_traces.networks.clear()  # the network may have been left in any state
                raise
            if "checkpointing" in prediction:
                shallow_traces.intervals.put(kinds, checkpoint_interval(prediction["checkpointing"]))
            return prediction
    except (LayersDiffer, PlaygroundError):  # settings that don't fit the model raise the same from all layers
        logger.info("tracing all layers of %s instead of a shallow network", config.model_type, exc_info=True)
    traced = TracedModel(config, settings.load, target, None)
    prepare(traced, settings, target)
    return trace(traced, settings, target)


def _deciding(section: Any) -> Any:
    """A section of the settings with the default of every field that changes no prediction of a phase."""
    if not isinstance(section, Train):
        return section
    return replace(section, **{name: getattr(Train, name) for name in OF_STEPS})


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, (list, tuple)) else value
