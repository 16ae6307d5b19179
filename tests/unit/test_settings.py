"""Validation of settings: every problem is reported at once, by name, in both languages."""

import json

import pytest
from toys import keys

from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES
from playground.settings import (
    TALK_GENERATION,
    Generation,
    Settings,
    generation_problems,
    is_text_encoding,
    parse,
    problems,
)

BAD = [
    ("load", "model", "", "problem.model_empty"),
    ("load", "bits", 5, "problem.bits"),
    ("load", "dtype", "float64", "problem.choice"),
    ("load", "quant_type", "int4", "problem.choice"),
    ("load", "device", "tpu", "problem.choice"),
    ("load", "simulate_gpu_gib", -1.0, "problem.simulate_gpu_gib"),
    ("load", "streamed_layers", "half", "problem.streamed_layers"),
    ("load", "streamed_layers", "-1", "problem.streamed_layers"),
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


def test_the_defaults_are_valid():
    assert (
        problems(Settings()) == []
        and generation_problems(Generation()) == []
        and generation_problems(TALK_GENERATION) == []
    )


@pytest.mark.parametrize("group,field,value,key", BAD)
def test_only_the_bad_value_is_reported(group, field, value, key):
    [problem] = problems(Settings().with_values({group: {field: value}}))
    assert problem.key == key
    if str(value).strip(" ,"):
        assert all(str(value) in problem.text(lang) for lang in LANGUAGES)


def test_all_problems_are_reported_at_once_in_the_order_of_the_form():
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


def test_unreadable_values_unknown_names_and_bad_values_are_reported_together():
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
        "problem.unknown_field_known",
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
def test_a_value_of_a_wrong_type_is_refused(group, field, value):
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
        ("max_steps", float("inf")),
    ],
)
def test_numbers_that_are_not_finite_are_refused(field, value):
    with pytest.raises(PlaygroundError) as caught:
        parse({"train": {field: value}})
    assert keys(caught) == ["problem.kind"]


def test_whole_floats_and_numeric_strings_are_read_as_numbers():
    chosen = Settings().with_values({"lora": {"r": 16.0, "alpha": 32}, "train": {"lr": "0.001", "batch_size": "8"}})
    assert (chosen.lora.r, chosen.lora.alpha, chosen.train.lr, chosen.train.batch_size) == (16, 32.0, 0.001, 8)
    assert type(chosen.lora.r) is int and type(chosen.lora.alpha) is float


def test_settings_survive_a_round_trip_through_json():
    chosen = Settings().with_values({"load": {"bits": 4}, "train": {"lr": 0.5}})
    assert parse(json.loads(json.dumps(chosen.to_dict()))) == chosen


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
def test_a_bad_generation_value_is_reported(field, value):
    assert [p.key for p in generation_problems(Generation(**{field: value}))] == [f"problem.{field}"]


@pytest.mark.parametrize(
    "values,key,expected",
    [
        ({"lora": {"alhpa": 8}}, "problem.unknown_field", "alpha"),
        ({"lora": {"zzz": 8}}, "problem.unknown_field_known", "r, alpha, dropout"),
        ({"trian": {}}, "problem.unknown_group_near", "train"),
        ({"zzz": {}}, "problem.unknown_group", "load, data, lora, train"),
        ({"lora": 3}, "problem.group_kind", "3"),
    ],
)
def test_an_unknown_name_is_reported_with_the_names_that_exist(values, key, expected):
    with pytest.raises(PlaygroundError) as caught:
        parse(values)
    assert keys(caught) == [key]
    assert all(
        expected.replace(", ", separator) in caught.value.text(lang) for lang, separator in (("en", ", "), ("ja", "、"))
    )


@pytest.mark.parametrize("name", ["utf-8", "UTF-8", "cp932", "shift_jis", "latin-1", "utf-16", "mac-roman"])
def test_text_encodings_are_recognized(name):
    assert is_text_encoding(name)


@pytest.mark.parametrize(
    "name", ["", "rot13", "hex", "base64", "zlib", "idna", "Punycode", "undefined", "locale", "\0"]
)
def test_names_that_are_no_text_encoding_are_refused(name):
    assert not is_text_encoding(name)
