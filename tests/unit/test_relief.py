"""What is offered after a load or a fine-tune ran out of memory, and only then; and that it is what saves most."""

from types import SimpleNamespace

import pytest
import torch

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.i18n import LANGUAGES, table, translate
from playground.planning.client import Planner
from playground.planning.oom_suggestions import _changes, suggest_changes
from playground.predict import meta_model, phases
from playground.settings import Settings
from playground.ui import oom_suggestions as box

FULL = problem("error.out_of_memory", used_bytes=8, capacity_bytes=9 * 2**30, part="weights", part_bytes=4)
OFFERS = [
    {"group": "load", "field": "bits", "value": 4, "bytes": 2**30, "saved": 2**31, "verdict": "fits"},
    {
        "group": "train",
        "field": "gradient_checkpointing",
        "value": "all",
        "bytes": 2**31,
        "saved": 2**30,
        "verdict": "tight",
    },
    {"group": "train", "field": "max_seq_length", "value": 64, "bytes": 2**32, "saved": 2**20, "verdict": "no"},
    {"group": "lora", "field": "target_modules", "value": "attention", "bytes": 2**32, "saved": 2**10, "verdict": "no"},
]


@pytest.fixture
def page(tmp_path):
    """`page(error, card=0)`: a page whose last job ended so; what its planner was asked is in `page.asked`."""

    def made(error, card=0.0, answer=OFFERS, do="tune", said=True):
        run = runs.create(
            tmp_path,
            do,
            Settings().with_values({"load": {"simulate_gpu_gib": card}, "lora": {"r": 4}}),
            hardware={"device": "cuda"},
        )
        if said:
            run.append("memory_predicted", phase=do, lengths=[9, 4], labelled=[3, 2])
        asked = []

        def ask(name, **values):
            asked.append((name, values))
            if isinstance(answer, Exception):
                raise answer
            return answer

        job = SimpleNamespace(do=do, error=error, run=run.id)
        return SimpleNamespace(
            root=tmp_path,
            engine=SimpleNamespace(last=job),
            planner=SimpleNamespace(ask=ask),
            asked=asked,
            translate=lambda key, **values: translate("en", key, **values),
        )

    return made


def last(shown) -> list[dict]:
    *_, update = shown
    return update


@pytest.mark.parametrize("do", ["load", "tune"])
def test_the_three_that_save_most_are_asked_for_with_the_memory_and_the_rows_that_there_were(page, do):
    full = page(FULL, do=do)
    assert box.offers(full, do) == OFFERS[:3]
    [(name, values)] = full.asked
    assert (
        name == "suggest_changes"
        and values["capacity"] == 9 * 2**30
        and values["phase"] == do
        and values["device"] == "cuda"
    )
    assert values["settings"]["lora"]["r"] == 4 and (values["lengths"], values["labelled"]) == ([9, 4], [3, 2])
    early = page(FULL, do=do, said=False)
    box.offers(early, do)
    assert "lengths" not in early.asked[0][1]


@pytest.mark.parametrize("error,do", [(None, "tune"), (problem("error.busy"), "tune"), (FULL, "load"), (FULL, "chat")])
def test_nothing_is_offered_after_anything_else(page, error, do):
    other = page(error, do=do)
    assert box.offers(other, "tune") == [] and other.asked == []
    assert [update["visible"] for update in last(box._shown(other, "tune"))] == [False] * 5


def test_a_button_writes_its_change_and_nothing_else(page):
    full = page(FULL)
    counting, shown = box._shown(full, "tune")
    assert "…" in counting[0]["value"] and [u["visible"] for u in counting] == [True, False, False, False, False]
    assert [u["visible"] for u in shown] == [True] * 4 + [False]
    assert [word in shown[n + 1]["value"] for n, word in enumerate(("4 bits", "checkpointing all", "64 tokens"))] == [
        True
    ] * 3
    *values, told = box._take(full, "tune", 1)
    assert [v for v in values if not isinstance(v, dict)] == ["all"] and "checkpointing all" in told["value"]
    assert box.CHANGED["tune"][[isinstance(v, dict) for v in values].index(False)] == (
        "train",
        "gradient_checkpointing",
    )


