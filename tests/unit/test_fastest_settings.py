"""The fastest settings that fit into a GPU (planning/forecast.py)."""

from functools import partial
from types import SimpleNamespace

import pytest

from playground import catalog
from playground.i18n import LANGUAGES, translate
from playground.planning import forecast
from playground.settings import Settings
from playground.ui.plan_listeners import _ranked_label


@pytest.mark.slow
def test_the_fastest_settings_fit_and_come_in_order(toy):
    settings = Settings().with_values(
        {"load": {"model": str(toy())}, "train": {"batch_size": 8, "max_seq_length": 128}}
    )
    fastest = forecast.fastest_settings(settings, 2 * 2**30)
    assert fastest and fastest[0]["speed"] == 1 and all(one["need"] <= 2 * 2**30 for one in fastest)
    assert [one["speed"] for one in fastest] == sorted((one["speed"] for one in fastest), reverse=True)
    assert all(one["seconds"] is None for one in fastest)  # such a GPU's speed isn't known
    assert forecast.fastest_settings(settings, 2**29) == []


def test_where_a_gpu_is_known_its_seconds_rank(monkeypatch, toy):
    tuned = {"budget": 0, "need": 2**29, "work": 3.0}
    monkeypatch.setattr(
        forecast, "_predict_tune", lambda settings, *_: tuned | {"checkpointing": "all", "bits": settings.load.bits}
    )
    monkeypatch.setattr(forecast, "rates_for", lambda device, capacity: [("rates", {})])
    monkeypatch.setattr(forecast, "step_seconds", lambda chosen, rates: {16: 2.0, 8: 0.5, 4: 1.0}[chosen["bits"]])
    ranked = forecast.fastest_settings(Settings(), 2**30)
    found = [(one["bits"], one["seconds"], one["speed"]) for one in ranked]
    assert found == [(8, 0.5, 1), (4, 1.0, 0.5), (16, 2.0, 0.25)]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_option_names_the_seconds_of_a_step_where_they_are_known(lang):
    option = {
        "bits": 4,
        "checkpointing": "all",
        "tokens": 0,
        "need": 2**30,
        "speed": 1,
        "seconds": 0.4213,
        "streamed": 0,
    }
    page = SimpleNamespace(translate=partial(translate, lang))
    unknown = _ranked_label(page, option | {"seconds": None})
    time = translate(lang, "accuracy.seconds", seconds="0.42")
    assert _ranked_label(page, option) == translate(lang, "plan.ranked.timed", option=unknown, time=time)


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
