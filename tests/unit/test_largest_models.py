"""The largest model that each card takes (planning/forecast.py): of all models the largest that fits, counted up."""

import pytest

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.planning import forecast
from playground.predict import meta_model


@pytest.fixture
def estimated_need(monkeypatch):
    """Needs by rule of thumb in the place of traces, which take minutes."""

    def need(model: str, bits: int, job: str, context: int, length: int) -> int:
        return int(catalog.shapes()[model]["parameters"] * bits / 8 * (1.2 if job == "chat" else 1.6)) + 2**30

    monkeypatch.setattr(forecast, "required_memory", need)
    return lambda *arguments: need(*arguments, context=1024, length=256)


def takes(model: str, tokens: int) -> bool:
    longest = forecast.max_context_length(meta_model.config_of(model))
    return longest is None or longest >= tokens


@pytest.mark.parametrize("context", [1024, 8192])
def test_each_cell_has_the_largest_model_that_fits_and_takes_the_tokens(estimated_need, context):
    rows = forecast.largest_models(context, 256)
    assert [row["card"] for row in rows[::3]] == [card["id"] for card in cards()]
    for row in rows:
        for job, tokens in (("chat", context), ("tune", 256)):
            fitting = [
                entry
                for entry in catalog.shapes().values()
                if takes(entry["id"], tokens)
                and verdict(estimated_need(entry["id"], row["bits"], job), row["gib"] * 2**30) != "no"
            ]
            best = max(fitting, key=lambda entry: entry["parameters"])
            assert catalog.shapes()[row[job]["id"]]["parameters"] == best["parameters"]
            assert row[job]["need"] == estimated_need(row[job]["id"], row["bits"], job)


def test_models_tried_are_counted_up_to_all_of_them(estimated_need):
    progress = []
    forecast.largest_models(1024, 256, lambda *step: progress.append(step))
    total = len(catalog.shapes())
    assert progress == [(tried, total, "models") for tried in range(len(progress))] and 5 < len(progress) <= total
