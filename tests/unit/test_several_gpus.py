"""Plans for several GPUs (planning/several.py): predicted as the run would, refused as the run would be."""

import pickle
from html import escape
from itertools import accumulate

import gradio as gr
import pytest
import torch
from pages import page_over

from playground.data.batch import Example
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.memory.constants import CUDA_PROGRAM_RSS
from playground.planning import forecast, largest, picture
from playground.planning.client import Planner
from playground.predict import meta_model
from playground.predict.heaviest import predict_heaviest_step
from playground.predict.phase_traces import LABELLED_SHARE
from playground.predict.phases import Target, predict_load
from playground.settings import Settings
from playground.ui import plan_tab, several_figures
from playground.ui.gpu_choice import THIS_MACHINE

GIB = 2**30
CALM = "cyberagent/open-calm-7b"
SMALL = "cyberagent/open-calm-small"


def plan(model: str = SMALL, bits: int = 4, gpus: int = 4, **train) -> Settings:
    values = {"batch_size": 8, "max_seq_length": 64, "num_processes": gpus} | train
    return Settings().with_values({"load": {"model": model, "bits": bits}, "train": values})


@pytest.mark.parametrize(("parallel", "bits"), [("ddp", 16), ("ddp", 4), ("fsdp2", 16), ("fsdp2", 8), ("fsdp2", 4)])
def test_a_plan_predicts_what_the_run_predicts_as_it_starts(parallel, bits):
    settings, capacity = plan(bits=bits, parallel=parallel), 2 * GIB
    planned = forecast.forecast(settings, 64, capacity)["phases"]
    target = Target("cuda", torch.bfloat16, capacity, processes=4, split=parallel == "fsdp2")
    config = meta_model.config_of(SMALL)
    rows = [Example([5] * 64, 64 - round(64 * LABELLED_SHARE)) for _ in range(8)]
    started = predict_heaviest_step(config, settings, target, rows)
    for total in ("need", "allocated", "parts", "checkpointing", "rows"):
        assert planned["tune"][total] == started[total]
    assert planned["load"] == predict_load(config, settings, target)


@pytest.mark.parametrize("bits", [32, 16])
def test_fsdp2_of_unquantized_weights_keeps_a_share_on_each_gpu(bits):
    loads = [forecast.forecast(plan(CALM, bits, gpus, parallel="fsdp2"), 64)["phases"]["load"] for gpus in (2, 4)]
    weights = [load["parts"]["weights"] for load in loads]
    assert 1.5 < weights[0] / weights[1] < 2


def test_a_large_model_needs_less_of_each_gpu_where_its_weights_are_split():
    several = forecast.forecast(plan(CALM, parallel="fsdp2"), 64)["several"]
    ways = several["ways"]
    assert ways["fsdp2"]["need"] < ways["ddp"]["need"] and "need" in ways["one"]
    assert (several["count"], several["rows"], several["batch"]) == (4, 2, 8)
    assert several["main_memory"] == 4 * CUDA_PROGRAM_RSS > 4 * GIB


def test_one_gpu_is_planned_as_ever():
    alone, several = (forecast.forecast(plan(gpus=gpus), 64) for gpus in (1, 2))
    assert "several" not in alone and several["several"]["ways"]["one"]["need"] == max(
        alone["phases"][name]["need"] for name in ("load", "tune")
    )
    assert alone["phases"]["chat"]["need"] == several["phases"]["chat"]["need"]


@pytest.mark.parametrize(
    ("model", "values", "key"),
    [
        (SMALL, {"train": {"batch_size": 6}}, "error.accumulation"),
        (SMALL, {"train": {"parallel": "fsdp2"}, "lora": {"use_dora": True}}, "error.split_start"),
        (SMALL, {"load": {"streamed_layers": "4"}}, "error.streamed_processes"),
        ("google-t5/t5-small", {"train": {"parallel": "fsdp2"}}, "error.split_family"),
    ],
)
def test_what_several_gpus_cant_do_is_said_before_they_are_started(model, values, key):
    settings = plan(model).with_values(values)
    with pytest.raises(PlaygroundError) as caught:
        forecast.forecast(settings, 64)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_bar_tape_and_snapshot_are_those_of_one_of_the_gpus(parallel, tmp_path):
    settings = plan(CALM, parallel=parallel)
    tuned = forecast.forecast(settings, 64, 8 * GIB)["phases"]["tune"]
    assert picture.bar(settings, "tune", capacity=8 * GIB)["need"] == tuned["need"]
    tape = picture.job_tape(settings, "tune", capacity=8 * GIB)["tape"]
    assert tape["allocated"] == max(visit["allocated"] for visit in tape["visits"]) == tuned["allocated"]
    picture.write_tune_snapshot(settings, tmp_path / "step.pickle", 8 * GIB)
    [events] = pickle.loads((tmp_path / "step.pickle").read_bytes())["device_traces"]
    signs = {"alloc": 1, "free_completed": -1}
    assert max(accumulate(signs.get(e["action"], 0) * e["size"] for e in events)) == tuned["allocated"]


