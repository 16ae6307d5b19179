"""The figures of the sentence before a fine-tune: rows, steps, time and memory, as the run itself will have them."""

import time

import pytest
from toys import keys

from playground import runs
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model.dtype import default_bits
from playground.planning import tune_summary as module
from playground.planning.client import Planner
from playground.planning.tune_summary import tune_summary
from playground.settings import Settings


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """This machine without its GPU, if it has one."""
    hardware = module.meter.hardware("cpu")
    machine = {"device": "cpu", "name": hardware["name"], "bytes": hardware["capacity"]}
    monkeypatch.setattr(module, "this_machine", lambda: machine)
    return machine


def test_summary_says_what_the_run_then_does(chosen, tmp_path):
    settings = chosen(train={"max_steps": 0, "epochs": 2.0})
    summary = tune_summary(settings, str(tmp_path))
    assert summary["seconds"] is None and summary["seconds_source"] is None
    events = list(Workbench(tmp_path).tune(settings))
    result, prediction = events[-1]["result"], [e for e in events if e["kind"] == "memory_predicted"][-1]
    assert (summary["rows"], summary["steps"], summary["epochs"]) == (result["rows"], result["steps"], 2.0)
    assert summary["need_bytes"] == prediction["need"] - prediction["held"]
    assert (summary["capacity"], summary["verdict"]) == (prediction["capacity"], prediction["verdict"])
    assert summary["exact"] and summary["bits"] == 32


def test_time_is_that_of_an_earlier_run_with_all_its_phases(chosen, tmp_path, monkeypatch):
    list(Workbench(tmp_path).tune(chosen()))
    [earlier] = runs.history(tmp_path)
    run = runs.find(tmp_path, earlier.id)
    tokens = [event["tokens"] for event in run.events() if event["kind"] == "step"][-1]  # of all steps so far
    measured = {"run": earlier.id, "tokens_per_s": 10.0, "streamed": 0}  # whatever it was
    monkeypatch.setattr(runs, "measured_speed", lambda *_: measured)
    monkeypatch.setattr(runs, "seconds_besides_training", lambda _: 1000.0)
    once, ten_times = (tune_summary(chosen(train={"max_steps": steps}), str(tmp_path)) for steps in (3, 30))
    assert once["seconds_source"] == "measured"
    assert once["seconds"] - 1000 == pytest.approx(tokens / 10.0, rel=0.2)
    assert ten_times["seconds"] - once["seconds"] == pytest.approx(9 * (once["seconds"] - 1000), rel=0.02)


def test_time_and_memory_of_several_processes_are_not_those_of_one(chosen, tmp_path):
    list(Workbench(tmp_path).tune(chosen()))
    machine = module.meter.hardware("cpu")["name"]
    model = chosen().load.model
    assert runs.measured_speed(tmp_path, model, 32, machine)
    summary = tune_summary(chosen(train={"num_processes": 2}), str(tmp_path))
    assert (summary["seconds"], summary["need_bytes"], summary["verdict"]) == (None, None, None)
    [earlier] = runs.history(tmp_path)
    settings = tmp_path / earlier.id / "settings.json"
    settings.write_text(settings.read_text().replace('"num_processes": 1', '"num_processes": 2'))
    assert runs.measured_speed(tmp_path, model, 32, machine) is None


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_memory_of_several_gpus_is_that_of_each_as_the_run_predicts_it(chosen, tmp_path, monkeypatch, parallel):
    capacity = 4 * 2**30
    monkeypatch.setattr(module, "this_machine", lambda: {"device": "cuda", "name": "A GPU", "bytes": capacity})
    train = {"num_processes": 2, "parallel": parallel}
    settings = chosen(load={"device": "auto", "bits": 4}, train=train)
    summary = tune_summary(settings, str(tmp_path))
    asked = settings, 0, capacity, "cuda"
    memory = module.rows.cutoff_cost(*asked)["memory"]
    assert summary["processes"] == memory["gpus"] == 2 and summary["need_bytes"] == memory["bytes"]
    assert summary["verdict"] == "fits" and summary["seconds"] is None
    one = module.rows.cutoff_cost(settings.with_values({"train": {"num_processes": 1}}), *asked[1:])["memory"]
    assert one["gpus"] == 1 and memory["bytes"] > one["bytes"]  # NCCL's buffers: this toy is smaller than they are


def test_time_of_fetching_the_model_is_not_counted(tmp_path):
    run = runs.create(tmp_path, "tune", Settings())
    for t, fields in enumerate(({"name": "fetch"}, {"name": "load"}, {"name": "train"}, {"name": "idle"})):
        run._clock = time.monotonic() - 100.0 * t
        run.append("phase", **fields)
    run.append("step", step=1, loss=1.0, tokens=500, tokens_per_s=5.0)
    run.append("done", job="tune", result={"seconds": 330.0})
    assert runs.seconds_besides_training(run) == pytest.approx(330 - 100 - 100, abs=1)


def test_auto_bits_find_the_earlier_run_at_the_bits_that_auto_means(chosen, tmp_path, cpu):
    settings = chosen(load={"bits": 0})
    bits = default_bits("cpu")
    run = runs.create(tmp_path, "tune", settings.with_values({"load": {"bits": bits}}), hardware={"name": cpu["name"]})
    run.append("done", job="tune", result={"tokens_per_s": 100.0, "seconds": 1.0})
    summary = tune_summary(settings, str(tmp_path))
    assert summary["bits"] == bits and summary["seconds_source"] == "measured"


@pytest.mark.parametrize("source,rows", [("helpdesk.en", 330), ("plain-qa.ja", None)])
def test_bundled_set_before_its_model_is_on_this_machine(source, rows):
    values = {"load": {"model": "smollm2-135m-instruct", "bits": 16}, "data": {"source": source}}
    settings = Settings().with_values(values | {"train": {"epochs": 2, "batch_size": 8}})
    summary = tune_summary(settings)
    assert summary["model"] == "SmolLM2 135M Instruct" or "SmolLM2" in summary["model"]
    assert not summary["exact"] and summary["need_bytes"] > 2**29 and summary["verdict"] == "fits"
    assert summary["rows"] == (rows or summary["rows"]) and summary["steps"] == -(-summary["rows"] // 8) * 2


def test_simulated_card_is_the_capacity_on_a_gpu_only(chosen, monkeypatch, cpu):
    card = {"device": "cuda", "name": "NVIDIA H100 80GB HBM3", "bytes": 80 * 2**30}
    settings = chosen(load={"device": "auto", "bits": 16, "simulate_gpu_gib": 8.0})
    assert tune_summary(settings)["capacity"] == cpu["bytes"]
    monkeypatch.setattr(module, "this_machine", lambda: card)
    summary = tune_summary(settings)
    assert summary["capacity"] == 8 * 2**30 and (summary["seconds_source"], summary["exact"]) == ("table", True)
    assert tune_summary(chosen(load={"simulate_gpu_gib": 8.0}))["capacity"] == cpu["bytes"]  # on the CPU by choice


def test_rows_that_cannot_be_read_are_an_error(chosen):
    with pytest.raises(PlaygroundError) as caught:
        tune_summary(chosen(data={"source": "/nowhere/rows.jsonl"}))
    assert keys(caught) == ["error.no_file"]


@pytest.mark.slow
def test_page_asks_it_in_the_planners_process(chosen, tmp_path):
    planner = Planner(tmp_path)
    try:
        settings = chosen(train={"max_steps": 7, "lr": 1e-3})
        assert planner.ask("tune_summary", settings=settings.to_dict(), root=str(tmp_path))["steps"] == 7
    finally:
        planner.close()
