"""Full fine-tunes with an offloaded optimizer as jobs: the same results, predicted, and refused where it can't be.

On a CPU the setting changes nothing; where a test wants it nevertheless, it has prepare.py believe otherwise.
"""

import functools

import numpy as np
import pytest
import torch
from job_refusal import refusal
from safetensors.torch import load_file
from toys import toy_config

from playground.data.lengths import Lengths
from playground.engine import offloading
from playground.engine.workbench import Workbench
from playground.i18n import translate
from playground.memory import constants
from playground.planning import forecast
from playground.planning.cost import Machine, cutoff_cost
from playground.predict import meta_model, phases
from playground.runs import accuracy
from playground.settings import Load, Settings, Train, problems
from playground.train import checkpoint, offloaded_optimizer, prepare
from playground.ui import memory_figures

FULL = {"method": "full", "lr": 3e-3}
OFFLOADED = FULL | {"offload_optimizer": True}
GIB = 2**30


@pytest.fixture
def on_cpu(monkeypatch):
    """Have fine-tunes on the CPU offload their optimizer, in slices smaller than the toy's matrices."""
    monkeypatch.setattr(prepare, "offloads", lambda train, device: train.offload_optimizer)
    monkeypatch.setattr(offloaded_optimizer, "SLICE_BYTES", 4096)


def result_of(events) -> dict:
    return [e for e in events if e["kind"] == "done"][-1]["result"]


def losses(events) -> list[float]:
    return [event["loss"] for event in events if event["kind"] == "step"]


def saved(root, run: str) -> dict:
    return load_file(root / run / "model/model.safetensors")


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bits", [32, 16])
def test_losses_and_weights_are_those_of_a_resident_optimizer(chosen, tmp_path, on_cpu, bits):
    found = []
    train = {"max_steps": 6, "max_tokens_per_micro_batch": 128, "eval_every": 2}
    for method in (FULL, OFFLOADED):
        settings = chosen(load={"bits": bits, "dtype": "bfloat16"}, train=train | method)
        events = list(Workbench(tmp_path).tune(settings))
        found.append((losses(events), saved(tmp_path, result_of(events)["run"]), result_of(events)["best"]))
    assert found[0][0] == found[1][0] and found[0][2] == found[1][2] and len(found[0][0]) == 6
    assert_same(found[0][1], found[1][1])
    [note] = [event for event in events if event.get("key") == "note.offloaded"]
    weights = sum(tensor.nbytes for tensor in found[1][1].values())
    assert note["values"]["size_bytes"] == 3 * weights
    assert result_of(events)["parts"]["optimizer"] == 0


def test_resume_continues_bit_for_bit(chosen, tmp_path, on_cpu):
    settings = chosen(train=OFFLOADED | {"max_steps": 6})
    whole = result_of(Workbench(tmp_path).tune(settings))
    workbench, seen = Workbench(tmp_path), []
    for event in workbench.tune(settings):
        seen.append(event)
        if event["kind"] == "step" and event["step"] == 3:
            workbench.stop.set()
    stopped = result_of(seen)
    assert stopped["steps"] == 3 and (tmp_path / stopped["run"] / checkpoint.NAME).is_file()
    resumed = result_of(Workbench(tmp_path).resume(stopped["run"]))
    assert (resumed["steps"], resumed["loss"]) == (6, whole["loss"])
    assert_same(saved(tmp_path, stopped["run"]), saved(tmp_path, whole["run"]))


def test_a_step_that_ran_out_of_memory_is_repeated(chosen, tmp_path, on_cpu, monkeypatch):
    settings = chosen(train=OFFLOADED | {"max_steps": 3, "max_tokens_per_micro_batch": 128})
    whole = losses(Workbench(tmp_path).tune(settings))
    collect, calls = offloaded_optimizer.OffloadedOptimizer._collect, []

    def collect_short_of_memory(self, number, parameter):
        if not parameter.is_meta:
            calls.append(number)
            if len(calls) == 30:
                raise torch.OutOfMemoryError("CUDA out of memory")
        collect(self, number, parameter)

    monkeypatch.setattr(offloaded_optimizer.OffloadedOptimizer, "_collect", collect_short_of_memory)
    events = list(Workbench(tmp_path).tune(settings))
    assert [e["key"] for e in events if e["kind"] == "note"].count("note.stepped_down") == 1
    assert losses(events) == pytest.approx(whole, rel=1e-4)


def test_on_a_cpu_a_note_says_that_nothing_changes(chosen, tmp_path):
    events = list(Workbench(tmp_path).tune(chosen(train=OFFLOADED)))
    found = [event["key"] for event in events if event["kind"] == "note"]
    assert "note.offload_cpu" in found and "note.offloaded" not in found
    assert result_of(events)["parts"]["optimizer"] > 0
    [predicted] = [e for e in events if e["kind"] == "memory_predicted" and e["phase"] == "tune"]
    assert "main_memory" not in predicted and predicted["parts"]["optimizer"] > 0


