"""The largest model that GPUs take (planning/largest.py): of all models the largest that fits, counted up."""

import pytest

from playground import catalog
from playground.catalog.cards import cards, verdict
from playground.model.language_part import max_context_length
from playground.planning import largest
from playground.predict import meta_model


@pytest.fixture
def estimated_need(monkeypatch):
    """Needs by rule of thumb in the place of traces, which take minutes."""

    def need(model: str, bits: int, job: str, device: str, context: int, length: int, gpus: int) -> int:
        assert job == "tune" or gpus == 1
        return int(catalog.shapes()[model]["parameters"] * bits / 8 / gpus * (1.2 if job == "chat" else 1.6)) + 2**30

    monkeypatch.setattr(largest, "required_memory", need)
    return lambda *arguments, gpus=1: need(*arguments, "cuda", 1024, 256, gpus)


def takes(model: str, tokens: int) -> bool:
    longest = max_context_length(meta_model.config_of(model))
    return longest is None or longest >= tokens


@pytest.mark.parametrize(("context", "gpus"), [(1024, 1), (8192, 1), (1024, 4)])
def test_each_cell_has_the_largest_model_that_fits_and_takes_the_tokens(estimated_need, context, gpus):
    rows = largest.largest_models(context, 256, gpus)
    assert [row["card"] for row in rows[::3]] == [card["id"] for card in cards()]
    for row in rows:
        for job, tokens, count in (("chat", context, 1), ("tune", 256, gpus)):
            fitting = [
                entry
                for entry in catalog.shapes().values()
                if takes(entry["id"], tokens)
                and verdict(estimated_need(entry["id"], row["bits"], job, gpus=count), row["gib"] * 2**30) != "no"
            ]
            best = max(fitting, key=lambda entry: entry["parameters"])
            assert catalog.shapes()[row[job]["id"]]["parameters"] == best["parameters"]
            assert row[job]["need"] == estimated_need(row[job]["id"], row["bits"], job, gpus=count)


def test_models_tried_are_counted_up_to_all_of_them(estimated_need):
    progress = []
    largest.largest_models(1024, 256, 1, lambda *step: progress.append(step))
    total = len(catalog.shapes())
    assert progress == [(tried, total, "models") for tried in range(len(progress))] and 5 < len(progress) <= total


def test_each_setup_has_the_largest_model_that_as_many_gpus_take(estimated_need):
    rows = largest.largest_for_setups()
    expected = [(id, bits) for id in catalog.setups() for bits in largest.SETUP_BITS]
    assert [(row["setup"], row["bits"]) for row in rows] == expected
    for row in rows:
        setup, found = catalog.setups()[row["setup"]], row["tune"]
        need = {id: estimated_need(id, row["bits"], "tune", gpus=setup["count"]) for id in catalog.shapes()}
        fitting = [id for id in need if need[id] <= setup["gib"] * 2**30 and takes(id, 256)]
        assert found["need"] == need[found["id"]] <= setup["gib"] * 2**30
        most = max(catalog.shapes()[id]["parameters"] for id in fitting)
        assert catalog.shapes()[found["id"]]["parameters"] == most


def test_weights_are_split_over_several_gpus_where_that_can_be_done():
    def need(model: str, bits: int, gpus: int) -> int:
        return largest.required_memory(model, bits, "tune", length=64, gpus=gpus)

    decoder, seq2seq = "facebook/opt-6.7b", "google-t5/t5-small"
    for bits in (16, 8):
        assert need(decoder, bits, 4) < need(decoder, bits, 1)
    assert need(seq2seq, 8, 4) > need(seq2seq, 8, 1)  # whole on each GPU, beside what NCCL takes
