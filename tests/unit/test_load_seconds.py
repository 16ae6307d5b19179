"""Seconds of loads: what they are predicted from, and where they are shown."""

import functools
import itertools
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_operations import SPEEDS

from playground import compat, runs
from playground.engine import predictions
from playground.engine.workbench import Workbench
from playground.i18n import LANGUAGES, translate
from playground.memory import page_cache
from playground.memory.file_pages import drop_count
from playground.planning import client, load_times
from playground.predict import load_calibration, load_seconds, meta_model
from playground.predict.load_seconds import TOKEN_BYTES, StoredModel, predict_load_seconds, stored_model
from playground.runs import accuracy
from playground.settings import Load, Settings
from playground.speed.rates import scaled_rates
from playground.ui import card_picture, memory_figures, plan_tab, run_tables

LOADS = {"fixed": 1.0, "tensor": 0.0, "read": 0.0, "convert": 0.0, "drop": 0.0}
LOADS |= {"tokenizer": 0.0, "tokenizer_bytes": 100, "tokenizer_power": 1.0}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what of a file is in its page cache")


def rates(**changes):
    """What loads take: a second each, and what changes make of it."""
    return replace(SPEEDS, loads=LOADS | {key.replace("_of_", ":"): value for key, value in changes.items()})


def seconds(folder: Path, load: Load, stored: StoredModel | None = None, dtype=torch.bfloat16, **changes) -> float:
    config = meta_model.config_of(str(folder))
    found = predict_load_seconds(config, replace(load, model=str(folder)), dtype, rates(**changes), stored)
    return found["seconds"]


