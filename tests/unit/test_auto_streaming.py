"""What "auto" streams from main memory is one answer: in Plan, the Data tab's cost, Fine-tune's summary, and a run."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from playground import runs
from playground.data.lengths import Lengths
from playground.engine import streaming
from playground.i18n import LANGUAGES, translate
from playground.planning import auto_streaming, forecast, picture, tune_summary
from playground.planning.cost import Machine, cutoff_cost
from playground.planning.oom_suggestions import suggest_changes
from playground.predict import meta_model, phases
from playground.settings import Settings
from playground.ui import cost_view, fine_tune_tab
from playground.ui.plan_listeners import _ranked_label

LAYERS, LENGTH = 12, 128
GIB = 2**30


@pytest.fixture
def chosen(chosen, toy):
    """Settings of a toy with twelve layers, for a GPU."""
    model = toy("llama", num_hidden_layers=LAYERS, hidden_size=256, intermediate_size=512)
    train = {"batch_size": 4, "max_seq_length": LENGTH, "gradient_checkpointing": "all"}
    return chosen(load={"model": str(model), "bits": 16, "device": "auto"}, train=train)


@pytest.fixture
def capacity(chosen):
    """Bytes of a GPU that this model doesn't fit, unless some of its layers are streamed."""
    counts = ("0", str(LAYERS))
    whole, least = (needs(chosen.with_values({"load": {"streamed_layers": count}}), 0) for count in counts)
    return (whole + least) // 2


def needs(settings: Settings, capacity: int) -> int:
    return int(forecast.predict_full_rows(settings, "cuda", capacity)["need"])


