"""Operations and bytes of a trace are those of the formulas; seconds follow from them and from what was measured."""

import functools
import json
from dataclasses import asdict, replace

import pytest
import torch
from transformers import LlamaConfig

from playground.i18n import LANGUAGES, translate
from playground.model import int8_fast
from playground.planning import durations
from playground.predict import phases
from playground.predict.allocation_trace import AllocationTrace
from playground.predict.seconds import predict_seconds, predict_step_seconds, predict_token_seconds
from playground.predict.work import Calls
from playground.settings import Settings
from playground.speed import kernels, machine_rates, rates
from playground.speed.rates import Rates, interpolate, keep_rates, kept_rates, scaled_rates
from playground.ui import memory_figures
from playground.ui.tables import significant

WIDTH, LAYERS, INNER, VOCABULARY, RANK = 96, 3, 160, 512, 8
CONFIG = LlamaConfig(
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    intermediate_size=INNER,
    vocab_size=VOCABULARY,
    tie_word_embeddings=False,
)
ROWS, LENGTH = 4, 48
TOKENS = ROWS * LENGTH
TABLES = {
    "product:float32": [[1e6, 1e-3], [1e9, 0.5]],
    "attention:float32": [[1e6, 1e-3]],
    "slow:float32": [[1e3, 1e-4]],
    "elementwise:float32": [[1e6, 1e-4]],
    "narrow_m:float32": [[1e6, 2e-4]],
    "narrow_n:float32": [[1e6, 2e-4]],
    "narrow_k:float32": [[1e6, 2e-4]],
}
SPEEDS = Rates("cpu", "a processor", TABLES, {"tune": 1e-5, "chat": 2e-5}, token=0.001)


