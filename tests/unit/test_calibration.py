"""What a machine reaches, measured once (predict/calibration.py, speed/kernels.py)."""

import math
import os
import time
from dataclasses import replace

import pytest
import torch
from test_operations import SPEEDS, TABLES

from playground.memory import meter
from playground.predict import calibration
from playground.predict.work import Calls
from playground.speed import kernels, machine_rates
from playground.speed.rates import Rates, kept_rates


def test_what_a_phase_takes_beyond_its_calls_is_of_its_quantized_operators():
    rates = Rates("cuda", "a card", TABLES, {"tune": 1e-2, "chat": 1e-3})
    calls = [Calls("decode", "view", 0, 0, 6), Calls("decode", "gemv_4bit:bfloat16", 0, 1e3, 4)]
    timed = calibration._Timed("chat", 0.05, calls)
    assert timed.more_per_call("gemv_4bit", rates) == pytest.approx((0.05 - 10 * 1e-3) / 4)
    assert timed.more_per_call("dequantize", rates) == 0
    assert timed._replace(seconds=0.001).more_per_call("gemv_4bit", rates) == 0


def test_products_are_as_slow_as_a_gpu_at_work_makes_them():
    largest = 2.0 * math.prod(kernels.SIZES["cuda"][-1])
    tables = {"product:bfloat16": [[1.0, 1.0], [largest, 2.0]], "elementwise:bfloat16": [[1.0, 1.0]]}
    kernels._slow_down(tables, torch.bfloat16, 3.0)
    assert tables == {"product:bfloat16": [[1.0, 1.5], [largest, 3.0]], "elementwise:bfloat16": [[1.0, 1.0]]}
    kernels._slow_down(tables, torch.bfloat16, 1.0)
    assert tables["product:bfloat16"][-1] == [largest, 3.0], "never faster than in a short probe"
    smaller = {"product:bfloat16": [[1.0, 1.0]]}
    kernels._slow_down(smaller, torch.bfloat16, 3.0)
    assert smaller == {"product:bfloat16": [[1.0, 1.0]]}, "the time was over before the largest"


@pytest.mark.parametrize("bits", [4, 8])
def test_the_calibrations_quantized_toys_have_the_layers_that_they_are_for(bits):
    toy = calibration._toy("cpu", bits)
    kinds = {type(layer).__name__ for layer in toy.model.modules() if "Linear" in type(layer).__name__}
    assert kinds == {{4: "Linear4bit", 8: "Linear8bitLt"}[bits], "Linear"}  # the head isn't quantized


def test_a_calibration_ends_in_time_and_measures_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path))
    monkeypatch.delenv("PLAYGROUND_CALIBRATE")
    monkeypatch.setattr(calibration.psutil, "cpu_percent", lambda seconds: 0.0)
    monkeypatch.setattr(calibration, "percent_of_others", lambda before, after: 0.0)
    monkeypatch.setattr(calibration, "MAX_SECONDS", {"cpu": 0.0})
    steps = []
    monkeypatch.setattr(calibration.statistics, "median", lambda seconds: steps.append(seconds) or 0.01)
    began = time.process_time()
    calibration.measure_once("cpu")
    assert time.process_time() - began < 5
    name = meter.hardware("cpu")["name"]
    kept = kept_rates("cpu", name)
    assert kept and all(len(table) == 1 for table in kept.tables.values())  # time was over: one size of each kind
    assert len(steps[0]) == calibration.LEAST_STEPS - 2 and kept.call["tune"] > 0
    monkeypatch.setattr(calibration, "measure", lambda device: pytest.fail("measured again"))
    monkeypatch.setattr(calibration, "measure_loads", lambda device: {"fixed": 1.0})
    calibration.measure_once("cpu")  # what loads take comes at the next opportunity
    with_loads = replace(kept, loads={"fixed": 1.0})
    assert not kept.loads and machine_rates.rates_of_machine("cpu", name) == [(with_loads, {})]
    monkeypatch.setattr(calibration, "measure_loads", lambda device: pytest.fail("measured again"))
    calibration.measure_once("cpu")
    assert machine_rates.rates_of_machine("cpu", name) == [(with_loads, {})]


def test_nothing_is_measured_on_a_busy_machine_nor_where_that_is_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path))
    monkeypatch.setattr(calibration, "measure", lambda device: pytest.fail("measured"))
    calibration.measure_once("cpu")  # switched off for all tests
    monkeypatch.delenv("PLAYGROUND_CALIBRATE")
    monkeypatch.setattr(calibration.psutil, "cpu_percent", lambda seconds: 90.0)
    calibration.measure_once("cpu")


def test_what_was_measured_beside_other_work_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path))
    monkeypatch.delenv("PLAYGROUND_CALIBRATE")
    monkeypatch.setattr(calibration.psutil, "cpu_percent", lambda seconds: 0.0)
    name = meter.hardware("cpu")["name"]
    monkeypatch.setattr(calibration, "measure", lambda device: replace(SPEEDS, name=name))
    moments = iter([(100.0, 50.0, 20.0), (110.0, 53.0, 21.0)])  # of 10 s, 3 idle, 1 this process's
    monkeypatch.setattr(calibration, "processor_seconds", lambda: next(moments))
    calibration.measure_once("cpu")
    assert kept_rates("cpu", name) is None
    moments = iter([(100.0, 50.0, 20.0), (110.0, 51.0, 28.0)])
    calibration.measure_once("cpu")
    assert kept_rates("cpu", name) is not None


def test_this_process_is_not_among_the_others():
    before, until = calibration.processor_seconds(), time.perf_counter() + 0.5
    while time.perf_counter() < until:
        pass
    total, idle, own = (late - early for late, early in zip(calibration.processor_seconds(), before))
    assert own > 0.05 and total == pytest.approx(0.5 * os.cpu_count(), rel=0.3) and 0 <= idle <= total


def test_the_toy_is_not_repeated_beyond_the_time():
    runs = []
    calibration._fastest(lambda: runs.append(1), 40, until=0.0)
    assert len(runs) == 2
