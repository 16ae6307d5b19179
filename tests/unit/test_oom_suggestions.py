"""After an out-of-memory, and only then, the changes that save the most memory are suggested and can be applied."""

from types import SimpleNamespace

import pytest
import torch
from toys import keys

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.i18n import LANGUAGES, table, translate
from playground.planning import process, several
from playground.planning.client import Planner
from playground.planning.oom_suggestions import _possible_changes, _truncated, suggest_changes
from playground.predict import meta_model, phases
from playground.settings import Settings, problems
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
    """`page(error, card=0)`: a page whose last job ended with that error; `page.questions` has those to its planner."""

    def made(error, card=0.0, answer=OFFERS, do="tune", predicted=True):
        run = runs.create(
            tmp_path,
            do,
            Settings().with_values({"load": {"simulate_gpu_gib": card}, "lora": {"r": 4}}),
            hardware={"device": "cuda"},
        )
        if predicted:
            run.append("memory_predicted", phase=do, lengths=[9, 4], labelled=[3, 2])
        questions = []

        def ask(name, **values):
            questions.append((name, values))
            if isinstance(answer, Exception):
                raise answer
            return answer

        job = SimpleNamespace(do=do, error=error, run=run.id)
        return SimpleNamespace(
            root=tmp_path,
            limits=None,
            run_settings=lambda run_id: runs.find(tmp_path, run_id).settings(),
            engine=SimpleNamespace(last=job),
            planner=SimpleNamespace(ask=ask),
            questions=questions,
            translate=lambda key, **values: translate("en", key, **values),
        )

    return made


def last(shown) -> list[dict]:
    *_, update = shown
    return update


@pytest.mark.parametrize("do", ["load", "tune"])
def test_the_three_best_changes_are_offered_for_the_memory_and_rows_of_the_run(page, do):
    full = page(FULL, do=do)
    assert box.suggestions(full, do) == OFFERS[:3]
    [(name, values)] = full.questions
    assert (
        name == "suggest_changes"
        and values["capacity"] == 9 * 2**30
        and values["phase"] == do
        and values["device"] == "cuda"
    )
    assert values["settings"]["lora"]["r"] == 4 and (values["lengths"], values["labelled"]) == ([9, 4], [3, 2])
    early = page(FULL, do=do, predicted=False)
    box.suggestions(early, do)
    assert "lengths" not in early.questions[0][1]


@pytest.mark.parametrize("error,do", [(None, "tune"), (problem("error.busy"), "tune"), (FULL, "load"), (FULL, "chat")])
def test_nothing_is_offered_after_another_error(page, error, do):
    other = page(error, do=do)
    assert box.suggestions(other, "tune") == [] and other.questions == []
    assert [update["visible"] for update in last(box._updates(other, "tune"))] == [False] * 5


def test_a_button_applies_only_its_change(page):
    full = page(FULL)
    counting, shown = box._updates(full, "tune")
    assert "…" in counting[0]["value"] and [u["visible"] for u in counting] == [True, False, False, False, False]
    assert [u["visible"] for u in shown] == [True] * 4 + [False]
    assert [word in shown[n + 1]["value"] for n, word in enumerate(("4 bits", "checkpointing all", "64 tokens"))] == [
        True
    ] * 3
    *values, message = box._apply(full, "tune", 1)
    assert [v for v in values if not isinstance(v, dict)] == ["all"] and "checkpointing all" in message["value"]
    assert box.FIELDS["tune"][[isinstance(v, dict) for v in values].index(False)] == (
        "train",
        "gradient_checkpointing",
    )


def test_no_button_is_shown_where_nothing_helps_or_the_planner_fails(page):
    for answer in ([], PlaygroundError(problem("error.planner_died", code=3).problems[0])):
        assert [update["visible"] for update in last(box._updates(page(FULL, answer=answer), "tune"))] == [False] * 5


@pytest.mark.parametrize("do", ["load", "tune"])
def test_a_model_predicted_too_large_can_be_forced_or_loaded_at_fewer_bits(page, do):
    large = page(problem("error.too_large", model="m", bits=16, need_bytes=2**40, capacity_bytes=2**30), do=do)
    assert [u["visible"] for u in last(box._updates(large, do))] == [True] * 5
    assert large.questions[0][1]["phase"] == "load" and large.questions[0][1]["capacity"] == 2**30


def test_every_change_has_words_and_a_field_to_apply_it_to():
    keys = {key for keys in box.FIELDS.values() for key in keys}
    assert [key for key in keys for lang in LANGUAGES if f"suggestion.{'.'.join(key)}" not in table(lang)] == []
    for load, lora, train in (
        ({}, {}, {"gradient_checkpointing": "off"}),
        ({"bits": 32}, {}, {"method": "full", "gradient_checkpointing": "2"}),
    ):
        settings = Settings().with_values({"load": {"bits": 16} | load, "lora": lora, "train": train})
        changes = [change for phase in ("load", "tune") for change in _possible_changes(settings, phase, "cuda")]
        changed = {(group, field) for group, field, _ in changes}
        assert changed and changed <= keys


def settings(toy, **train) -> Settings:
    return Settings().with_values(
        {
            "load": {"model": str(toy("llama", hidden_size=256, intermediate_size=1024)), "bits": 16},
            "train": {"batch_size": 8, "max_seq_length": 128, "gradient_checkpointing": "off", **train},
        }
    )


