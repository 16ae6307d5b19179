"""Streamed layers in jobs: chosen, predicted, reported, and refused where they can't be."""

import math
from dataclasses import replace

import pytest
import torch
from job_refusal import refusal
from toys import toy_config

from playground.engine import streaming
from playground.engine.workbench import Workbench
from playground.memory import constants
from playground.memory.ledger import bytes_by_part
from playground.model.load import load_model
from playground.model.streaming import BUFFERS
from playground.predict import phases
from playground.predict.streamed_choice import choose_streamed_layers
from playground.runs import find as find_run
from playground.settings import Generation, Load, Settings

DEEP = {"num_hidden_layers": 5}
WIDE = DEEP | {"hidden_size": 256, "intermediate_size": 512}


def result_of(events) -> dict:
    return [e for e in events if e["kind"] == "done"][-1]["result"]


def recorded_events(bench: Workbench, events: list[dict]) -> list[dict]:
    """What the run has recorded in whose course these events were yielded."""
    return list(find_run(bench.root, result_of(events)["run"]).events())


@pytest.fixture
def streamed(toy, chosen):
    """Settings of a fine-tune of a toy with five layers: `streamed(count, **groups)`."""

    def settings(count: int | str, **groups) -> Settings:
        load = {"model": str(toy("llama", **DEEP)), "bits": 32, "device": "cpu", "streamed_layers": str(count)}
        return chosen(load=load | groups.pop("load", {}), **groups)

    return settings


def test_a_fine_tune_and_a_chat_with_streamed_layers_are_those_without(streamed, tmp_path):
    runs = {}
    for count in (0, 4):
        bench = Workbench(tmp_path / str(count))
        events = list(bench.tune(streamed(count)))
        sides = {side: [{"instruction": "What is the answer?", "answer": None}] for side in ("base", "tuned")}
        chat_events = list(bench.chat(streamed(count), result_of(events)["run"], sides, Generation(max_new_tokens=4)))
        texts = [event for event in chat_events if event["kind"] == "answer"][-1]
        runs[count] = [event["loss"] for event in events if event["kind"] == "step"], texts["base"], texts["tuned"]
        assert not any(event["kind"] == "unloaded" for event in chat_events)
    assert runs[0] == runs[4]
    (placed,) = [event for event in events if event["kind"] == "streamed"]
    assert (placed["layers"], placed["total"]) == ([0, 1, 2, 4], 5) and placed["bytes"] > 0
    (note,) = [event for event in events if event.get("key") == "note.streamed"]
    assert note["values"] == {"count": 4, "layers": 5, "size_bytes": placed["bytes"]}
    assert all(event["stall_s"] > 0 for event in events if event["kind"] == "step")
    recorded = [event for event in recorded_events(bench, events) if event["kind"] == "memory"]
    seen = [event["buffers"] for event in recorded[-3:]]
    assert all(set(buffers["ready"] + buffers["copying"]) <= {0, 1, 2, 4} for buffers in seen)
    assert seen[-1]["ready"] == [0, 1]  # a backward pass ends with the first two
    assert "buffers" not in recorded[0]  # nothing was loaded yet


@pytest.mark.parametrize("quantized", [{"bits": 16}, {"bits": 8}, {"bits": 4}])
def test_what_streaming_saves_is_predicted_and_answers_are_alike(toy, quantized):
    folder, found, sizes = toy("llama", **WIDE), [], []
    for count in ("0", "4"):
        load = Load(model=str(folder), device="cpu", streamed_layers=count, dtype="bfloat16", **quantized)
        loaded = load_model(folder, load, lambda *step: None)
        with torch.no_grad():
            found.append(loaded.model(torch.arange(5, 25)[None]).logits)
        predicted = phases.predict_load(loaded.model.config, Settings(load=load), phases.Target("cpu", loaded.dtype))
        ledgers = predicted["parts"], bytes_by_part(loaded.model)
        sizes.append([parts["weights"] + parts.get("quant_constants", 0) for parts in ledgers])
    (predicted_all, measured_all), (predicted_streamed, measured_streamed) = sizes
    assert predicted_all - predicted_streamed == pytest.approx(measured_all - measured_streamed, rel=0.01)
    assert torch.equal(*found)
    assert predicted["main_memory"] > loaded.streamed.bytes and predicted["streamed_layers"] == 4


def test_weights_that_are_stored_quantized_are_streamed_as_they_are(toy, tmp_path):
    folder, stored, found = toy("llama", **WIDE), tmp_path / "stored", []
    load = Load(model=str(folder), device="cpu", bits=8, dtype="bfloat16")
    loaded = load_model(folder, load, lambda *step: None)
    loaded.model.save_pretrained(stored)
    loaded.tokenizer.save_pretrained(stored)
    for count in ("0", "4"):
        loaded = load_model(stored, replace(load, streamed_layers=count), lambda *step: None)
        with torch.no_grad():
            found.append(loaded.model(torch.arange(5, 25)[None]).logits)
    assert torch.equal(*found) and loaded.streamed_count == 4


