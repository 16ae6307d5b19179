"""Sum up a fine-tune before it starts: its rows, steps, time and memory on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground import catalog, runs
from playground.catalog.cards import verdict
from playground.errors import PlaygroundError
from playground.memory import meter
from playground.model.dtype import default_bits
from playground.planning import rows
from playground.planning.advice import advice_for
from playground.planning.client import this_machine
from playground.planning.cost import epochs_of
from playground.planning.forecast import predict_full_rows
from playground.settings import Load, Settings
from playground.train.loop import total_steps

SAMPLE_ROWS = 500  # whose tokens are counted, so that a large set is summed up in about a second too


def tune_summary(settings: Settings, root: str = "", on_progress: Callable = rows.ignore_progress) -> dict:
    """What a fine-tune with these settings will do on this machine.

    root: the folder of the runs, to use the speed of an earlier one. Returns {"model" (name), "bits" (decided),
    "rows" (to train on), "epochs", "steps", "seconds" (of the whole run, or None where nothing tells), "seconds_source"
    ("measured": in an earlier run here, "table": predicted or estimated at a GPU's rates, training alone; None),
    "need_bytes" (of a fresh engine, of each of several on GPUs; None where it can't be predicted, and for several on a
    CPU), "processes", "capacity" (bytes), "verdict" (None without a need), "streamed" (layers:
    auto_streaming.streamed_facts), "exact" (whether the rows' own lengths were counted: else every row is taken at full
    length), "advice" (planning.advice)}.
    Raises PlaygroundError: rows that can't be read, none left, a model that nobody knows.
    """
    machine = _machine_for(settings.load)
    capacity = machine["bytes"]
    summary: dict[str, Any] = {
        "model": catalog.display_name(settings.load.model),
        "bits": settings.load.bits or default_bits(machine["device"]),
        "seconds": None,
        "seconds_source": None,
        "capacity": capacity,
        "processes": settings.train.num_processes,
    }
    try:
        cost = rows.cutoff_cost(
            settings, 0, capacity, machine["device"], machine["name"], SAMPLE_ROWS, root, on_progress
        )
    except PlaygroundError as error:
        if [problem.key for problem in error.problems] != ["error.tokenizer_absent"]:
            raise
        return (
            summary | _without_tokenizer(settings, machine, on_progress) | {"advice": advice_for(settings, None, None)}
        )
    memory = cost["memory"] or {"bytes": None, "trainable": None, "streamed": None}
    need = memory["bytes"]
    alone = settings.train.num_processes == 1
    need = need if alone or machine["device"] == "cuda" else None
    labelled = cost["trained"] * cost["rows"] / max(1, cost["counted"]) * min(1.0, cost["epochs"])
    return summary | {
        "rows": cost["rows"],
        "epochs": cost["epochs"],
        "steps": cost["steps"],
        **(_seconds(cost, root) if alone else {}),
        "need_bytes": need,
        "verdict": verdict(need, capacity) if need else None,
        "streamed": memory["streamed"],
        "exact": True,
        "advice": advice_for(settings, memory["trainable"], round(labelled)),
    }


def _machine_for(load: Load) -> dict[str, Any]:
    """The device that the engine will use: {"device", "name", "bytes" (of the simulated card, if there is one)}."""
    machine = this_machine()
    if machine["device"] == "cuda" and load.device == "cpu":
        cpu = meter.hardware("cpu")
        return {"device": "cpu", "name": cpu["name"], "bytes": cpu["capacity"]}
    if machine["device"] == "cuda" and load.simulate_gpu_gib:
        return machine | {"bytes": min(machine["bytes"], int(load.simulate_gpu_gib * 2**30))}
    return machine


def _seconds(cost: dict, root: str) -> dict[str, Any]:
    """Seconds of the run as measured in an earlier one, all its phases included, or else of training as predicted."""
    measured = cost["measured"]
    if measured:
        other = runs.seconds_besides_training(runs.find(Path(root), measured["run"]))
        return {"seconds": round(measured["seconds"] + other, 1), "seconds_source": "measured"}
    if cost["estimates"]:
        return {"seconds": cost["estimates"][0]["seconds"], "seconds_source": "table"}
    return {"seconds": None, "seconds_source": None}


def _without_tokenizer(settings: Settings, machine: dict[str, Any], on_progress: Callable) -> dict:
    """Rows, steps and memory of a model that isn't on this machine yet: its rows count at full length."""
    train = rows.count_rows(settings, on_progress)["train"]
    try:
        prediction = predict_full_rows(settings, machine["device"], machine["bytes"])
    except PlaygroundError:
        prediction = {"need": None, "streamed": None}
    need = prediction["need"] if settings.train.num_processes == 1 or machine["device"] == "cuda" else None
    return {
        "rows": train,
        "epochs": round(epochs_of(train, settings.train), 3),
        "steps": total_steps(train, settings.train),
        "need_bytes": need,
        "verdict": verdict(need, machine["bytes"]) if need else None,
        "streamed": prediction["streamed"],
        "exact": False,
    }