def test_the_fastest_settings_of_several_gpus_need_what_their_plan_says():
    settings = plan(CALM, parallel="fsdp2")
    ranked = forecast.fastest_settings(settings, 8 * GIB)
    assert {option["bits"] for option in ranked} == {16, 8, 4} and all(option["seconds"] is None for option in ranked)
    for option in ranked:
        train = {"gradient_checkpointing": option["checkpointing"], "max_tokens_per_micro_batch": option["tokens"]}
        same = settings.with_values({"load": {"bits": option["bits"]}, "train": train})
        assert forecast.forecast(same, 64, 8 * GIB)["phases"]["tune"]["need"] == option["need"]


def test_what_savings_save_is_of_one_gpu():
    questions = plan_tab.PlanInputs(plan(parallel="fsdp2").to_dict(), GIB, "cuda", 64).questions()
    assert questions["waterfall"]["settings"] == plan(gpus=1).to_dict()
    assert questions["largest_models"]["gpus"] == 4


@pytest.fixture
def page(tmp_path):
    """The Plan tab of a page that strangers open, where a run has one process."""
    page = page_over(tmp_path, planner=Planner(tmp_path, ("false",)))
    assert page.limits and page.limits.processes == 1
    with gr.Blocks():
        return page, plan_tab.build(page)


def inputs_with(page_and_tab, **chosen) -> plan_tab.PlanInputs:
    page, tab = page_and_tab
    names = {id(tab.gpus): "gpus", id(tab.card): "card"}
    values = [chosen.get(names.get(id(one), ""), one.value) for one in tab.inputs]
    return plan_tab.parse_inputs(page, tab, values)


def test_more_gpus_than_a_visitor_may_use_can_be_planned(page):
    assert inputs_with(page, gpus=8).settings["train"]["num_processes"] == 8


@pytest.mark.parametrize("gpus", [0, -1, 3.5, 10**9, "four", None, True])
def test_a_number_of_gpus_that_cant_be_is_named_in_a_sentence(page, gpus):
    with pytest.raises(PlaygroundError) as caught:
        inputs_with(page, gpus=gpus)
    [problem] = caught.value.problems
    assert problem.key in ("problem.num_processes", "problem.kind", "problem.most") and str(gpus) in problem.text("en")


@pytest.mark.parametrize(("machine", "usable", "planned"), [("cpu", 4, 1), ("cuda", 2, 2), ("cuda", 8, 4)])
def test_of_this_machine_as_many_gpus_are_planned_as_it_has(page, monkeypatch, machine, usable, planned):
    monkeypatch.setattr(plan_tab, "memory_of", lambda card: {"device": machine, "bytes": GIB, "name": "here"})
    monkeypatch.setattr(plan_tab, "usable_processes", lambda: usable)
    assert inputs_with(page, card=THIS_MACHINE, gpus=4).settings["train"]["num_processes"] == planned


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_ways_say_what_each_gpu_needs_or_why_that_isnt_known(lang):
    def say(key, **values):
        return translate(lang, key, **values)

    trouble = {"problems": [{"key": "error.split_not_predicted", "values": {"bits": 16}}]}
    ways = {"one": {"need": 9 * GIB}, "ddp": {"need": 7 * GIB}, "fsdp2": {"trouble": trouble}}
    several = {"count": 2, "parallel": "ddp", "rows": 4, "batch": 8, "main_memory": 3 * GIB, "ways": ways}
    drawn = several_figures.ways(say, several, 8 * GIB)
    assert drawn.count("<li") == 3 and drawn.count("class=chosen") == 1
    assert (
        "verdict no" in drawn and "verdict fits" in drawn and escape(say("error.split_not_predicted", bits=16)) in drawn
    )
    phases = {"load": {"need": GIB}, "chat": {"need": 20 * GIB}, "tune": {"need": 7 * GIB}}
    headline = several_figures.headline(say, {"phases": phases, "several": several}, 8 * GIB)
    assert "verdict fits" in headline and "7.00" in headline and "2" in headline


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_setup_of_the_paper_is_a_row(lang):
    def say(key, **values):
        return translate(lang, key, **values)

    rows = [
        {"setup": setup["id"], "bits": bits, "tune": {"name": "<b>", "need": GIB}}
        for setup in plan_tab.catalog.setups().values()
        for bits in largest.SETUP_BITS
    ]
    drawn = several_figures.setups(say, rows, 256)
    assert drawn.count("<tr>") == 1 + len(plan_tab.catalog.setups()) and "<b>" not in drawn and "2208.07339" in drawn
    assert drawn.count("OPT-175B, BLOOM") == 4
