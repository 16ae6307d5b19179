"""The fastest settings that fit into a GPU (planning/forecast.py)."""

import pytest

from playground.planning import forecast
from playground.settings import Settings


@pytest.mark.slow
def test_the_fastest_settings_fit_and_come_in_order(toy):
    settings = Settings().with_values(
        {"load": {"model": str(toy())}, "train": {"batch_size": 8, "max_seq_length": 128}}
    )
    fastest = forecast.fastest_settings(settings, 2 * 2**30)
    assert fastest and fastest[0]["speed"] == 1 and all(one["device_used"] <= 2 * 2**30 for one in fastest)
    assert [one["speed"] for one in fastest] == sorted((one["speed"] for one in fastest), reverse=True)
    assert forecast.fastest_settings(settings, 2**29) == []
