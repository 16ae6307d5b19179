"""Models in a dropdown: those that work offline first, then the talk's, each series by size."""

from pathlib import Path

from pages import page_over

from playground import catalog
from playground.ui.model_choices import model_choices, offline_model


def page(lang: str = "en"):
    return page_over(Path("runs"), lang)


def test_models_come_in_groups_and_each_series_grows():
    choices = model_choices(page(), {**catalog.shapes(), **catalog.models()})
    ids = [model for _, model in choices]
    assert sorted(ids) == sorted({**catalog.shapes(), **catalog.models()})
    talk = [bool(catalog.models().get(model, {}).get("talk")) for model in ids]
    offline = len(catalog.offline_models())
    assert set(ids[:offline]) == set(catalog.offline_models())
    assert talk[offline:] == sorted(talk[offline:], reverse=True)
    calm = [label.removeprefix("★ ") for label, _ in choices if "OpenCALM" in label]
    assert calm == [f"OpenCALM {size}" for size in ("Small", "Medium", "Large", "1B", "7B")]
    series = [label.removeprefix("★ ").split()[0].casefold() for label, _ in choices[offline : offline + sum(talk)]]
    assert series == sorted(series)


def test_labels_are_names_with_their_marks():
    labels = {model: label for label, model in model_choices(page(), [*catalog.offline_models(), "facebook/opt-125m"])}
    assert labels["smollm2-135m-instruct"] == "SmolLM2 135M Instruct · available offline"
    assert labels["facebook/opt-125m"] == "★ OPT 125M"


def test_offline_model_knows_the_page_s_language():
    assert offline_model(page("en")) == "smollm2-135m-instruct"
    assert "ja" in catalog.models()[offline_model(page("ja"))]["languages"]
