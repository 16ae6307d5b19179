"""The catalog: its entries agree with the shapes and the predictions, and the filters select the right models."""

import json

import pytest
from toys import PROJECT

from playground import ASSETS, catalog
from playground.catalog import filters
from playground.catalog.cards import cards, smallest_card, verdict
from playground.i18n import LANGUAGES
from playground.planning import build_requirements

MODELS = catalog.models()
ENTRIES = {entry["id"]: entry for entry in json.loads((ASSETS / "catalog" / "models.json").read_text(encoding="utf-8"))}
TALK = {
    "gpt_neox": ("open-calm", "stablelm", "dolly"),
    "falcon": ("falcon",),
    "bloom": ("bloom-", "bloomz"),
    "llama": ("llama-7b",),
    "opt": ("opt-",),
    "gptj": ("gpt-j",),
    "gpt2": ("gpt2",),
    "mt5": ("mt0",),
    "t5": ("T0", "t5-"),
}
CURRENT = (
    "Qwen2.5",
    "Qwen3",
    "gemma-3",
    "SmolLM2",
    "smollm2",
    "SmolLM3",
    "Llama-3.2",
    "Phi-",
    "llm-jp",
    "sarashina",
    "TinySwallow",
    "Mistral",
    "OLMoE",
)
GIB = 2**30


def test_the_talks_models_are_marked_and_current_ones_are_listed_too():
    marked, others = [id for id, e in MODELS.items() if e["talk"]], [id for id, e in MODELS.items() if not e["talk"]]
    for family, names in TALK.items():
        for name in names:
            matching = [id for id in marked if name in id]
            assert matching and {MODELS[id]["family"] for id in matching} == {family}, name
    assert all(any(name in id for _, names in TALK.items() for name in names) for id in marked)
    assert len(others) >= 20 and all(any(name in id for id in others) for name in CURRENT)


def test_no_entry_repeats_fields_of_its_shape():
    for id, entry in ENTRIES.items():
        shape = catalog.shapes()[MODELS[id]["shape"]]
        assert {"family", "parameters", "config"}.isdisjoint(entry) and ("shape" in entry) == ("name" in entry) == (
            MODELS[id]["shape"] != id
        )
        assert (MODELS[id]["family"], MODELS[id]["parameters"]) == (shape["config"]["model_type"], shape["parameters"])


def test_every_entry_is_complete():
    for id, entry in MODELS.items():
        assert entry["languages"] and set(entry["languages"]) <= {"ja", "en", "many"} and entry["licence"], id
        assert isinstance(entry["instruct"], bool) and isinstance(entry["gated"], bool)
        assert entry["template"] in (None, "chat", "alpaca", "talk", "text") and (
            entry["template"] or not entry["instruct"]
        ), id
        assert catalog.source_of(entry, "hub").count("/") == 1 and catalog.requirements()[entry["shape"]]["targets"]
        for lang in LANGUAGES:
            assert filters.model_facts(id, lang)["for"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "cyberagent/open-calm-7b", "google-t5/t5-small"])
def test_stored_requirements_are_those_predicted(model):
    """If not, run `python -m playground.planning.build_requirements`. Versions of libraries differ by up to 2 %."""
    stored, predicted = catalog.requirements()[model], build_requirements.requirements(model)
    assert stored["targets"] == predicted["targets"]
    for device in ("cuda", "cpu"):
        assert stored[device] == pytest.approx(predicted[device], rel=0.02)


def test_the_smallest_card_is_the_first_that_fits():
    sizes = [card["gib"] for card in cards()]
    assert (
        smallest_card(6 * GIB)["gib"] == sizes[0]
        and smallest_card(6 * GIB + 1)["gib"] == sizes[1]
        and smallest_card(sizes[-1] * GIB + 1) is None
    )
    for id in MODELS:
        facts = filters.model_facts(id, "en")
        for kind, gib in facts["card"].items():
            smaller = [size for size in sizes if gib is None or size < gib]
            assert all(verdict(facts["memory"]["cuda"][kind], size * GIB) == "no" for size in smaller)
            assert gib is None or verdict(facts["memory"]["cuda"][kind], gib * GIB) != "no"


def test_filters_select_by_language_size_and_memory_and_combine():
    assert filters.matching_models() == list(MODELS)
    japanese, small = filters.matching_models("ja"), filters.matching_models(size="small")
    assert (
        "cyberagent/open-calm-7b" in japanese
        and "facebook/opt-125m" not in japanese
        and "ja" in MODELS[japanese[-1]]["languages"]
    )
    assert all(MODELS[id]["parameters"] < 1e9 for id in small) and "smollm2-135m-instruct" in small
    assert sorted(id for size in filters.SIZES for id in filters.matching_models(size=size)) == sorted(MODELS)
    card = filters.matching_models(room=8 * GIB)
    assert "cyberagent/open-calm-7b" in card and "bigscience/T0pp" not in card
    assert filters.matching_models("ja", "small", 8 * GIB) == [
        id for id in MODELS if id in japanese and id in small and id in card
    ]
    assert filters.matching_models("ja", "huge", 6 * GIB) == []


def test_on_a_cpu_main_memory_is_compared():
    requirements = catalog.requirements()["cyberagent/open-calm-1b"]
    room = sum(max(requirements[device].values()) for device in ("cuda", "cpu")) // 2  # enough for one of the two
    on_gpu, on_cpu = (filters.matching_models(room=room, device=device) for device in ("cuda", "cpu"))
    assert ("cyberagent/open-calm-1b" in on_gpu) != ("cyberagent/open-calm-1b" in on_cpu)
    assert "smollm2-135m-instruct" in filters.matching_models(room=2 * GIB, device="cpu")


def test_a_model_with_another_models_shape_needs_no_files_to_be_predicted():
    from playground.predict.meta_model import config_of

    id = next(id for id, entry in MODELS.items() if entry["shape"] != id)
    assert config_of(id).hidden_size == catalog.shapes()[MODELS[id]["shape"]]["config"]["hidden_size"]


def test_no_gpu_is_named_outside_the_catalog():
    names = [name for card in cards() for name in (card["id"], *card["name"].split(", "))]
    for path in (PROJECT / "playground" / "ui").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert [name for name in names if name in text.replace(f'START_CARD = "{cards()[1]["id"]}"', "")] == [], (
            path.name
        )
