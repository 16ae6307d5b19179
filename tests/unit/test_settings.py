"""What a person can choose, and how all that is wrong with it is told at once."""

import pytest
from toys import keys

from playground.errors import PlaygroundError
from playground.settings import TALK_GENERATION, Generation, Settings, generation_problems, parse, problems

BAD = [
    ("load", "model", "", "problem.model_empty"),
    ("load", "bits", 5, "problem.bits"),
    ("load", "dtype", "float64", "problem.choice"),
    ("load", "quant_type", "int4", "problem.choice"),
    ("load", "device", "tpu", "problem.choice"),
    ("load", "simulate_gpu_gib", -1.0, "problem.simulate_gpu_gib"),
    ("data", "source", "  ", "problem.source_empty"),
    ("data", "start_row", 0, "problem.start_row"),
    ("data", "end_row", -1, "problem.end_row"),
    ("data", "sample", -1, "problem.sample"),
    ("data", "held_out", 0.9, "problem.held_out"),
    ("data", "prompt_format", "llama", "problem.choice"),
    ("lora", "r", 0, "problem.r"),
    ("lora", "r", 2000, "problem.r"),
    ("lora", "alpha", 0, "problem.alpha"),
    ("lora", "dropout", 1, "problem.dropout"),
    ("lora", "target_modules", " , ", "problem.target_modules"),
    ("lora", "layers", -1, "problem.layers"),
    ("train", "epochs", 0, "problem.epochs"),
    ("train", "max_steps", -1, "problem.epochs"),
    ("train", "lr", 0, "problem.lr"),
    ("train", "lr", 2, "problem.lr"),
    ("train", "schedule", "step", "problem.choice"),
    ("train", "warmup", 2, "problem.warmup"),
    ("train", "batch_size", 0, "problem.batch_size"),
    ("train", "micro_batch_size", 3, "problem.micro_batch_size"),
    ("train", "micro_batch_size", 32, "problem.micro_batch_size"),
    ("train", "max_seq_length", 0, "problem.max_seq_length"),
]


def test_the_defaults_are_right():
    assert (
        problems(Settings()) == []
        and generation_problems(Generation()) == []
        and generation_problems(TALK_GENERATION) == []
    )


@pytest.mark.parametrize("group,field,value,key", BAD)
def test_a_bad_value_is_named_and_nothing_else_is(group, field, value, key):
    found = problems(Settings().with_values({group: {field: value}}))
    assert [p.key for p in found] == [key]
    shown = found[0].text("en"), found[0].text("ja")
    assert not str(value).strip(" ,") or all(str(value) in text for text in shown)


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_form():
    bad = {
        "data": {"start_row": 5, "end_row": 2},
        "lora": {"r": 0},
        "train": {"epochs": 0, "max_seq_length": 0, "batch_size": 16, "micro_batch_size": 3},
    }
    with pytest.raises(PlaygroundError) as caught:
        parse(bad)
    assert keys(caught) == [
        "problem.end_row",
        "problem.r",
        "problem.epochs",
        "problem.micro_batch_size",
        "problem.max_seq_length",
    ]
    assert caught.value.text("ja").count("\n") == 4


def test_unreadable_values_unknown_names_and_bad_values_are_told_together():
    with pytest.raises(PlaygroundError) as caught:
        parse(
            {
                "lora": {"r": "many", "rank": 8, "alpha": -1},
                "optimizer": {"name": "sgd"},
                "train": {"max_seq_length": 0},
            }
        )
    assert sorted(keys(caught)) == [
        "problem.alpha",
        "problem.kind",
        "problem.max_seq_length",
        "problem.unknown_field",
        "problem.unknown_group",
    ]
    assert "lora.rank" in str(caught.value) and "lora.r" in str(caught.value) and "optimizer" in str(caught.value)


@pytest.mark.parametrize(
    "group,field,value",
    [
        ("lora", "r", 2.5),
        ("lora", "r", None),
        ("lora", "r", True),
        ("lora", "r", [8]),
        ("load", "double_quant", "yes"),
        ("load", "double_quant", 1),
        ("train", "lr", "fast"),
        ("train", "batch_size", ""),
        ("load", "model", None),
        ("train", "lr", {}),
        ("train", "max_steps", float("nan")),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_name(group, field, value):
    with pytest.raises(PlaygroundError) as caught:
        Settings().with_values({group: {field: value}})
    assert keys(caught) == ["problem.kind"] and f"{group}.{field}" in str(caught.value)


@pytest.mark.parametrize(
    "field,value",
    [
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("epochs", float("inf")),
        ("epochs", float("nan")),
        ("steps", float("inf")),
    ],
)
def test_what_is_no_finite_number_is_refused(field, value):
    with pytest.raises(PlaygroundError):
        parse({"train": {field: value}})


def test_numbers_that_a_form_or_a_json_file_writes_otherwise_are_understood():
    chosen = Settings().with_values({"lora": {"r": 16.0, "alpha": 32}, "train": {"lr": "0.001", "batch_size": "8"}})
    assert (chosen.lora.r, chosen.lora.alpha, chosen.train.lr, chosen.train.batch_size) == (16, 32.0, 0.001, 8)
    assert type(chosen.lora.r) is int and type(chosen.lora.alpha) is float


def test_settings_survive_a_run_s_file():
    chosen = Settings().with_values({"load": {"bits": 4}, "train": {"lr": 0.5}})
    assert parse(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    "field,value",
    [
        ("max_new_tokens", 0),
        ("temperature", -1),
        ("top_p", 0),
        ("top_k", -1),
        ("num_beams", 0),
        ("repetition_penalty", 0),
    ],
)
def test_a_bad_generation_value_is_named(field, value):
    assert [p.key for p in generation_problems(Generation(**{field: value}))] == [f"problem.{field}"]
