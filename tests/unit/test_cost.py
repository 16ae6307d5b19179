"""A cutoff's cost: memory as a run predicts it, seconds that scale with the run, errors that leave the counts."""

import pytest
import torch
from toy_rows import varied_rows
from toys import make_tokenizer

from playground.catalog.cards import verdict
from playground.data.batch import encode
from playground.data.lengths import count_tokens
from playground.data.template import Template
from playground.planning.cost import Machine, cutoff_cost
from playground.predict import meta_model, phases
from playground.predict.heaviest import predict_heaviest_step
from playground.settings import Settings
from playground.train.loop import total_steps

TEMPLATE = Template("talk", make_tokenizer(False))
ROWS = varied_rows()
GIB = 2**30


def settings_for(model, **train) -> Settings:
    return Settings().with_values({"load": {"model": str(model), "bits": 16}, "train": train})


@pytest.mark.parametrize("gpus", [1, 2])
def test_memory_is_what_a_run_predicts(toy, gpus):
    train = {"batch_size": 64, "gradient_checkpointing": "off", "num_processes": gpus}
    settings = settings_for(toy(), max_seq_length=90, **train)
    config, lengths = meta_model.config_of(str(toy())), count_tokens(ROWS, TEMPLATE)
    cost = cutoff_cost(lengths, settings, config, Machine(capacity=GIB))
    examples, _ = encode(ROWS, TEMPLATE, 90)
    target = phases.Target("cuda", torch.bfloat16, GIB, processes=gpus)
    prediction = predict_heaviest_step(config, settings, target, examples)
    need, policy = prediction["need"], ("checkpointing", "budget", "batching", "tokens", "rows", "trainable")
    assert need == prediction["device_used"]
    assert cost["memory"] == {"bytes": need, "gpus": gpus, "capacity": GIB, "verdict": verdict(need, GIB)} | {
        name: prediction[name] for name in policy
    } | {"streamed": None}
    assert cost["steps"] == total_steps(len(examples), settings.train)
    assert cost["estimates"] == []  # no GPU was named
    longer = cutoff_cost(lengths, settings_for(toy(), max_seq_length=400, **train), config, Machine())
    assert longer["memory"]["bytes"] > cost["memory"]["bytes"] and longer["memory"]["verdict"] is None


def test_seconds_grow_with_epochs_and_a_sample_stands_for_all_rows(toy):
    lengths, config = count_tokens(ROWS, TEMPLATE), meta_model.config_of(str(toy()))

    def seconds(epochs: float, scale: float = 1.0) -> float:
        settings = settings_for(toy(), batch_size=2, max_seq_length=300, epochs=epochs)
        return cutoff_cost(lengths, settings, config, Machine(name="rtx-4090"), scale=scale)["estimates"][0]["seconds"]

    assert seconds(8.0) == pytest.approx(4 * seconds(2.0), abs=0.25)  # rounded to tenths
    assert seconds(8.0) == pytest.approx(seconds(2.0, scale=4.0), abs=0.25)


@pytest.mark.parametrize("family", ["llama", "t5", "mixtral", "qwen2_moe"])
def test_seconds_are_estimated_for_each_gpu_of_a_size_whose_peaks_are_known(toy, family):
    template = Template("talk", TEMPLATE.tokenizer, encoder=family == "t5")
    settings, config = settings_for(toy(family), max_seq_length=120), meta_model.config_of(str(toy(family)))
    cost = cutoff_cost(count_tokens(ROWS, template), settings, config, Machine(name="h100"))
    assert cost["memory"]["bytes"] > 0 and cost["measured"] is None
    assert [(one["card"], one["source"]) for one in cost["estimates"]] == [("A100", "estimated"), ("H100", "estimated")]
    assert cutoff_cost(count_tokens(ROWS, template), settings, config, Machine(name="NVIDIA GB10"))["estimates"] == []


@pytest.mark.parametrize("cutoff,key", [(600, "error.length"), (8, "error.all_too_long")])
def test_a_cutoff_that_cannot_be_trained_has_an_error_and_the_counts(toy, cutoff, key):
    config, lengths = meta_model.config_of(str(toy())), count_tokens(ROWS, TEMPLATE)
    cost = cutoff_cost(lengths, settings_for(toy(), max_seq_length=cutoff), config, Machine())
    assert [problem["key"] for problem in cost["trouble"]["problems"]] == [key] and cost["memory"] is None
    assert (cost["tokens"] > 0) == (cutoff == 600) and (cost["left_out"] == len(ROWS)) == (cutoff == 8)
