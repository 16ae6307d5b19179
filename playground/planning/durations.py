"""Predict durations for a plan: a step's and a whole run's, on this machine or on a GPU of the catalog."""

from collections.abc import Callable
from functools import cache
from typing import Any

from playground.catalog.cards import cards
from playground.planning.client import this_machine
from playground.predict.seconds import predict_step_seconds, predict_token_seconds
from playground.speed.machine_rates import rates_of_machine
from playground.speed.rates import Rates

# What is timed of a phase, and how.
TIMED: dict[str, tuple[str, Callable[[Any, Rates], dict | None]]] = {
    "chat": ("token", predict_token_seconds),
    "tune": ("step", predict_step_seconds),
}

_machine = cache(this_machine)  # asks the GPU's driver


def rates_for(device: str, capacity: int) -> list[tuple[Rates, dict]]:
    """What a device reaches that is known by its memory alone: this machine's, or a GPU size of the catalog.

    As rates_of_machine returns it.
    """
    here = _machine()
    if device == here["device"] and (device == "cpu" or capacity == here["bytes"]):
        return rates_of_machine(device, here["name"])
    card = next((card for card in cards() if card["bytes"] == capacity), None)
    return rates_of_machine(device, card["id"]) if card and device == "cuda" else []


def with_durations(predictions: dict[str, dict], device: str, capacity: int) -> dict[str, dict]:
    """Predictions by phase without their calls; a fine-tune's and a chat's with "time", where speeds are known.

    "time": [{"card", "unit" ("step", "token"), "seconds" of one, "source" (Rates.trust)}].
    """
    rates = rates_for(device, capacity)
    timed = {phase: without_calls(prediction) for phase, prediction in predictions.items()}
    for phase, (unit, predict) in TIMED.items():
        prediction = predictions.get(phase, {})
        calls = prediction.get("calls")
        found = [(one, predict(calls, one)) for one, _ in rates] if calls else []
        time = [
            {"card": one.name, "unit": unit, "seconds": round(seconds["seconds"], 5), "source": seconds["source"]}
            for one, seconds in found
            if seconds
        ]
        if time:
            timed[phase]["time"] = time
    return timed


def without_calls(prediction: dict) -> dict:
    """A prediction without what only its seconds are computed from: thousands of numbers."""
    return {name: value for name, value in prediction.items() if name != "calls"}


def run_durations(prediction: dict, device: str, name: str, steps: int) -> list[dict]:
    """The duration of that many steps on a device (a GPU's id in the catalog, or a device's name), by each of its GPUs.

    prediction: predict_heaviest_step's. Returns [{"card", "seconds", "bound" ("compute" or "launch"), "source"
    (Rates.trust), "sheet" (the data sheet that an estimate rests on)}].
    """
    durations = []
    for rates, peak in rates_of_machine(device, name):
        step = predict_step_seconds(prediction["calls"], rates, prediction["mean_share"])
        if step:
            durations.append(
                {
                    "card": rates.name,
                    "seconds": round(step["seconds"] * steps, 1),
                    "bound": step["bound"],
                    "source": step["source"],
                    "sheet": peak.get("source", ""),
                }
            )
    return durations


def step_seconds(prediction: dict, rates: Rates) -> float | None:
    """Seconds of the predicted step; None where a part of it was never measured."""
    step = predict_step_seconds(prediction["calls"], rates)
    return step["seconds"] if step else None