@pytest.fixture
def half(toy, tmp_path) -> Path:
    """A toy saved in bfloat16."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(toy(), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((toy() / name).read_bytes())
    return tmp_path / "half"


def test_a_load_takes_what_its_tensors_bytes_layers_and_weights_take(half):
    config = meta_model.config_of(str(half))
    facts = meta_model.model_facts(config, Load(bits=4), torch.bfloat16, "cpu")
    assert facts.quantized_layers == 14 and 0 < facts.quantized < facts.parameters
    size = (half / "model.safetensors").stat().st_size
    assert seconds(half, Load(bits=16), tensor=1.0) == 1 + facts.tensors
    assert seconds(half, Load(bits=16), read=1.0) == 1 + size
    assert seconds(half, Load(bits=16), convert=1.0) == 1  # the type that the file has
    assert seconds(half, Load(bits=32), convert=1.0) == 1 + 4 * facts.parameters
    assert seconds(half, Load(bits=16), dtype=torch.float16, convert=1.0) == 1 + 2 * facts.parameters
    quantized = {"layer_of_nf4": 1.0, "quantize_of_nf4": 2.0}
    assert seconds(half, Load(bits=4), **quantized) == 1 + facts.quantized_layers + 2 * facts.quantized
    assert seconds(half, Load(bits=16), **quantized) == 1
    tokenizer = (half / "tokenizer.json").stat().st_size
    assert seconds(half, Load(bits=16), tokenizer=1.0, tokenizer_power=2.0) == 1 + (tokenizer / 100) ** 2


def test_pages_are_given_back_once_enough_of_them_were_read_and_a_thousand_times_at_most(half):
    mib = 2**20
    assert drop_count([mib]) == 0 and drop_count([mib] * 50) == 25 and drop_count([mib] * 10_000) == 1000
    assert drop_count([3 * mib, mib, 3 * mib, mib, mib, mib]) == 3 and drop_count([7 * mib] * 5) == 5
    config = meta_model.config_of(str(half))
    sizes = meta_model.model_facts(config, Load(bits=32), torch.float32, "cpu").sizes
    for size, drops in ((2**20, 0), (12 * 2**20, 5), (2**40, 18)):  # of 21 tensors; the norms are read with others
        stored = StoredModel(size, tokenizer=1)
        assert drop_count([size / sum(sizes) * numbers for numbers in sizes]) == drops
        found = predict_load_seconds(config, Load(bits=32), torch.float32, rates(drop=1.0, convert=0.0), stored)
        quantized = rates(drop=1.0, layer_of_nf4=0.0, quantize_of_nf4=0.0)
        at_4_bits = predict_load_seconds(config, Load(bits=4), torch.bfloat16, quantized, stored)
        assert (found["seconds"], at_4_bits["seconds"]) == (1, 1 + drops)  # as they are, weights stay mapped


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"read": 1.0}, lambda facts, stored: 1 + 2 * facts.parameters),  # converted first, then copied
        ({"read": 1e-3, "tensor": 1e6}, lambda facts, stored: 1 + 1e6 * facts.tensors),
        ({"read": 1.0, "convert": 2.0, "tensor": 1.0}, lambda facts, stored: 1 + (2 + 2 * 2) * facts.parameters),
        ({"drop": 1e9, "read": 1.0}, lambda facts, stored: 1 + 1e9),  # one of 2 MiB
    ],
    ids=["read", "tensors", "converted", "pages"],
)
def test_a_gpu_gets_tensors_while_others_are_read(toy, changes, expected):
    config = meta_model.config_of(str(toy()))  # in float32
    facts = meta_model.model_facts(config, Load(bits=16), torch.bfloat16, "cuda")
    stored = StoredModel(max(4 * facts.parameters, 2**21), tokenizer=1)
    on_gpu = replace(rates(**changes), device="cuda")
    found = predict_load_seconds(config, Load(bits=16), torch.bfloat16, on_gpu, stored)
    assert found["seconds"] == pytest.approx(expected(facts, stored.stored))


@pytest.mark.parametrize(("device", "expected"), [("cuda", 5), ("cpu", 8)])
def test_a_gpu_quantizes_what_was_read_while_it_reads_on(half, device, expected):
    config = meta_model.config_of(str(half))
    facts = meta_model.model_facts(config, Load(bits=4), torch.bfloat16, device)
    known = rates(layer_of_nf4=1 / facts.quantized_layers, quantize_of_nf4=3 / facts.quantized, read=3 / 1000)
    found = predict_load_seconds(
        config, Load(bits=4), torch.bfloat16, replace(known, device=device), StoredModel(1000, tokenizer=1)
    )
    assert found["seconds"] == pytest.approx(expected)
    slower = replace(known, device=device, loads=known.loads | {"quantize:nf4": 9 / facts.quantized})
    found = predict_load_seconds(config, Load(bits=4), torch.bfloat16, slower, StoredModel(1000, tokenizer=1))
    assert found["seconds"] == pytest.approx(expected + 6)


def test_half_of_what_can_be_hidden_of_reading_the_disk_is_hidden(half):
    load, config = Load(bits=16), meta_model.config_of(str(half))

    def predict(missing: int) -> dict:
        stored = StoredModel(200_000, missing, rate=100, tokenizer=1)
        return predict_load_seconds(config, load, torch.bfloat16, rates(fixed=4.0), stored)

    assert [predict(missing)["seconds"] for missing in (0, 200, 400, 1000)] == [4, 5, 6, 12]
    assert [predict(missing)["stored"] for missing in (0, 10, 200)] == ["memory", "memory", "disk"]


@LINUX
def test_what_of_a_file_is_in_the_page_cache_is_known(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(2**20 + 5))
    assert page_cache.cached_share(file) == page_cache.CachedShare(2**20 + 5, 2**20 + 5)
    pages = bytes([1] * 100 + [0] * 157)
    monkeypatch.setattr(page_cache, "_resident_pages", lambda file, size: pages)
    assert page_cache.cached_share(file) == page_cache.CachedShare(2**20 + 5, 100 * 4096, 100 * 4096, 156 * 4096 + 5)
    pages = bytes([0] * 3 + [1] * 50 + [0] * 90 + [1] * 114)
    share = page_cache.cached_share(file)
    assert (share.missing_at, share.missing_piece) == (53 * 4096, 90 * 4096)
    monkeypatch.setattr(page_cache, "_resident_pages", lambda file, size: None)
    assert page_cache.cached_share(file).cached == 2**20 + 5


def test_the_disks_rate_is_measured_once_for_a_file_system_and_for_a_short_time(tmp_path, monkeypatch):
    monkeypatch.setattr(page_cache, "_rates", {})
    file = tmp_path / "file"
    size = 4 * page_cache.BLOCK
    file.write_bytes(bytes(size))
    moments = iter([0.0, 0.0, 0.05, 0.11, 0.12])  # the time is over after two blocks
    monkeypatch.setattr(page_cache.time, "perf_counter", lambda: next(moments))
    assert page_cache.reading_rate(file, 0, size) == pytest.approx(2 * page_cache.BLOCK / 0.12)
    assert page_cache.reading_rate(file, 0, size) == pytest.approx(2 * page_cache.BLOCK / 0.12)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_disk_is_read_in_as_many_threads_as_a_load_has(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(page_cache, "_rates", {})
    file = tmp_path / "file"
    file.write_bytes(bytes(100 + 9 * page_cache.BLOCK))
    moments = itertools.chain([0.0], itertools.repeat(0.05))
    monkeypatch.setattr(page_cache.time, "perf_counter", lambda: next(moments))
    size = 5 * page_cache.BLOCK + 7  # of the piece; what follows it is in the page cache
    assert page_cache.reading_rate(file, 100, size, threads) == size / 0.05
    assert list(page_cache._rates) == [(file.stat().st_dev, threads)]


def test_the_disks_rate_is_not_measured_in_a_short_piece_nor_kept_of_a_file_that_was_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(page_cache, "_rates", {})
    file, block = tmp_path / "file", page_cache.BLOCK
    file.write_bytes(bytes(8 * block))
    assert page_cache.reading_rate(file, 0, 4096) == page_cache.ASSUMED_RATE
    assert page_cache.reading_rate(file, 0, 4 * block, threads=5) == page_cache.ASSUMED_RATE
    assert page_cache.reading_rate(file, 8 * block - 4096, 4 * block) == page_cache.ASSUMED_RATE
    assert not page_cache._rates
    monkeypatch.setattr(page_cache, "_read_some", lambda *of: (block, 2.0))
    assert page_cache.reading_rate(file, 0, 4 * block) == block / 2
    assert page_cache.reading_rate(file, 0, 4096) == block / 2  # known now


def test_the_disks_rate_is_measured_in_the_file_with_the_longest_missing_piece(half, monkeypatch):
    (half / "model.safetensors").rename(half / "a.safetensors")
    shutil.copy(half / "a.safetensors", half / "b.safetensors")
    shares = {"a": page_cache.CachedShare(900, 100, 7, 20), "b": page_cache.CachedShare(900, 850, 300, 50)}
    asked = []
    monkeypatch.setattr(load_seconds, "cached_share", lambda file: shares[file.stem])
    monkeypatch.setattr(load_seconds, "reading_rate", lambda file, *of: asked.append((file.name, *of)) or 1.0)
    stored = stored_model(str(half), meta_model.config_of(str(half)), 1000)
    assert asked == [("b.safetensors", 300, 50, 1)] and (stored.stored, stored.missing) == (1800, 850)


def test_weights_that_transformers_does_not_read_are_not_counted(half):
    config = meta_model.config_of(str(half))
    size = (half / "model.safetensors").stat().st_size
    shutil.copy(half / "model.safetensors", half / "consolidated.safetensors")
    assert stored_model(str(half), config, 1000).stored == size
    (half / "model.safetensors").rename(half / "model-00001-of-00001.safetensors")
    (half / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    shutil.copy(half / "model-00001-of-00001.safetensors", half / "model-00001-of-00002.safetensors")
    assert stored_model(str(half), config, 1000).stored == size
    assert seconds(half, Load(bits=16), convert=1.0) == 1  # not taken for float32


@pytest.mark.parametrize(("device", "bits", "threads"), [("cuda", 16, 4), ("cuda", 4, 1), ("cpu", 16, 1)])
def test_a_load_is_predicted_with_the_rate_of_its_threads(half, monkeypatch, device, bits, threads):
    asked = []
    monkeypatch.setattr(load_seconds, "cached_share", lambda file: page_cache.CachedShare(100, 0))
    monkeypatch.setattr(load_seconds, "reading_rate", lambda *of: asked.append(of[-1]) or 1.0)
    monkeypatch.setattr(compat, "reading_threads", lambda: 4)
    known = replace(rates(layer_of_nf4=0.0, quantize_of_nf4=0.0), device=device)
    load = Load(model=str(half), bits=bits)
    assert predict_load_seconds(meta_model.config_of(str(half)), load, torch.bfloat16, known)["disk"] > 0
    assert asked == [threads]


def test_files_that_come_from_elsewhere_have_the_size_that_they_will_have(toy, tmp_path):
    config = meta_model.config_of("cyberagent/open-calm-small")
    stored = stored_model("cyberagent/open-calm-small", config, 1000)
    assert stored == StoredModel(2000, tokenizer=TOKEN_BYTES * config.vocab_size, is_here=False)
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    assert stored_model(str(tmp_path / "one.gguf"), config, 1000) is None  # converted before it is loaded
    found = predict_load_seconds(config, Load(model="cyberagent/open-calm-small", bits=16), torch.bfloat16, rates())
    assert found["stored"] == "absent" and found["seconds"] == 1


@pytest.mark.parametrize(
    "load",
    [Load(bits=4, quant_type="fp4"), Load(bits=8), Load(bits=16, streamed_layers="2")],
)
def test_what_was_never_measured_has_no_seconds(half, load):
    config = meta_model.config_of(str(half))
    known = rates(layer_of_nf4=1.0, quantize_of_nf4=1.0)
    assert predict_load_seconds(config, replace(load, model=str(half)), torch.bfloat16, known) is None
    assert predict_load_seconds(config, Load(model=str(half), bits=16), torch.bfloat16, SPEEDS) is None
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert predict_load_seconds(config, Load(model=str(half), bits=4), torch.bfloat16, known) is None


def test_what_a_load_takes_is_measured_with_toys():
    known = load_calibration.measure_loads("cpu")
    quantized = {key for key in known if ":" in key}
    assert {"layer:int8", "quantize:int8"} <= quantized
    assert set(known) - quantized == set(LOADS)
    assert all(value >= 0 for value in known.values()) and known["tokenizer_power"] >= 1
    assert known["fixed"] + known["tensor"] > 0 and known["tokenizer"] > 0  # on a busy machine one may be 0


def test_times_of_loads_are_told_by_width_of_this_machine_alone(half, monkeypatch):
    settings = Settings().with_values({"load": {"model": str(half)}})
    known = rates(layer_of_nf4=1.0, quantize_of_nf4=0.0)
    monkeypatch.setattr(load_times, "rates_for", lambda device, capacity: [(known, {})] if device == "cpu" else [])
    times = load_times.load_times(settings, (16, 8, 4), device="cpu")
    assert set(times) == {"16", "4"} and times["16"]["unit"] == "load" and times["16"]["stored"] == "memory"
    assert (times["16"]["seconds"], times["4"]["seconds"], times["16"]["source"]) == (1, 15, "measured")
    assert load_times.load_times(settings, (16,), device="cuda") == {}
    several = settings.with_values({"train": {"num_processes": 2}})
    assert load_times.load_times(several, (16,), device="cpu") == {}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_plan_says_how_long_a_load_takes_and_where_its_files_are(lang):
    translate_to = functools.partial(translate, lang)
    time = {"card": "EPYC", "unit": "load", "seconds": 8.21, "source": "measured", "stored": "memory"}
    times = [time, time | {"stored": "disk"}, time | {"stored": "absent"}, time | {"source": "rough"}]
    texts = memory_figures.durations(translate_to, {"time": times})
    assert len(set(texts)) == 4 and all("8.2" in text and "EPYC" in text for text in texts)
    assert translate(lang, "plan.time.rough_load", card="EPYC") in texts[3]
    pairs = [accuracy.Pair("r", "load", "load", 1.5, 1.2)]
    assert translate(lang, "accuracy.time.load") in run_tables.accuracy(translate_to, pairs)


def test_a_load_is_timed_in_its_run_and_predicted_where_this_machines_speed_is_known(
    chosen, half, tmp_path, monkeypatch
):
    monkeypatch.setattr(predictions, "kept_rates", lambda device, name: rates())
    settings = chosen(load={"model": str(half), "bits": 16, "dtype": "bfloat16"})
    list(Workbench(tmp_path / "runs").load(settings))
    [run] = runs.history(tmp_path / "runs")
    events = list(runs.Run(tmp_path / "runs" / run.id).events())
    [predicted], [measured] = ([e for e in events if e["kind"] == f"time_{name}"] for name in ("predicted", "measured"))
    assert predicted["phase"] == measured["phase"] == predicted["unit"] == measured["unit"] == "load"
    assert predicted["seconds"] == 1 and 0 < measured["seconds"] < 60
    [pair] = [pair for pair in accuracy.pairs("r", events) if pair.kind == "load"]
    assert (pair.predicted, pair.measured) == (1, measured["seconds"])
    kinds = [(event["kind"], event.get("name")) for event in events]
    assert kinds.index(("time_predicted", None)) < kinds.index(("phase", "load"))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_picture_of_loading_says_what_a_load_takes_beside_each_width(lang):
    times = {"16": {"seconds": 8.21, "stored": "disk"}, "4": {"seconds": 75.0, "stored": "absent"}}
    asked = []

    def ask(do: str, **question):
        asked.append((do, tuple(question["widths"])))
        return times

    page = SimpleNamespace(translate=functools.partial(translate, lang), planner=SimpleNamespace(ask=ask))
    bars = [{"bits": 32}, {"bits": 16}, {"bits": 4}]
    card_picture._add_times(page, bars, {}, card_picture.Room(1, "cpu"))
    assert asked == [("load_times", card_picture.BIT_WIDTHS)]
    seconds = translate(lang, "accuracy.seconds", seconds="8.2")
    assert "time" not in bars[0] and bars[1]["time"] == translate(lang, "picture.time.disk", figure=seconds)
    assert bars[2]["time"] == translate(lang, "picture.time.absent", figure="1:15")


def test_answers_on_loads_are_not_remembered_since_files_come_into_memory_and_leave_it(tmp_path, monkeypatch):
    planner, answers = client.Planner(tmp_path), iter([{"16": 1}, {"16": 2}])
    monkeypatch.setattr(client.Worker, "ask", lambda worker, do, arguments, on_progress: next(answers))
    assert [planner.ask("load_times", widths=[16]) for _ in range(2)] == [{"16": 1}, {"16": 2}]
    assert planner._worker("load_times") is planner._worker("forecast")  # which knows the network already
    planner.close()


def test_a_folder_without_weights_of_a_usual_name_has_no_seconds(half):
    (half / "model.safetensors").rename(half / "adapter_weights.bin")
    assert stored_model(str(half), meta_model.config_of(str(half)), 1000) is None


def test_an_estimate_for_another_gpu_has_no_loads_since_its_machine_is_not_known():
    assert rates().loads and scaled_rates(rates(), "another", 2.0, 2.0).loads == {}


def test_bars_are_drawn_before_a_loads_seconds_are_asked_for(monkeypatch):
    asked = []

    def ask(do: str, **question):
        asked.append(do)
        return {"bits": question["settings"]["load"]["bits"], "need": 1, "tape": {}} if do != "load_times" else {}

    monkeypatch.setattr(card_picture, "_measured", lambda *of: {})
    page = SimpleNamespace(translate=functools.partial(translate, "en"), planner=SimpleNamespace(ask=ask))
    drawn = card_picture.updates(page, Settings(), "load", card_picture.Room(1, "cpu"))
    next(drawn)
    assert set(asked) == {"bar"}
    next(drawn)
    assert asked[-2:] == ["job_tape", "load_times"]


def test_plan_asks_for_a_loads_seconds_on_this_machine_alone(monkeypatch):
    monkeypatch.setattr(plan_tab, "this_machine", lambda: {"device": "cpu", "bytes": 5, "name": "this"})
    page = SimpleNamespace(planner=SimpleNamespace(ask=lambda do, **question: {"16": {"seconds": 2}}))
    prediction = {"bits": 16, "phases": {"load": {"need": 1}}}
    for capacity, device, time in ((5, "cpu", [{"seconds": 2}]), (6, "cpu", None), (5, "cuda", None)):
        inputs = plan_tab.PlanInputs({}, capacity, device, 1024)
        assert plan_tab.with_load_time(page, inputs, prediction)["phases"]["load"].get("time") == time