def test_what_cannot_be_offloaded_is_said_before_anything_is_loaded(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(offloading, "offloads", lambda train, device: train.offload_optimizer)
    half = chosen(load={"bits": 16, "dtype": "float16"}, train=OFFLOADED)
    assert refusal(Workbench(tmp_path).tune(half)) == (["error.offload_float16"], False)
    monkeypatch.setattr(offloading.main_memory, "available_main_memory", lambda: constants.CUDA_PROGRAM_RSS)
    whole = chosen(load={"bits": 32}, train=OFFLOADED)
    assert refusal(Workbench(tmp_path).tune(whole)) == (["error.offload_main_memory"], False)
    bench = Workbench(tmp_path)
    list(bench.load(whole))  # which has its model already
    assert refusal(bench.tune(whole)) == (["error.offload_main_memory"], False)


@pytest.mark.parametrize(
    "train,key",
    [
        ({"method": "lora"}, "problem.offload_lora"),
        ({"optimizer": "adamw8bit"}, "problem.offload_kind"),
        ({"optimizer": "paged_adamw"}, "problem.offload_kind"),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused(train, key):
    settings = Settings().with_values({"load": {"bits": 16}, "train": OFFLOADED | train})
    assert [problem.key for problem in problems(settings)] == [key]


WIDE = {"num_hidden_layers": 8, "hidden_size": 512, "intermediate_size": 2048, "vocab_size": 512}


def predicted(offload: bool, device: str = "cuda", capacity: int = 0, lengths=(480, 400, 320, 240), **train) -> dict:
    values = {"method": "full", "batch_size": 4, "gradient_checkpointing": "all"} | train
    settings = Settings(load=Load(bits=16), train=Train(offload_optimizer=offload, **values))
    target = phases.Target(device, torch.bfloat16, capacity)
    return phases.predict_tune(toy_config("llama", **WIDE), settings, target, lengths)


def test_gradients_and_moments_are_predicted_in_main_memory():
    resident, offloaded = predicted(False), predicted(True)
    weights = offloaded["parts"]["weights"]
    assert "optimizer" not in offloaded["parts"] and "gradients" not in offloaded["parts"]
    assert resident["parts"]["optimizer"] == pytest.approx(2 * weights, rel=0.01)
    # gradients, too, but for the few that are pending, or the buffers of the update
    assert 2.5 * weights < resident["allocated"] - offloaded["allocated"] < 3.01 * weights
    assert offloaded["main_memory"] == 3 * 2 * offloaded["trainable"] + constants.CUDA_PROGRAM_RSS
    assert "main_memory" not in resident and resident["calls"] and not offloaded["calls"]
    assert predicted(True, "cpu") == predicted(False, "cpu")


def test_no_seconds_are_predicted():
    config = meta_model.config_of("Qwen/Qwen2.5-1.5B")
    lengths = Lengths(np.array([20, 30], np.int32), np.array([40, 30], np.int32))
    for offload in (False, True):
        train = {"method": "full", "offload_optimizer": offload, "max_steps": 10}
        settings = Settings().with_values({"load": {"model": "Qwen/Qwen2.5-1.5B", "bits": 16}, "train": train})
        cost = cutoff_cost(lengths, settings, config, Machine("cuda", 80 * GIB, "h100"))
        assert bool(cost["estimates"]) is not offload and cost["memory"]["verdict"] == "fits"


def test_the_buffers_of_an_update_are_predicted_where_they_are_the_peak():
    offloaded = predicted(True, lengths=(4,))
    largest = 2 * WIDE["hidden_size"] * WIDE["intermediate_size"]
    buffers = offloaded_optimizer.SLOTS * offloaded_optimizer.ROWS * largest
    assert offloaded["parts"]["buffers"] == pytest.approx(buffers + 2 * constants.CUBLAS_WORKSPACE, rel=0.01)


def test_the_memory_that_is_saved_goes_to_activations():
    capacity = predicted(False)["need"] + 2**28  # what the plan sets aside for a loss is more than a toy
    plans = [predicted(offload, capacity=capacity, gradient_checkpointing="auto") for offload in (False, True)]
    assert plans[1]["work"] < plans[0]["work"] and plans[1]["need"] <= capacity


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_plan_says_what_waits_in_main_memory(toy, lang):
    settings = Settings().with_values({"load": {"model": str(toy("llama", **WIDE)), "bits": 16}, "train": OFFLOADED})
    plan = forecast.forecast(settings, context=64, capacity=24 * GIB)
    assert plan["offloaded"] == {"main_memory": plan["phases"]["tune"]["main_memory"]}
    text = memory_figures._in_main_memory(functools.partial(translate, lang), plan)
    assert "2.0" in text and "GiB" in text and "time" not in plan["phases"]["tune"]
    steps = forecast.waterfall(settings)
    assert steps == forecast.waterfall(settings.with_values({"train": {"offload_optimizer": False}}))


def test_predicted_and_measured_main_memory_are_compared():
    event = {"kind": "memory_predicted", "phase": "tune", "device_used": 10, "main_memory": 900}
    measured = {"kind": "memory_measured", "phase": "tune", "peak": {"device_used": 10, "rss": 1000}}
    pairs = {pair.kind: pair for pair in accuracy.pairs("r", [event, measured])}
    assert (pairs["rss"].predicted, pairs["rss"].measured) == (900, 1000)
    on_cpu = event | {"rss": 950}
    assert {pair.kind: pair.predicted for pair in accuracy.pairs("r", [on_cpu, measured])}["rss"] == 950