def step_calls(bits=16, device="cuda", dtype=torch.bfloat16, **train):
    train = {"batch_size": ROWS, "gradient_checkpointing": "off"} | train
    settings = Settings().with_values({"load": {"bits": bits}, "train": train, "lora": {"r": RANK}})
    target = phases.Target(device, dtype)
    return phases.predict_tune(CONFIG, settings, target, [LENGTH] * ROWS, [LENGTH // 2] * ROWS)["calls"]


def operations(calls, *kinds, stage=""):
    return sum(c.operations * c.count for c in calls if c.kind.split(":")[0] in kinds and stage in ("", c.stage))


PRODUCTS = ("product", "narrow_m", "narrow_n", "narrow_k", "narrow_m_t", "narrow_n_t", "narrow_k_t")
WEIGHTS = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)  # of the linear layers
ADAPTERS = LAYERS * RANK * (4 * 2 * WIDTH + 3 * (WIDTH + INNER))
LABELLED = ROWS * (LENGTH // 2)


def test_operations_of_a_step_are_those_of_the_formula():
    """Two a weight and token forward; backward two for the input, and for an adapter two more for its own gradients."""
    calls = step_calls()
    head = 2 * VOCABULARY * WIDTH * LABELLED
    assert operations(calls, *PRODUCTS, stage="forward") == pytest.approx(
        2 * TOKENS * (WEIGHTS + ADAPTERS) + 2 * head,
        rel=0.02,  # the loss computes its gradient in the forward pass
    )
    first = 3 * 2 * TOKENS * WIDTH * WIDTH + 3 * 2 * TOKENS * RANK * WIDTH  # the first layer's input needs no gradient
    backward = 2 * TOKENS * WEIGHTS + 4 * TOKENS * ADAPTERS
    assert operations(calls, *PRODUCTS, stage="backward") == pytest.approx(backward - first, rel=0.02)
    pairs = ROWS * LENGTH * LENGTH / 2
    for stage, products in (("forward", 2), ("backward", 5)):  # the longest row is known up to a multiple alone
        assert operations(calls, "attention", stage=stage) == pytest.approx(
            products * 2 * pairs * WIDTH * LAYERS, rel=0.05
        )


def test_bytes_of_an_operator_are_its_inputs_and_outputs_once():
    a, b = (torch.empty(64, 96, dtype=torch.bfloat16, device="meta") for _ in range(2))
    row = torch.empty(96, dtype=torch.bfloat16, device="meta")
    with AllocationTrace() as trace:
        trace.stage = "forward"
        total = a + row.expand(64, 96)  # a broadcast row is read once
        total.mul_(b)
        a @ b.T
        a.view(-1)
        torch.nn.functional.embedding(torch.empty(7, dtype=torch.long, device="meta"), b)
    found = [work for calls in trace.work.values() for (work,) in calls if work.kind != "view"]
    size = 64 * 96 * 2
    by_kind = sorted((work.kind, work.operations, work.bytes) for work in found)
    assert by_kind == [
        ("elementwise:bfloat16", 7 * 96, 2 * 7 * 96 * 2),
        ("elementwise:bfloat16", 64 * 96, 2 * size + 96 * 2),
        ("elementwise:bfloat16", 64 * 96, 3 * size),
        ("product:bfloat16", 2 * 64 * 64 * 96, 2 * size + 64 * 64 * 2),
    ]


def test_checkpointing_computes_layers_again_and_4_bits_are_made_dense():
    off, everything = step_calls(), step_calls(gradient_checkpointing="all")
    assert operations(off, *PRODUCTS, stage="recompute") == 0
    repeated = operations(everything, *PRODUCTS, stage="recompute")
    last = LAYERS * TOKENS * 2 * WIDTH * INNER  # a layer's last product isn't needed again
    assert repeated == pytest.approx(2 * TOKENS * (WEIGHTS + ADAPTERS) - last, rel=0.02)
    quantized = step_calls(bits=4)
    assert operations(quantized, "dequantize", stage="forward") == WEIGHTS
    assert operations(quantized, *PRODUCTS) == operations(off, *PRODUCTS)


def test_more_micro_batches_than_are_traced_count_all_their_tokens():
    whole, split = step_calls(), step_calls(max_tokens_per_micro_batch=LENGTH)
    for stage in ("forward", "backward"):
        assert operations(split, *PRODUCTS, stage=stage) == pytest.approx(
            operations(whole, *PRODUCTS, stage=stage), rel=0.01
        )
    assert sum(c.count for c in split if c.stage == "forward") > 3 * sum(c.count for c in whole if c.stage == "forward")


def test_seconds_are_the_longer_of_computing_and_moving_and_on_a_cpu_calls_beside():
    calls = [
        Calls("forward", "product:float32", 1e6, 1e3, 2),  # 1 ms by its operations
        Calls("forward", "product:float32", 1e6, 1e8, 1),  # 10 ms by its bytes
        Calls("forward", "view", 0, 0, 7),
    ]
    predicted = predict_seconds(calls, SPEEDS, "tune")
    assert predicted["seconds"] == pytest.approx(2e-3 + 1e-2 + 10 * 1e-5)
    assert predicted["source"] == "measured" and predicted["bound"] == "compute"
    gpu = Rates("cuda", "a card", TABLES, {"tune": 1e-2, "chat": 1e-5})
    assert predict_seconds(calls, gpu, "tune")["seconds"] == pytest.approx(0.1)  # ten calls take longer than computing
    assert predict_seconds(calls, gpu, "tune")["bound"] == "launch"
    assert predict_seconds(calls, gpu, "tune")["source"] == "rough"  # compared with one GPU's steps


def test_operators_of_quantized_weights_and_recomputed_ones_take_longer_to_call():
    more = {"gemv_4bit": 4e-2, "product:int8": 2e-2, "recompute": 8e-2}
    gpu = Rates("cuda", "a card", TABLES, {"tune": 1e-2, "chat": 1e-2}, more=more)
    calls = [("gemv_4bit:bfloat16", "forward"), ("product:int8", "forward"), ("view", "recompute"), ("view", "forward")]
    found = [gpu.calling(kind, "tune", stage) for kind, stage in calls]
    assert found == pytest.approx([5e-2, 3e-2, 9e-2, 1e-2])
    recomputed = [Calls("recompute", "view", 0, 0, 7), Calls("forward", "product:float32", 1e6, 1e3, 2)]
    assert predict_seconds(recomputed, gpu, "tune")["calls"] == pytest.approx(7 * 9e-2 + 2 * 1e-2)


def test_what_was_never_measured_has_no_seconds():
    assert predict_seconds([Calls("forward", "product:float8", 1e6, 1e3, 2)], SPEEDS, "tune") is None
    assert predict_step_seconds(step_calls(), SPEEDS) is None  # bfloat16
    assert predict_seconds([], SPEEDS, "tune") is None
    assert predict_step_seconds(step_calls(32, "cpu", torch.float32), SPEEDS)["seconds"] > 0
    assert machine_rates.rates_of_machine("cuda", "NVIDIA GeForce RTX 3090 Ti") == []
    assert machine_rates.rates_of_machine("cpu", "another processor") == []


def test_a_mean_step_has_fewer_tokens_but_the_same_update():
    calls = step_calls(32, "cpu", torch.float32)
    whole, half = (predict_step_seconds(calls, SPEEDS, share)["kernels"] for share in (1, 0.5))
    update = predict_seconds([c for c in calls if c.stage == "update"], SPEEDS, "tune")["kernels"]
    assert half - update == pytest.approx((whole - update) / 2, rel=0.2)


def test_a_token_is_a_decoding_pass_and_what_lies_between_two():
    settings = Settings().with_values({"load": {"bits": 32}})
    calls = phases.predict_chat(CONFIG, settings, phases.Target("cpu", torch.float32), 64)["calls"]
    token = predict_token_seconds(calls, SPEEDS)
    assert operations([c for c in calls if c.stage == "decode"], *PRODUCTS) == 2 * 2 * (WEIGHTS + VOCABULARY * WIDTH)
    assert token["seconds"] == pytest.approx(token["kernels"] + token["calls"] + 0.001)


def test_between_sizes_seconds_are_interpolated_and_beyond_them_proportional():
    table = [[10, 1.0], [1000, 10.0]]
    assert [interpolate(table, size) for size in (5, 100, 2000)] == pytest.approx([0.5, 10**0.5, 20.0])


def test_a_chats_products_of_8_bits_cost_what_surrounds_them():
    probes = kernels._Probes("cpu", kernels.clock() + 60)
    kernels._measure_int8_of_cpu(probes)
    sizes = [size for size, _ in probes.tables["product:int8"]]
    assert sizes == sorted(2 * m * n * k for m, n, k in kernels.INT8_SIZES)
    codes, weight = (torch.ones(rows, 64, dtype=torch.int8) for rows in (2, 64))
    alone = probes._time(lambda: torch.ops.bitsandbytes.int8_linear_matmul(codes, weight))
    assert probes.tables["product:int8"][0][1] > 2 * alone  # also quantizing x, scales, and calls in Python


@pytest.mark.parametrize("fast", [True, False])
def test_integer_products_of_training_are_measured_where_a_cpu_makes_them(monkeypatch, fast):
    monkeypatch.setattr(int8_fast, "has_products", lambda device: fast)
    monkeypatch.setattr(kernels, "INT8_SIZES", kernels.INT8_SIZES[:1])
    probes = kernels._Probes("cpu", kernels.clock() + 60)
    kernels._measure_int8_of_cpu(probes)
    sizes = [size for size, _ in probes.tables.get("product:int8_fast", [])]
    assert sizes == (sorted(2 * m * n * k for m, n, k in kernels.SIZES["cpu"]) if fast else [])


def test_integer_products_of_training_take_a_gpus_time_for_the_librarys():
    table = {"product:int8": [[1e6, 3.0]]}
    own = {"product:int8_fast": [[1e6, 2.0]]}
    for tables, seconds in ((table, 3.0), (table | own, 2.0)):
        assert replace(SPEEDS, tables=tables).seconds("product:int8_fast", 1e6, 0) == seconds


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"device": "cpu"}'])
def test_damaged_rates_are_no_rates(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path))
    keep_rates(SPEEDS)
    assert kept_rates("cpu", SPEEDS.name) == SPEEDS
    rates._file("cpu", SPEEDS.name).write_text(damage)
    assert kept_rates("cpu", SPEEDS.name) is None