@pytest.mark.slow
def test_changes_are_ranked_by_predicted_savings(toy):
    failed, rows = settings(toy), ([120, 60, 128, 128], [10, 10, 100, 8])
    suggestions = suggest_changes(failed, "tune", 2**40, "cuda", *rows)
    savings = [suggestion["saved"] for suggestion in suggestions]
    assert savings == sorted(savings, reverse=True)
    assert {
        ("load", "bits"),
        ("train", "gradient_checkpointing"),
        ("train", "max_seq_length"),
        ("train", "max_tokens_per_micro_batch"),
    } <= {(c["group"], c["field"]) for c in suggestions}
    target = phases.Target("cuda", torch.bfloat16, 2**40)
    before = phases.predict_tune(meta_model.config_of(failed.load.model), failed, target, *rows)["need"]
    assert all(change["bytes"] + change["saved"] == before and change["verdict"] == "fits" for change in suggestions)
    assert {change["verdict"] for change in suggest_changes(failed, "tune", 2**20)} == {"no"}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_of_several_gpus_what_each_needs_is_counted(toy, parallel):
    failed = settings(toy, num_processes=2, parallel=parallel, gradient_checkpointing="all")
    offers = suggest_changes(failed, "tune", 2**40)
    config, target = meta_model.config_of(failed.load.model), phases.Target("cuda", torch.bfloat16, 2**40)
    before = several.predict_tune(config, failed, target)["need"]
    assert offers and all(offer["bytes"] + offer["saved"] == before for offer in offers)
    shorter = next(offer for offer in offers if offer["field"] == "max_seq_length")
    changed = failed.with_values({"train": {"max_seq_length": shorter["value"]}})
    assert shorter["bytes"] == several.predict_tune(config, changed, target)["need"]


def test_what_several_gpus_cannot_train_with_is_not_offered(toy):
    values = {"load": {"model": str(toy("t5"))}, "train": {"num_processes": 2, "parallel": "fsdp2"}}
    failed = settings(toy).with_values(values)  # whose weights can't be split at 8 or 4 bits
    fields = {offer["field"] for offer in suggest_changes(failed, "tune", 2**40)}
    assert fields and "bits" not in fields
    with pytest.raises(PlaygroundError):
        suggest_changes(failed.with_values({"load": {"bits": 4}}), "tune", 2**40)


def test_a_full_fine_tune_is_offered_lora_but_no_untrainable_bits(toy):
    offered = {(c["field"], c["value"]) for c in suggest_changes(settings(toy, method="full"), "tune", 2**40)}
    assert (
        ("method", "lora") in offered
        and ("optimizer", "adamw8bit") in offered
        and ("offload_optimizer", True) in offered
        and not {("bits", 8), ("bits", 4)} & offered
    )


@pytest.mark.parametrize(
    "train,device",
    [
        ({"offload_optimizer": True}, "cuda"),
        ({"optimizer": "adamw8bit"}, "cuda"),
        ({"num_processes": 2}, "cuda"),
        ({}, "cpu"),
        ({"method": "lora"}, "cuda"),
    ],
)
def test_what_is_offered_is_valid_and_offloading_only_where_it_is_possible(train, device):
    failed = Settings().with_values({"load": {"bits": 16}, "train": {"method": "full", **train}})
    changes = list(_possible_changes(failed, "tune", device))
    assert changes and "offload_optimizer" not in {field for _, field, _ in changes}
    for group, field, value in changes:
        assert problems(failed.with_values({group: {field: value}})) == []


def test_a_load_is_offered_only_fewer_bits(toy):
    assert {c["field"] for c in suggest_changes(settings(toy), "load", 2**40)} == {"bits"}


def test_a_model_with_enough_layers_is_offered_to_wait_in_main_memory(toy):
    failed = settings(toy).with_values({"load": {"model": str(toy("llama", num_hidden_layers=6, hidden_size=256))}})
    for phase in ("load", "tune"):
        [found] = [c for c in suggest_changes(failed, phase, 2**40) if c["field"] == "streamed_layers"]
        assert found["value"] == "6" and found["saved"] > 0
        assert problems(failed.with_values({"load": {"streamed_layers": found["value"]}})) == []
    others = {"load": {"streamed_layers": "6"}}, {"train": {"method": "full"}}, {"train": {"num_processes": 2}}
    changes = [_possible_changes(failed.with_values(other), "tune", "cuda") for other in others]
    for found in (*changes, _possible_changes(failed, "tune", "cpu")):
        assert "streamed_layers" not in {field for _, field, _ in found}


@pytest.mark.slow
def test_the_planning_process_answers_and_refuses_invalid_settings(toy, tmp_path):
    planner = Planner(tmp_path)
    values = settings(toy).to_dict()
    suggestions = planner.ask("suggest_changes", settings=values, phase="load", capacity=2**20)
    assert [change["value"] for change in suggestions] == [4, 8] and {c["verdict"] for c in suggestions} == {"no"}
    values["train"] |= {"method": "full"}
    values["load"] |= {"bits": 4}
    with pytest.raises(PlaygroundError) as caught:
        planner.ask("suggest_changes", settings=values, phase="load", capacity=2**20)
    assert keys(caught) == ["problem.full_bits"]
    planner.close()
    for do in ("forecast", "xray"):  # which other processes answer, by the same function
        with pytest.raises(PlaygroundError) as caught:
            process.answer(do, {"settings": values}, lambda event: None)
        assert keys(caught) == ["problem.full_bits"]


def test_rows_are_truncated_at_a_shorter_cutoff():
    assert _truncated([120, 60, 128], [10, 10, 100], 64) == ([64, 60, 64], [1, 10, 36])
    assert _truncated([120, 60], [], 64) == ([64, 60], [])