def cost_of(settings: Settings, capacity: int, tokens: int = LENGTH, measured: dict | None = None) -> dict:
    """The cost of rows of equal length."""
    sizes = np.full(40, tokens // 2, np.int32)
    config, machine = meta_model.config_of(settings.load.model), Machine("cuda", capacity, "rtx-4090")
    return cutoff_cost(Lengths(sizes, sizes), settings, config, machine, measured)


def run_streams(settings: Settings, capacity: int, monkeypatch) -> int:
    """How many layers a fine-tune on such a GPU streams."""
    for name, value in (("available_memory", capacity), ("compute_dtype", (torch.bfloat16, "dtype.cuda_bf16"))):
        monkeypatch.setattr(streaming, name, lambda *_, value=value: value)
    context = SimpleNamespace(team=SimpleNamespace(device="cuda", splits_bytes=False), is_alone=True)
    config = meta_model.config_of(settings.load.model)
    return int(streaming.decided_load(context, config, settings, True).streamed_layers)


def test_plan_cost_and_summary_stream_what_the_run_streams(chosen, capacity, monkeypatch):
    plan, count = forecast.forecast(chosen, LENGTH, capacity), run_streams(chosen, capacity, monkeypatch)
    assert 2 < count < LAYERS and plan["streamed"]["layers"] == count
    memory = cost_of(chosen, capacity)["memory"]
    assert (memory["streamed"]["count"], memory["streamed"]["layers"]) == (count, LAYERS)
    assert memory["bytes"] <= capacity and memory["verdict"] != "no" and memory["streamed"]["main_bytes"] > GIB
    assert cost_of(chosen.with_values({"load": {"streamed_layers": "0"}}), capacity)["memory"]["verdict"] == "no"
    assert needs(chosen, capacity) == plan["phases"]["tune"]["need"] <= capacity
    monkeypatch.setattr(tune_summary, "this_machine", lambda: {"device": "cuda", "name": "rtx-4090", "bytes": capacity})
    counted = tune_summary.tune_summary(chosen)
    monkeypatch.setattr(tune_summary.rows, "cutoff_cost", absent)
    uncounted = tune_summary.tune_summary(chosen)
    assert (counted["exact"], uncounted["exact"]) == (True, False)
    for summary in (counted, uncounted):
        assert summary["streamed"]["count"] == count and summary["verdict"] != "no" and summary["seconds"] is None
    assert uncounted["need_bytes"] == plan["phases"]["tune"]["need"]


def absent(*_):
    raise tune_summary.PlaygroundError(tune_summary.rows.problem("error.tokenizer_absent", model="m").problems[0])


@pytest.mark.parametrize("tokens", [8, LENGTH])
def test_short_rows_change_nothing_of_what_a_run_streams_before_it_has_read_them(chosen, capacity, monkeypatch, tokens):
    """Also at a capacity that short rows fit, and rows of full length don't."""
    resident = chosen.with_values({"load": {"streamed_layers": "0"}})
    by_rows = [cost_of(resident, 0, length)["memory"]["bytes"] for length in (8, LENGTH)]
    room = sum(by_rows) // 2 if by_rows[0] < by_rows[1] else capacity
    for size in (capacity, room, 2 * GIB):
        streamed = cost_of(chosen, size, tokens)["memory"]["streamed"]
        assert (streamed or {}).get("count", 0) == run_streams(chosen, size, monkeypatch)


def test_what_fits_only_as_it_offloads_is_streamed_as_the_run_does(chosen, monkeypatch):
    how = {"max_seq_length": 512, "batch_size": 1}
    offloaded, recomputed = (
        chosen.with_values({"train": {**how, "gradient_checkpointing": name}}) for name in ("offload", "all")
    )
    least, most = (needs(one.with_values({"load": {"streamed_layers": "0"}}), 0) for one in (offloaded, recomputed))
    capacity = (least + most) // 2
    assert least < most
    count = run_streams(offloaded, capacity, monkeypatch)
    plan = forecast.forecast(offloaded, 512, capacity)
    assert plan["streamed"]["layers"] == count > 2
    assert cost_of(offloaded, capacity, 512)["memory"]["streamed"]["count"] == count


def test_several_gpus_stream_nothing(chosen, capacity):
    several = chosen.with_values({"train": {"num_processes": 2}})
    memory = cost_of(several, capacity)["memory"]
    assert memory["streamed"] is None and memory["verdict"] == "no"


def test_a_model_that_fits_is_predicted_once(chosen, monkeypatch):
    monkeypatch.setattr(auto_streaming, "choose_streamed_layers", None)  # it would be called in vain
    predicted, predict = [], phases.predict_tune

    def counted(*arguments):
        predicted.append(arguments)
        return predict(*arguments)

    monkeypatch.setattr(phases, "predict_tune", counted)
    for tokens in (LENGTH // 2, LENGTH):
        predicted.clear()
        assert cost_of(chosen, 8 * GIB, tokens)["memory"]["streamed"] is None
        assert len(predicted) == 1


def test_seconds_of_streamed_layers_are_those_of_a_run_that_streamed_as_many(chosen, capacity, tmp_path):
    def seconds(streamed: int, size: int) -> dict | None:
        measured = {"run": "r", "tokens_per_s": 10.0, "streamed": streamed}
        cost = cost_of(chosen, size, measured=measured)
        assert bool(cost["estimates"]) == (size > capacity)
        return cost["measured"]

    count = cost_of(chosen, capacity)["memory"]["streamed"]["count"]
    assert seconds(count, capacity)["seconds"] > 0 and seconds(0, 8 * GIB)["seconds"] > 0
    assert seconds(0, capacity) is seconds(count, 8 * GIB) is None
    run = runs.create(tmp_path, "tune", chosen, hardware={"name": "here"})
    run.append("memory_predicted", phase="tune", need=1, streamed_layers=count)
    run.append("done", job="tune", result={"tokens_per_s": 10.0})
    assert runs.measured_speed(tmp_path, chosen.load.model, 16, "here")["streamed"] == count


def test_no_seconds_are_predicted_where_layers_are_streamed(chosen):
    config, target = meta_model.config_of(chosen.load.model), phases.Target("cuda", torch.bfloat16)
    for count, known in (("0", True), ("6", False)):
        settings = chosen.with_values({"load": {"streamed_layers": count}})
        tuned, chat = (
            phases.predict_tune(config, settings, target, [8] * 4),
            phases.predict_chat(config, settings, target, 64),
        )
        assert bool(tuned["calls"]) == bool(chat["calls"]) == known


def test_every_gpu_size_has_the_plans_own_verdict(chosen, capacity, monkeypatch):
    sizes = [capacity // 2, capacity, 2 * GIB]
    sold = [{"id": str(size), "gib": size / GIB, "bytes": size} for size in sizes]
    monkeypatch.setattr(forecast, "cards", lambda: sold)
    fits = forecast.card_verdicts(chosen, LENGTH)
    for card, found in zip(sold, fits, strict=True):
        plan = forecast.forecast(chosen, LENGTH, card["bytes"])["phases"]
        own = {job: forecast.verdict(plan[job]["need"], card["bytes"]) for job in ("load", "chat", "tune")}
        assert found == {"card": card["id"], "gib": card["gib"], **own}
    assert [card["tune"] != "no" for card in fits] == [False, True, True]


def test_the_fastest_settings_are_streamed_ones_where_nothing_else_fits(chosen):
    resident = chosen.with_values({"load": {"streamed_layers": "0"}})
    least = {"gradient_checkpointing": "offload", "max_tokens_per_micro_batch": LENGTH}
    at_four = resident.with_values({"load": {"bits": 4}, "train": least})
    capacity = needs(at_four, 0) - 2**21
    assert forecast.fastest_settings(resident, capacity) == []
    ranked = forecast.fastest_settings(chosen, capacity)
    assert ranked and all(one["streamed"] and one["speed"] is one["seconds"] is None for one in ranked)
    for one in ranked:
        train = {"gradient_checkpointing": one["checkpointing"], "max_tokens_per_micro_batch": one["tokens"]}
        plan = forecast.forecast(chosen.with_values({"load": {"bits": one["bits"]}, "train": train}), LENGTH, capacity)
        assert (plan["phases"]["tune"]["need"], plan["streamed"]["layers"]) == (one["need"], one["streamed"])
    for lang in LANGUAGES:
        text = _ranked_label(SimpleNamespace(translate=partial(translate, lang)), ranked[0])
        assert str(ranked[0]["streamed"]) in text


def test_a_suggestion_and_what_it_saves_are_those_of_the_plan(chosen, capacity):
    changes = suggest_changes(chosen, "tune", capacity, lengths=[LENGTH] * 4)
    assert {change["field"] for change in changes} >= {"bits", "streamed_layers"}
    for change in changes:
        assert change["bytes"] + change["saved"] == needs(chosen, capacity) <= capacity
        changed = chosen.with_values({change["group"]: {change["field"]: change["value"]}})
        if change["field"] != "max_seq_length":  # which cuts the rows
            assert change["bytes"] == needs(changed, capacity) and change["verdict"] != "no"


def test_loading_for_a_fine_tune_that_cant_stream_is_no_load_that_can(chosen):
    capacity = picture.bar(chosen, "load")["need"] - 2**20
    with_dora = chosen.with_values({"lora": {"use_dora": True}})
    changes = {job: suggest_changes(with_dora, "load", capacity, job=job)[0] for job in ("load", "tune")}
    before = {job: change["bytes"] + change["saved"] for job, change in changes.items()}
    assert before["load"] <= capacity < before["tune"]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_says_how_many_layers_are_streamed_and_that_their_time_isnt_known(chosen, capacity, lang):
    say, cost = partial(translate, lang), cost_of(chosen, capacity)
    histogram = {"width": 5, "counts": [1], "over": [0], "open": False, "longest": 1, "median": 1.0, "mean": 1.0}
    cost |= {"counted": 40, "rows": 40, "histogram": histogram}
    streamed = cost["memory"]["streamed"]
    drawn = cost_view.draw(say, lang, cost)
    assert say("plan.streamed", **streamed) in drawn and say("cost.no_streamed_estimate").split("'")[0] in drawn
    summary = {"model": "m", "bits": 16, "rows": 40, "epochs": 1.0, "steps": 9, "seconds": None, "processes": 1}
    summary |= {"need_bytes": cost["memory"]["bytes"], "verdict": cost["memory"]["verdict"], "streamed": streamed}
    assert say("plan.streamed", **streamed) in fine_tune_tab.summary_html(say, summary)
    assert say("plan.streamed", **streamed) not in fine_tune_tab.summary_html(say, summary | {"streamed": None})