def test_another_gpu_is_estimated_from_its_data_sheet_and_labelled(monkeypatch):
    tables = {"product:bfloat16": [[1e12, 1.0]], "elementwise:bfloat16": [[1e9, 1.0]], "to_host": [[1e9, 1.0]]}
    reference = Rates("cuda", "NVIDIA H100 80GB HBM3", tables, {"tune": 1e-5, "chat": 1e-5})
    peak = machine_rates.known_peak_rates(reference.name)[0]
    monkeypatch.setattr(machine_rates, "reference_rates", lambda: (reference, peak))
    [(estimate, sheet)] = machine_rates.rates_of_machine("cuda", "NVIDIA GeForce RTX 4090")
    assert estimate.source == "estimated" and estimate.name == sheet["name"] == "RTX 4090"
    assert estimate.tables["product:bfloat16"][0][1] == pytest.approx(989.4 / 165.2)
    assert estimate.tables["elementwise:bfloat16"][0][1] == pytest.approx(3350 / 1008)
    assert estimate.tables["to_host"] == reference.tables["to_host"] and estimate.call == reference.call
    assert len(machine_rates.rates_of_machine("cuda", "rtx-4090")) == 3
    assert json.loads(json.dumps(asdict(estimate))) == asdict(scaled_rates(estimate, estimate.name, 1, 1))


