"""Predict a fine-tune that several GPUs do together: with the whole model on each (DDP), or its weights split (FSDP2).

Of the processes, one a GPU, that with the most to do is predicted, by the functions that predict a run of several
processes as it starts (engine/predictions.py). Every function takes settings with a bit width, as resolve_target
returns them.
"""

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from playground.errors import PlaygroundError, Problem
from playground.memory import constants
from playground.predict import phases
from playground.predict.heaviest import one_of_team, own_share, predict_share
from playground.settings import PARALLEL_CHOICES, Settings, raise_all, streamed_count
from playground.train.parallel import Team


def predict_tune(config: PreTrainedConfig, settings: Settings, target: phases.Target) -> dict:
    """Predict a fine-tune whose rows all have full length (phases.predict_tune), by as many GPUs as the settings name.

    Of several, what one of them takes, without "calls": seconds of several processes were never measured. Raises
    PlaygroundError for settings that so many can't train with, and for a way of theirs that isn't predicted.
    """
    _, own, lengths = own_step(config, settings, target)
    prediction = predict_share(config, settings, own, lengths)
    if own.processes > 1:
        prediction.pop("calls")
    return prediction


def own_step(
    config: PreTrainedConfig, settings: Settings, target: phases.Target
) -> tuple[Settings, phases.Target, list[int]]:
    """What one of the settings' GPUs does of a step: the settings with its share of a batch, itself, its rows' lengths.

    Raises PlaygroundError as `predict_tune`.
    """
    own = own_share(settings, settings.train.num_processes)
    return own, checked_target(config, settings, target), full_rows(own)


def full_rows(settings: Settings) -> list[int]:
    """The lengths of a batch whose rows all have the full number of tokens."""
    return [settings.train.max_seq_length] * settings.train.batch_size


def checked_target(config: PreTrainedConfig, settings: Settings, target: phases.Target) -> phases.Target:
    """The target that is one of the settings' GPUs; for a single one, or a CPU, the same.

    Raises PlaygroundError as `predict_tune`.
    """
    load = settings.load
    if settings.train.num_processes == 1:
        return target
    team = Team.planned(settings, target.device)
    problems = team.problems(settings)
    if streamed_count(load):
        problems.append(Problem("error.streamed_processes"))
    raise_all(problems)
    return one_of_team(config, load, target, team)


def compare_ways(config: PreTrainedConfig, settings: Settings, target: phases.Target) -> dict[str, Any]:
    """What one GPU needs for this fine-tune alone, and each of several by either way.

    Returns {"count", "parallel" (the settings' way), "rows" (of a batch, that one GPU computes), "batch" (rows),
    "main_memory" (bytes that the programs take of it at least), "ways": {"one", "ddp", "fsdp2": {"need" (bytes of each
    GPU)}, or {"trouble": the error as a dict} where that can't be trained or predicted}}.
    """
    train = settings.train
    ways: dict[str, dict] = {"one": {"num_processes": 1}, **{way: {"parallel": way} for way in PARALLEL_CHOICES}}
    return {
        "count": train.num_processes,
        "parallel": train.parallel,
        "rows": own_share(settings, train.num_processes).train.batch_size,
        "batch": train.batch_size,
        "main_memory": train.num_processes * constants.CUDA_PROGRAM_RSS,
        "ways": {name: _need(config, settings, target, values) for name, values in ways.items()},
    }


def _need(config: PreTrainedConfig, settings: Settings, target: phases.Target, train: dict[str, Any]) -> dict:
    """A way's entry. train: the settings that it changes."""
    settings = replace(settings, train=replace(settings.train, **train))
    try:
        own = checked_target(config, settings, target)
        predicted = (predict_tune(config, settings, target), phases.predict_load(config, settings, own))
    except PlaygroundError as error:
        return {"trouble": error.to_dict()}
    return {"need": max(prediction["need"] for prediction in predicted)}
