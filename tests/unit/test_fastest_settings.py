"""The fastest settings that fit into a GPU (planning/forecast.py)."""

import pytest

from playground import catalog
from playground.planning import forecast
from playground.settings import Settings


@pytest.mark.slow
def test_the_fastest_settings_fit_and_come_in_order(toy):
    settings = Settings().with_values(
        {"load": {"model": str(toy())}, "train": {"batch_size": 8, "max_seq_length": 128}}
    )
    fastest = forecast.fastest_settings(settings, 2 * 2**30)
    assert fastest and fastest[0]["speed"] == 1 and all(one["need"] <= 2 * 2**30 for one in fastest)
    assert [one["speed"] for one in fastest] == sorted((one["speed"] for one in fastest), reverse=True)
    assert forecast.fastest_settings(settings, 2**29) == []


@pytest.mark.slow
@pytest.mark.parametrize("gib", [8, 12])
def test_each_option_needs_what_a_forecast_of_just_these_settings_says(gib):
    plan, capacity = catalog.first_plan()["settings"], gib * 2**30
    options = forecast.fastest_settings(Settings().with_values(plan), capacity)
    assert options
    for option in options:
        train = {
            "gradient_checkpointing": option["checkpointing"],
            "max_tokens_per_micro_batch": option["tokens"],
        }
        chosen = {"load": plan["load"] | {"bits": option["bits"]}, "train": plan["train"] | train}
        prediction = forecast.forecast(Settings().with_values(chosen), capacity=capacity)
        assert prediction["phases"]["tune"]["need"] == option["need"]
