"""Prediction beside measurement in real jobs on toy models: what is said before, what is found after, and how near they are."""

from dataclasses import replace

import pytest
import torch
import toys
from toys import keys

from playground import runs
from playground.data.batch import Example
from playground.engine import predictions
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import card_limit, meter
from playground.memory.peaks import PeakTracker
from playground.predict import phases
from playground.predict.heaviest import heaviest_batch
from playground.runs import accuracy
from playground.settings import Generation, Load, Train
from playground.train import loop
from playground.train.memory_policy import MemoryPlan

ASK = {side: [{"instruction": "What is the answer to question 3?", "answer": None}] for side in ("base", "tuned")}


def of(events, kind: str) -> dict[str, dict]:
    return {e["phase"]: e for e in events if e["kind"] == kind}


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_load_tune_and_chat_are_predicted_beside_what_they_take(chosen, tmp_path, toy, bits):
    model = toy(
        "llama", hidden_size=256, intermediate_size=1024
    )  # tensors are counted in pieces of 512 bytes: not too small a toy, but constants are small
    bench, settings = Workbench(tmp_path), chosen(load={"model": str(model), "bits": bits, "dtype": "bfloat16"})
    events = list(bench.tune(settings))
    run = events[-1]["result"]["run"]
    list(bench.chat(settings, run, ASK, Generation(max_new_tokens=4)))
    kept = list(bench.run.events())
    assert bench.run.id == run and list(of(kept, "memory_predicted")) == list(of(kept, "memory_measured")) == [
        "load",
        "tune",
        "chat",
    ]
    order = [
        (e["kind"], e.get("phase", e.get("name")))
        for e in kept
        if e["kind"] in ("phase", "memory_predicted", "memory_measured")
    ]
    assert (
        order.index(("memory_predicted", "tune"))
        < order.index(("phase", "train"))
        < order.index(("memory_measured", "tune"))
    )
    assert order.index(("memory_predicted", "load")) < order.index(("memory_measured", "load"))
    parts = {(p.phase, p.kind): p.error for p in accuracy.pairs(run, kept) if p.kind not in accuracy.TOTALS}
    assert {
        ("load", "weights"),
        ("tune", "weights"),
        ("tune", "adapters"),
        ("tune", "optimizer"),
        ("chat", "weights"),
    } <= set(parts)
    assert {
        found: off for found, off in parts.items() if not -0.01 < off < (0.5 if "quant_constants" in found else 0.1)
    } == {}


def test_what_is_predicted_is_the_heaviest_step_of_the_run(chosen, tmp_path):
    events = list(Workbench(tmp_path).tune(chosen(train={"batch_size": 5})))
    said = of(events, "memory_predicted")["tune"]
    assert len(said["lengths"]) == len(said["labelled"]) == 5 and max(said["lengths"]) <= 128
    assert said["parts"]["activations"] > 0 and said["checkpointing"] == "off" and said["verdict"] == "fits"


def test_the_heaviest_batch_is_looked_for_in_all_epochs_and_with_padding_where_there_is_some():
    rows = [Example([1] * n, 1) for n in (3, 9, 4, 30, 5, 6, 7, 8)]
    assert sorted(len(e.ids) for e in heaviest_batch(rows, Train(batch_size=2, epochs=1), group_by_length=True)) == [
        9,
        30,
    ]
    one, many = (
        sum(len(e.ids) for e in heaviest_batch(rows, Train(batch_size=2, epochs=n), group_by_length=False))
        for n in (1, 8)
    )
    assert 30 < one <= many <= 39
    assert len(heaviest_batch(rows, Train(batch_size=100, max_steps=1), group_by_length=False)) == 8


