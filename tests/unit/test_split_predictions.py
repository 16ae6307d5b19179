"""A fine-tune of several processes predicts as it starts what its plan says, also where FSDP2 itself splits weights."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import toys
from transformers.modeling_layers import GradientCheckpointingLayer

from playground.data.batch import Example
from playground.engine import predictions, tune
from playground.engine.job import JobContext
from playground.engine.streaming import check_main_memory
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import card_limit, constants, main_memory
from playground.memory.peaks import PeakTracker
from playground.model.shares import share_bytes
from playground.planning import forecast, several
from playground.predict import meta_model, phases
from playground.predict.heaviest import predict_share
from playground.predict.phase_traces import LABELLED_SHARE
from playground.predict.streamed_events import receive_bytes
from playground.runs import accuracy
from playground.settings import Settings
from playground.train import memory_policy
from playground.train.parallel import Team

SMALL, TOKENS, CAPACITY = "cyberagent/open-calm-small", 64, 2 * 2**30
TWO = {"num_processes": 2, "parallel": "fsdp2"}


def settings_for(model: str, bits: int, parallel: str) -> Settings:
    train = {"batch_size": 8, "max_seq_length": TOKENS, "num_processes": 4, "parallel": parallel}
    load = {"model": model, "bits": bits, "dtype": "bfloat16" if bits < 32 else "auto", "streamed_layers": "0"}
    return Settings().with_values({"load": load, "train": train})


def started(settings: Settings, monkeypatch) -> list[dict]:
    """What one of several GPUs predicts as the fine-tune starts, of rows of full length."""
    for name in ("available_memory", "capacity"):
        monkeypatch.setattr(predictions, name, lambda *_: CAPACITY)
    config, team = meta_model.config_of(settings.load.model), Team.planned(settings, "cuda")
    dtype = torch.float32 if settings.load.bits == 32 else torch.bfloat16
    loaded = SimpleNamespace(model=SimpleNamespace(config=config), device="cuda", dtype=dtype, streamed_count=0)
    rows = [Example([5] * TOKENS, TOKENS - round(TOKENS * LABELLED_SHARE)) for _ in range(8)]
    load = predictions.predict_load_memory(settings.load, config, team, True)
    return [*load, *predictions.predict_tune_memory(settings, loaded, rows, {"device_used": 0}, None, team)]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("model", "bits"), [(SMALL, 32), (SMALL, 16), (SMALL, 8), (SMALL, 4), ("google-t5/t5-small", 16)]
)
def test_each_gpu_predicts_as_it_starts_what_the_plan_says(model, bits, parallel, monkeypatch):
    settings = settings_for(model, bits, parallel)
    events, plan = started(settings, monkeypatch), forecast.forecast(settings, TOKENS, CAPACITY)["phases"]
    assert [(event["kind"], event["phase"]) for event in events] == [
        ("memory_predicted", "load"),
        ("memory_predicted", "tune"),
    ]
    for event in events:
        planned = plan[event["phase"]]
        assert {name: event[name] for name in planned} == planned and event["held"] == 0


@pytest.mark.parametrize("model", [SMALL, "google-t5/t5-small"])
def test_of_what_fsdp2_splits_each_gpu_keeps_a_share_and_gathers_two_layers(model, monkeypatch):
    alone = started(settings_for(model, 16, "ddp"), monkeypatch)
    split = started(settings_for(model, 16, "fsdp2"), monkeypatch)
    config = meta_model.config_of(model)
    network = meta_model.build(config, replace(Settings().load, bits=16), torch.bfloat16, "cpu")
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    sizes = [sum(p.numel() * p.itemsize for p in layer.parameters() if p.ndim > 1) for layer in layers]
    whole, kept = alone[0]["parts"]["weights"], split[0]["parts"]["weights"]
    assert kept == pytest.approx(whole - 3 / 4 * sum(sizes), rel=0.001)
    assert split[0]["parts"]["buffers"] >= 1.99 * max(sizes) > alone[0]["parts"].get("buffers", 0)
    assert split[1]["parts"]["weights"] < alone[1]["parts"]["weights"] / 2
    apart = split[1]["reserved"] - split[1]["allocated"]  # FSDP2's own buffers; two layers', or the embedding and head
    assert apart > 1.99 * max(sizes) and apart > alone[1]["reserved"] - alone[1]["allocated"] + max(sizes)


def test_fsdp2_receives_two_layers_or_all_that_is_outside_of_them():
    def received(ends: list[int], waits: bool) -> int:
        return receive_bytes({0: 4096, 1: 8192}, ends, 4, waits)

    assert (received([], False), received([10_000], False), received([10_000, 10_000], False)) == (
        16_384,
        16_384,
        20_000,
    )
    assert received([], True) == 16_384 + share_bytes(16_384, 4)


def test_a_plan_has_the_room_that_a_simulated_gpu_leaves_beside_model_and_adapter(monkeypatch):
    rooms, own = [], memory_policy.measure_cost
    monkeypatch.setattr(memory_policy, "measure_cost", lambda *of: rooms.append(of[-1]) or own(*of))
    settings = settings_for(SMALL, 16, "ddp").with_values({"lora": {"r": 48}, "train": {"num_processes": 1}})
    config, target = meta_model.config_of(SMALL), phases.Target("cuda", torch.bfloat16, CAPACITY)
    parts = phases.predict_tune(config, settings, target, [TOKENS] * 3)["parts"]
    adapters = parts["adapters"]  # with float32 copies, of twice as many bytes, in the optimizer's part
    assert parts["optimizer"] == pytest.approx(6 * adapters, rel=0.01)
    taken = card_limit.runtime_limit() + constants.CUBLAS_WORKSPACE + parts["weights"] + 3 * adapters
    assert rooms[-1] == pytest.approx(CAPACITY - taken, abs=2**17)


def test_what_fsdp2_splits_and_isnt_predicted_is_said(monkeypatch):
    own = meta_model.model_facts
    monkeypatch.setattr(meta_model, "model_facts", lambda *of: replace(own(*of), kinds=()))
    events = started(settings_for(SMALL, 16, "fsdp2"), monkeypatch)
    assert [event["key"] for event in events] == ["note.not_predicted"] * 2


def test_shares_that_wait_in_main_memory_are_predicted_there(monkeypatch):
    settings = settings_for(SMALL, 16, "fsdp2")
    split = started(settings, monkeypatch)
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    waiting = started(settings, monkeypatch)
    for phase, elsewhere in zip(split, waiting):
        shares = phase["parts"]["weights"] - elsewhere["parts"]["weights"]
        assert shares > 0 and "main_memory" not in phase and "streamed_layers" not in elsewhere
        assert elsewhere["main_memory"] - constants.CUDA_PROGRAM_RSS == pytest.approx(shares, rel=0.03)
        assert elsewhere["allocated"] < phase["allocated"]
    monkeypatch.setattr(main_memory, "available_main_memory", lambda: 3 * waiting[1]["main_memory"])
    check_main_memory(waiting[1], 3)
    with pytest.raises(PlaygroundError, match="RAM"):
        check_main_memory(waiting[1], 4)


@pytest.mark.parametrize(("environment", "predicts"), [("false", True), ("true", False)])
def test_no_answers_are_predicted_where_split_weights_wait_in_main_memory(environment, predicts, monkeypatch):
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", environment)
    team = Team.planned(settings_for(SMALL, 16, "fsdp2"), "cpu")
    assert team.splits_numbers
    assert JobContext(None, None, team, PeakTracker("cpu"), lambda: None).predicts_answers == predicts


@pytest.mark.parametrize("waits", [True, False])
def test_no_rows_are_tried_while_matrices_wait_in_their_files(waits, monkeypatch):
    tried, found = [], SimpleNamespace(mode="packed")
    monkeypatch.setattr(tune, "try_batching", lambda *arguments: tried.append(arguments) or found)
    monkeypatch.setattr(predictions, "predict_tune_memory", lambda *arguments: iter([arguments]))
    context = SimpleNamespace(bytes_by_part=dict, team=None)
    rows = SimpleNamespace(examples=[], eval_set=SimpleNamespace(examples=[]))
    steps = tune._predict_memory(context, SimpleNamespace(pages=waits), Settings(), rows)
    assert next(steps)[4] is (None if waits else found) and len(tried) == (not waits)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == (None if waits else "packed")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [pytest.param(32, marks=pytest.mark.exhaustive), 16, 4])
def test_two_processes_predict_what_their_plan_says_and_hold_those_weights(chosen, tmp_path, monkeypatch, bits):
    monkeypatch.setenv("PLAYGROUND_CPU_PROCESSES", "2")
    model = toys.save(tmp_path / "model", num_hidden_layers=6, hidden_size=256, intermediate_size=1024)
    settings = chosen(load={"model": str(model), "bits": bits, "dtype": "bfloat16"}, train=TWO)
    workbench = Workbench(tmp_path / "runs")
    events = list(workbench.tune(settings))
    predicted = {event["phase"]: event for event in events if event["kind"] == "memory_predicted"}
    measured = [event["phase"] for event in events if event["kind"] == "memory_measured"]
    assert list(predicted) == ["load", "tune"] and measured == (["load", "tune"] if bits < 16 else ["tune"])
    config, tuned = meta_model.config_of(str(model)), predicted["tune"]
    resolved, target = forecast.resolve_target(settings, "cpu", tuned["capacity"])
    own = several.checked_target(config, resolved, target)
    planned = predict_share(config, resolved, own, tuned["lengths"], tuned["labelled"])
    assert planned["need"] == tuned["need"] - tuned["held"] and planned["parts"] == tuned["parts"]
    assert len(tuned["lengths"]) == 2  # of a batch's four rows
    load = forecast.forecast(settings, TOKENS, 0, "cpu")["phases"]["load"]
    assert load["need"] == predicted["load"]["need"] - predicted["load"]["held"]
    errors = {pair.kind: pair.error for pair in accuracy.pairs("r", events) if pair.phase == "tune"}
    assert abs(errors["weights"]) < 0.01 and abs(errors["adapters"]) < 0.02