def test_streaming_saves_its_layers_but_the_buffers_at_every_peak():
    config, target = toy_config("llama", **{**WIDE, "num_hidden_layers": 12}), phases.Target("cuda", torch.bfloat16)
    settings = Settings().with_values(
        {"load": {"bits": 16}, "train": {"gradient_checkpointing": "all", "batch_size": 2}}
    )
    needs = {
        count: phases.predict_tune(
            config, replace(settings, load=replace(settings.load, streamed_layers=str(count))), target, [64] * 2
        )
        for count in (0, 6, 12)
    }
    layer = 2 * (256 * 256 * 2 + 256 * 128 * 2 + 256 * 512 * 3)  # bytes of its linear layers; norms are small
    for count in (6, 12):
        saved = needs[0]["allocated"] - needs[count]["allocated"]
        assert saved == pytest.approx((count - BUFFERS) * layer, rel=0.03)
        assert needs[count]["main_memory"] - needs[0].get("main_memory", 0) > count * layer
    assert "main_memory" not in needs[0]


def test_offloaded_inputs_are_predicted_in_main_memory_in_blocks_of_a_power_of_two():
    config, target = toy_config("llama", **{**WIDE, "num_hidden_layers": 12}), phases.Target("cuda", torch.bfloat16)
    found = {}
    for how in ("all", "offload"):
        load, train = {"bits": 16, "streamed_layers": "6"}, {"gradient_checkpointing": how, "batch_size": 2}
        settings = Settings().with_values({"load": load, "train": train})
        found[how] = phases.predict_tune(config, settings, target, [70] * 2)["main_memory"]
    assert found["all"] > constants.CUDA_PROGRAM_RSS
    size = 2 * 70 * config.hidden_size * 2
    rounded = 2 ** math.ceil(math.log2(size))
    assert size < rounded and found["offload"] - found["all"] == 12 * rounded


def chosen_layers(need, work=lambda count: 1.0, capacity=100):
    def predict(settings):
        count = int(settings.load.streamed_layers)
        return {"need": need(count), "work": work(count)}

    return choose_streamed_layers(predict, Settings(), 32, capacity)


def test_as_few_layers_are_streamed_as_it_takes():
    assert chosen_layers(lambda count: 90 - count) == 0
    assert chosen_layers(lambda count: 120 - count) == 20
    assert chosen_layers(lambda count: 101 - count) == BUFFERS + 1
    assert chosen_layers(lambda count: 200 - count) is None


def test_more_layers_are_streamed_where_that_is_clearly_faster():
    assert chosen_layers(lambda count: 120 - count, work=lambda count: 4.0 if count < 25 else 3.0) == 26
    assert chosen_layers(lambda count: 120 - count, work=lambda count: 3.05 if count < 25 else 3.0) == 20


def test_a_job_that_finds_its_model_loaded_says_which_layers_are_streamed(streamed, tmp_path):
    bench = Workbench(tmp_path)
    (loaded,) = [event for event in bench.load(streamed(4)) if event["kind"] == "streamed"]
    events = list(bench.tune(streamed(4)))
    assert not any(event["kind"] == "loaded" or event.get("key") == "note.streamed" for event in events)
    (found,) = [event for event in events if event["kind"] == "streamed"]
    assert found | {"t": 0} == loaded | {"t": 0}


def test_auto_streams_nothing_on_a_cpu_and_is_the_same_model(streamed, tmp_path):
    bench = Workbench(tmp_path)
    events = list(bench.load(streamed("auto")))
    assert not any(event["kind"] == "streamed" for event in events)
    again = list(
        bench.chat(streamed(0), None, {"base": [{"instruction": "?", "answer": None}]}, Generation(max_new_tokens=2))
    )
    assert not any(event["kind"] == "unloaded" for event in again)


@pytest.mark.parametrize("count", [2, 6])
def test_a_number_of_layers_out_of_range_is_refused_before_anything_is_loaded(streamed, tmp_path, count):
    assert refusal(Workbench(tmp_path).tune(streamed(count))) == (["error.streamed_count"], False)


def test_modules_to_save_in_streamed_layers_are_refused(streamed, tmp_path):
    settings = streamed(4, lora={"modules_to_save": "q_proj"})
    assert refusal(Workbench(tmp_path).tune(settings)) == (["error.streamed_modules"], True)


def test_an_encoder_decoder_is_refused_before_it_is_loaded(toy, chosen, tmp_path):
    settings = chosen(load={"model": str(toy("t5")), "streamed_layers": "4"})
    assert refusal(Workbench(tmp_path).load(settings)) == (["error.streamed_family"], False)


def test_too_little_main_memory_is_said_before_anything_is_loaded(streamed, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming.main_memory, "available_main_memory", lambda: 2**20)
    assert refusal(Workbench(tmp_path).load(streamed(4))) == (["error.streamed_main_memory"], False)


@pytest.mark.parametrize(
    "groups,key",
    [
        ({"train": {"method": "full"}}, "problem.streamed_full"),
        ({"lora": {"init": "pissa"}}, "problem.streamed_start"),
        ({"lora": {"use_dora": True}}, "problem.streamed_start"),
    ],
)
def test_settings_that_read_or_change_all_weights_are_refused(streamed, groups, key):
    from playground.settings import problems

    assert [problem.key for problem in problems(streamed(4, **groups))] == [key]
    assert problems(streamed("auto", **groups)) == []