def test_where_nothing_helps_or_the_planner_fails_no_button_is_shown(page):
    for answer in ([], PlaygroundError(problem("error.planner_died", code=3).problems[0])):
        assert [update["visible"] for update in last(box._shown(page(FULL, answer=answer), "tune"))] == [False] * 5


@pytest.mark.parametrize("do", ["load", "tune"])
def test_what_was_predicted_not_to_fit_can_be_tried_anyway_or_with_fewer_bits(page, do):
    large = page(problem("error.too_large", model="m", bits=16, need_bytes=2**40, capacity_bytes=2**30), do=do)
    assert [u["visible"] for u in last(box._shown(large, do))] == [True] * 5
    assert large.asked[0][1]["phase"] == "load" and large.asked[0][1]["capacity"] == 2**30


def test_every_change_has_words_and_a_field_to_be_written_to():
    keys = {key for keys in box.CHANGED.values() for key in keys}
    assert [key for key in keys for lang in LANGUAGES if f"suggestion.{'.'.join(key)}" not in table(lang)] == []
    for load, lora, train in (
        ({}, {}, {"gradient_checkpointing": "off"}),
        ({"bits": 32}, {}, {"method": "full", "gradient_checkpointing": "2"}),
    ):
        settings = Settings().with_values({"load": {"bits": 16} | load, "lora": lora, "train": train})
        found = {(group, field) for phase in ("load", "tune") for group, field, _ in _changes(settings, phase, "cuda")}
        assert found and found <= keys


def settings(toy, **train) -> Settings:
    return Settings().with_values(
        {
            "load": {"model": str(toy("llama", hidden_size=256, intermediate_size=1024)), "bits": 16},
            "train": {"batch_size": 8, "max_seq_length": 128, "gradient_checkpointing": "off", **train},
        }
    )


def test_changes_are_ranked_by_what_they_are_predicted_to_save(toy):
    asked, rows = settings(toy), ([120, 60, 128, 128], [10, 10, 100, 8])
    found = suggest_changes(asked, "tune", 2**40, "cuda", *rows)
    assert [change["saved"] for change in found] == sorted((change["saved"] for change in found), reverse=True)
    assert {
        ("load", "bits"),
        ("train", "gradient_checkpointing"),
        ("train", "max_seq_length"),
        ("train", "max_tokens_per_micro_batch"),
    } <= {(c["group"], c["field"]) for c in found}
    place = phases.Target("cuda", torch.bfloat16, 2**40)
    before = phases.predict_tune(meta_model.config_of(asked.load.model), asked, place, *rows)["device_used"]
    assert all(change["bytes"] + change["saved"] == before and change["verdict"] == "fits" for change in found)
    assert {change["verdict"] for change in suggest_changes(asked, "tune", 2**20)} == {"no"}


def test_a_full_fine_tune_is_offered_lora_and_no_bits_that_it_cannot_train(toy):
    found = {(c["field"], c["value"]) for c in suggest_changes(settings(toy, method="full"), "tune", 2**40)}
    assert (
        ("method", "lora") in found and ("optimizer", "adamw8bit") in found and not {("bits", 8), ("bits", 4)} & found
    )


def test_a_load_is_offered_fewer_bits_only(toy):
    assert {c["field"] for c in suggest_changes(settings(toy), "load", 2**40)} == {"bits"}


def test_the_real_planning_process_answers(toy, tmp_path):
    planner = Planner(tmp_path)
    found = planner.ask("suggest_changes", settings=settings(toy).to_dict(), phase="load", capacity=2**20)
    planner.close()
    assert [c["value"] for c in found] == [4, 8] and {c["verdict"] for c in found} == {"no"}
