"""Advice on a fine-tune's settings: when it is given, its numbers, and that each has words and sources."""

import pytest

from playground.i18n import LANGUAGES
from playground.planning.advice import advice_for
from playground.settings import Settings
from playground.ui.advice_view import SOURCES, advice_html


def keys(trainable=None, labelled=None, lora=None, **train) -> list[str]:
    settings = Settings().with_values({"lora": lora or {}, "train": train})
    return [advice["key"] for advice in advice_for(settings, trainable, labelled)]


def test_defaults_have_no_advice_but_the_capacity():
    assert keys() == [] and keys(1_000_000, 5_000) == ["advice.capacity"]


def test_full_fine_tuning_at_a_learning_rate_for_lora_and_the_reverse():
    assert keys(method="full", lr=1e-3) == ["advice.lr_high"] and keys(method="full", lr=1e-4) == []
    assert keys(method="lora", lr=2e-5) == ["advice.lr_low"] and keys(method="lora", lr=2e-4) == []
    [advice] = advice_for(Settings().with_values({"train": {"method": "full", "lr": 1e-3}}), 1, 10**9)
    assert advice["values"] == {"lr": 1e-3, "other": pytest.approx(1e-4)}


def test_attention_alone_and_high_ranks():
    assert keys(lora={"target_modules": "attention"}) == ["advice.targets"]
    assert keys(lora={"target_modules": "attention"}, method="full", lr=1e-5) == []
    assert keys(lora={"r": 128}) == ["advice.scale"] and keys(lora={"r": 128, "use_rslora": True}) == []
    assert keys(lora={"r": 128, "alpha": 128}) == [] and keys(lora={"r": 16}) == []
    [advice] = advice_for(Settings().with_values({"lora": {"r": 64}}), None, None)
    assert advice["values"] == {"r": 64, "scale": 0.25, "root": 2.0}


def test_more_tokens_than_the_adapter_has_room_for():
    assert keys(1000, 2000) == ["advice.capacity"] and keys(1000, 2001) == ["advice.over_capacity"]
    assert keys(1000, 2001, method="full", lr=1e-5) == []
    first, second = advice_for(Settings().with_values({"lora": {"target_modules": "attention"}}), 1000, 10)
    assert (first["warns"], second["warns"]) == (True, False)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_each_advice_is_written_with_its_numbers_and_links(lang):
    chosen = {"lora": {"target_modules": "attention", "r": 128}, "train": {"lr": 2e-5}}
    low = advice_for(Settings().with_values(chosen), 1_500_000, 4_000_000)
    high = advice_for(Settings().with_values({"train": {"method": "full"}}), None, None)
    html = advice_html([*low, *high, *advice_for(Settings(), 10, 5)], lang)
    assert html.count("<li") == 6 and html.count("{") == 0
    for text in ("2e-05", "0.0002", "0.0001", "0.12", "1.4"):
        assert text in html
    for name, url in SOURCES.values():
        assert f'href="{url}"' in html and name.replace("&", "&amp;") in html
    assert advice_html([], lang) == ""