def test_a_forecast_has_the_time_of_a_step_and_of_a_token_and_no_calls(monkeypatch):
    calls = [Calls("forward", "product:float32", 1e6, 1e3, 2), Calls("decode", "product:float32", 1e6, 1e3, 1)]
    predictions = {"load": {"need": 3}, "chat": {"need": 5, "calls": calls}, "tune": {"need": 7, "calls": calls}}
    monkeypatch.setattr(durations, "rates_for", lambda device, capacity: [(SPEEDS, {})])
    timed = durations.with_durations(predictions, "cpu", 0)
    time = {"card": "a processor", "source": "measured"}
    assert timed["load"] == {"need": 3}
    token = predict_token_seconds(calls, SPEEDS)["seconds"]
    assert timed["chat"] == {"need": 5, "time": [time | {"unit": "token", "seconds": round(token, 5)}]}
    assert 0 < token < 0.00303
    assert timed["tune"] == {"need": 7, "time": [time | {"unit": "step", "seconds": 0.00303}]}
    streamed = predictions | {"tune": {"need": 7, "calls": []}}
    assert "time" not in durations.with_durations(streamed, "cpu", 0)["tune"]
    monkeypatch.setattr(durations, "rates_for", lambda device, capacity: [])
    assert durations.with_durations(predictions, "cpu", 0)["tune"] == {"need": 7}


def test_a_run_takes_its_steps_and_only_a_gpu_size_with_known_peaks_has_an_estimate(monkeypatch):
    calls = [Calls("forward", "product:float32", 1e6, 1e3, 2)]
    monkeypatch.setattr(durations, "rates_of_machine", lambda device, name: [(SPEEDS, {})] if name == "here" else [])
    prediction = {"calls": calls, "mean_share": 1.0}
    [duration] = durations.run_durations(prediction, "cpu", "here", 1000)
    assert duration == {"card": "a processor", "seconds": 2.0, "bound": "compute", "source": "measured", "sheet": ""}
    assert durations.run_durations(prediction, "cuda", "another", 1000) == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_plan_says_how_long_a_step_takes_and_how_that_is_known(lang):
    translate_to = functools.partial(translate, lang)
    times = [
        {"card": "H100", "unit": "step", "seconds": 0.4213, "source": "measured"},
        {"card": "A100", "unit": "step", "seconds": 1.26, "source": "estimated"},
    ]
    times.append({"card": "H200", "unit": "step", "seconds": 3.0, "source": "rough"})
    times.append({"card": "T4", "unit": "step", "seconds": 2.5, "source": "estimated"})
    measured, rough, estimated = memory_figures.durations(translate_to, {"time": times})
    assert translate(lang, "plan.time.rough", card="H200") in rough
    assert "0.42" in measured and translate(lang, "plan.time.measured", card="H100") in measured
    assert "1.3" in estimated and "A100" in estimated and "2.5" in estimated and "T4" in estimated
    assert memory_figures.durations(translate_to, {}) == []
    token = {"card": "H200", "unit": "token", "seconds": 0.025, "source": "rough"}
    of_card = functools.partial(translate, lang, "plan.time.of_card")
    chats = [token, token | {"source": "measured"}, token | {"source": "estimated"}]
    rough, measured, estimated = memory_figures.durations(translate_to, {"time": chats})
    assert rough == measured and "40" in rough and translate(lang, "plan.time.rough_token", card="H200") in rough
    assert estimated == translate(lang, "plan.time.estimated.token", figures=of_card(figure="40", card="H200"))
    [long] = memory_figures.durations(
        translate_to, {"time": [{"card": "CPU", "unit": "step", "seconds": 4000.0, "source": "measured"}]}
    )
    assert "1:06:40" in long


def test_numbers_have_two_significant_digits_and_no_exponent():
    assert [significant(value) for value in (0.04213, 0.4, 3.14, 42.4, 1234.0, 0.0)] == [
        *("0.042", "0.40", "3.1", "42", "1,200", "0")
    ]