def test_a_prediction_that_fails_is_a_note_and_the_job_goes_on(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(
        phases, "predict_tune", lambda *args: (_ for _ in ()).throw(RuntimeError("no such operator\non meta"))
    )
    events = list(Workbench(tmp_path).tune(chosen()))
    [note] = [e for e in events if e["kind"] == "note" and e["key"] == "note.not_predicted"]
    assert (
        note["values"]["job"] == "tune"
        and "no such operator" in note["values"]["detail"]
        and "\n" not in note["values"]["detail"]
    )
    assert (
        events[-1]["result"]["steps"] == 3
        and "tune" not in of(events, "memory_predicted")
        and accuracy.pairs("r", events)
    )


def test_resident_memory_where_it_is_predicted_stands_beside_the_measured(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(
        phases, "predict_load", lambda *args: {"parts": {"weights": 5}, "allocated": 5, "rss": 2**29, "need": 2**29}
    )
    events = list(Workbench(tmp_path).load(chosen()))
    said = of(events, "memory_predicted")["load"]
    assert (said["rss"], said["need"], said["verdict"]) == (2**29, 2**29, "fits")
    [pair] = [p for p in accuracy.pairs("r", events) if p.kind == "rss"]
    assert (pair.predicted, pair.measured) == (2**29, of(events, "memory_measured")["load"]["peak"]["rss"])


def test_a_fine_tune_stopped_after_one_step_is_not_measured(chosen, tmp_path):
    bench, seen = Workbench(tmp_path), []
    for event in bench.tune(chosen(train={"max_steps": 50})):
        seen.append(event)
        if event["kind"] == "step":
            bench.stop.set()
    assert seen[-1]["result"]["steps"] == 1 and list(of(seen, "memory_measured")) == ["load"]


def test_each_phase_is_measured_by_itself(monkeypatch):
    readings = iter([{"rss": 5}, {"rss": 4}, {"rss": 3, "device_used": 8}, {"rss": 6}, {"rss": 2}])
    monkeypatch.setattr(meter, "read_memory", lambda: next(readings))
    peaks = PeakTracker("cpu")
    peaks.update({"rss": 9})
    peaks.start_phase()
    assert peaks.phase_peak() == {"rss": 6} and peaks.job_peak() == {
        "rss": 9
    }  # what there is as a phase ends counts, though the meter looks too rarely


def test_the_parts_of_a_peak_come_to_all_of_it_on_cuda_and_to_the_exact_ones_on_a_cpu():
    parts = {"weights": 50, "gradients": 0, "optimizer": 10}
    assert predictions.with_remainder(parts, {"rss": 900}) == {"weights": 50, "optimizer": 10}
    assert predictions.with_remainder(parts, {"rss": 900, "allocated": 75, "reserved": 80, "device_used": 100}) == {
        "weights": 50,
        "optimizer": 10,
        "working": 15,
        "runtime": 25,
    }


@pytest.mark.parametrize("card,verdict", [(80.0, "note.card_fits"), (0.5, "note.card_no")])
def test_on_a_cpu_a_pretended_card_is_compared_with_and_nothing_is_held_to_it(chosen, tmp_path, card, verdict):
    events = list(Workbench(tmp_path).tune(chosen(load={"simulate_gpu_gib": card})))
    told = [e["values"] | {"key": e["key"]} for e in events if e["kind"] == "note" and e["key"].startswith("note.card")]
    assert [(t["key"], t["job"]) for t in told] == [(verdict, "load"), (verdict, "tune")] and told[0][
        "card_bytes"
    ] == card * 2**30
    assert told[1]["need_bytes"] > card_limit.MAX_RUNTIME_BYTES and events[-1]["result"]["steps"] == 3
    assert runs.history(tmp_path)[0].state == "done"


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA device of 80 GiB as torch would show it; what it is held to is in the list that comes back."""
    loaded = []
    monkeypatch.setattr(
        card_limit.meter, "hardware", lambda device: {"capacity": 80 * 2**30 if device == "cuda" else 2**30}
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", loaded.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2**30)
    return loaded


def test_torch_is_held_to_what_a_card_leaves_it_and_let_go_of_afterwards(cuda):
    with pytest.raises(RuntimeError), card_limit.limit_cuda_memory(Load(simulate_gpu_gib=8), "cuda"):
        assert cuda == [pytest.approx((8 * 2**30 - card_limit.MAX_RUNTIME_BYTES) / (80 * 2**30))]
        raise RuntimeError("out of memory")
    assert cuda[1:] == [1.0]
    with (
        card_limit.limit_cuda_memory(Load(simulate_gpu_gib=0), "cuda"),
        card_limit.limit_cuda_memory(Load(simulate_gpu_gib=8), "cpu"),
    ):
        assert len(cuda) == 2


def test_capacity_and_room_are_the_cards(cuda):
    assert (
        card_limit.capacity(Load(simulate_gpu_gib=8), "cuda")
        == card_limit.available_memory(Load(simulate_gpu_gib=8), "cuda")
        == 8 * 2**30
    )
    assert card_limit.capacity(Load(simulate_gpu_gib=200), "cuda") == card_limit.capacity(Load(), "cuda") == 80 * 2**30
    assert card_limit.available_memory(Load(), "cuda") == 71 * 2**30 + card_limit.MAX_RUNTIME_BYTES < 80 * 2**30
    assert (
        card_limit.capacity(Load(simulate_gpu_gib=8), "cpu") == 2**30
        and card_limit.available_memory(Load(), "cpu") > 2**28
    )


def test_a_card_that_cuda_alone_would_fill_is_refused(cuda):
    with pytest.raises(PlaygroundError) as told, card_limit.limit_cuda_memory(Load(simulate_gpu_gib=0.5), "cuda"):
        pass
    assert told.value.problems[0].key == "error.card" and cuda == []


def test_the_ledger_of_an_out_of_memory_holds_everything():
    parts = {"weights": 50, "optimizer": 10}
    on_a_card = {"rss": 900, "allocated": 75, "reserved": 80, "device_used": 100}
    assert predictions.full_ledger(parts, {"rss": 900}) == {"weights": 50, "optimizer": 10, "rest_cpu": 840}
    assert sum(predictions.full_ledger(parts, on_a_card).values()) == 100
    assert predictions.full_ledger({"weights": 0}, on_a_card) == {
        "weights": 75,
        "runtime": 25,
    }  # in the middle of a load


def test_out_of_memory_is_told_with_the_ledger_of_that_moment(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(MemoryPlan, "step_down", lambda self: False)
    monkeypatch.setattr(loop, "_accumulate", lambda *args: (_ for _ in ()).throw(RuntimeError("can't allocate memory")))
    bench = Workbench(tmp_path)
    with pytest.raises(PlaygroundError) as told:
        list(bench.tune(chosen()))
    [failure] = [e for e in bench.run.events() if e["kind"] == "error"]
    assert (
        failure["parts"]["rest_cpu"] > failure["parts"]["weights"] > failure["parts"]["adapters"] > 0
        and 2**27 < failure["peak"]["rss"] < failure["capacity"]
    )
    assert sum(failure["parts"].values()) == failure["peak"]["rss"] == failure["problems"][0]["values"]["used_bytes"]
    assert "プログラム" in told.value.text("ja")


def test_on_a_pretended_card_the_largest_part_is_one_that_can_be_changed(chosen, tmp_path, cuda):
    bench = Workbench(tmp_path)
    list(bench.load(chosen()))
    bench.peaks.phase_peak = lambda: {"rss": 1, "allocated": 2**30, "reserved": 2**30, "device_used": 60 * 2**30}
    told, then = bench._explain(torch.OutOfMemoryError("CUDA out of memory"), Load(simulate_gpu_gib=8), "cuda")
    values = told.problems[0].values
    assert (values["part"], values["capacity_bytes"]) == ("working", 8 * 2**30) == ("working", then["capacity"])
    assert (
        values["used_bytes"]
        == then["peak"]["device_used"]
        == 2**30 + card_limit.MAX_RUNTIME_BYTES
        == sum(then["parts"].values())
    )  # others' 58 GiB aren't on that card


def test_a_model_that_is_predicted_not_to_fit_is_loaded_only_if_that_is_said(tmp_path, chosen):
    model = toys.too_large(tmp_path / "giant")
    bench, settings = Workbench(tmp_path / "runs"), chosen(load={"model": str(model), "bits": 4})
    for job in (bench.load, bench.tune):
        with pytest.raises(PlaygroundError) as told:
            list(job(settings))
        [problem] = told.value.problems
        assert (
            problem.key == "error.too_large" and problem.values["need_bytes"] > problem.values["capacity_bytes"] > 2**28
        )
        kinds = [event["kind"] for event in bench.run.events()]
        assert kinds.index("memory_predicted") < kinds.index("error")
    anyway = replace(settings, load=replace(settings.load, force=True))
    with pytest.raises(PlaygroundError) as told:
        list(bench.load(anyway))
    assert keys(told) == ["error.web_page"]  # as far as its files


def test_a_model_that_was_loaded_anyway_is_held_for_what_comes_next(tmp_path, chosen):
    bench, settings = Workbench(tmp_path), chosen(load={"force": True})
    list(bench.load(settings))
    loaded = bench.loaded
    list(
        bench.chat(
            replace(settings, load=replace(settings.load, force=False)),
            None,
            {"base": ASK["base"]},
            Generation(max_new_tokens=2),
        )
    )
    assert bench.loaded is loaded
