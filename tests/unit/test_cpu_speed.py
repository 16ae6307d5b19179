"""What "auto" bits mean on this machine: measured once, the same in every process and for every job."""

import json
import subprocess
import sys

import pytest
import torch
from toys import PROJECT

from playground import catalog
from playground.engine.workbench import Workbench
from playground.model import cpu_speed
from playground.model.cpu_speed import bf16_speedup
from playground.model.dtype import MIN_BF16_SPEEDUP, default_bits


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """An empty cache, and measurements that come out differently each time; returns the list of those still to come."""
    figures = [9.0, 0.1, 5.0]
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_speed, "_measure", lambda: figures.pop(0))
    bf16_speedup.cache_clear()
    yield figures
    bf16_speedup.cache_clear()


def test_jobs_of_one_engine_and_of_a_fresh_one_take_the_same_bits(chosen, tmp_path, measured):
    settings = chosen(load={"bits": 0})
    bits, notes = [], []
    for workbench in (Workbench(tmp_path / "one"), Workbench(tmp_path / "two")):
        bf16_speedup.cache_clear()  # as in a new process
        for job in (workbench.load, workbench.tune):
            notes.append([e["values"]["bits"] for e in job(settings) if e.get("key") == "note.auto_bits"])
            bits.append(workbench.run.settings().load.bits)
    assert bits == [16, 16, 16, 16] and len(measured) == 2
    assert notes == [[16], [], [16], []]  # once an engine


def test_another_process_takes_the_first_figure(measured):
    assert bf16_speedup() == 9.0
    code = "from playground.model.cpu_speed import bf16_speedup; print(bf16_speedup())"
    found = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == "9.0", found.stderr


def test_process_that_measures_at_the_same_time_takes_the_figure_that_was_kept_first(measured, monkeypatch):
    def measure_late() -> float:
        monkeypatch.setattr(cpu_speed, "_measure", lambda: 9.0)
        bf16_speedup.cache_clear()
        bf16_speedup()  # the other process, meanwhile
        return 0.1

    monkeypatch.setattr(cpu_speed, "_measure", measure_late)
    assert bf16_speedup() == 9.0


@pytest.mark.parametrize("text", ["", "{}", '{"bf16_speedup": null}', '{"bf16_speed'])
def test_damaged_figure_is_measured_again(measured, text):
    bf16_speedup()
    [file] = (catalog.cache_folder() / "cpu-speed").iterdir()
    assert json.loads(file.read_text())["cores"]
    file.write_text(text)
    bf16_speedup.cache_clear()
    assert bf16_speedup() == 0.1 and json.loads(file.read_text())["bf16_speedup"] == 0.1


def test_cache_that_cannot_be_written_leaves_the_figure_to_the_process(measured, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLAYGROUND_CACHE", str(tmp_path / "file"))
    assert bf16_speedup() == bf16_speedup() == 9.0


def test_figures_of_both_types_are_kept_beside_each_other(measured, monkeypatch):
    monkeypatch.setattr(cpu_speed, "_measure_int8", lambda: 1.4)
    cpu_speed.int8_speedup.cache_clear()
    assert (bf16_speedup(), cpu_speed.int8_speedup()) == (9.0, 1.4)
    monkeypatch.setattr(cpu_speed, "_measure_int8", lambda: 0.1)
    cpu_speed.int8_speedup.cache_clear()
    bf16_speedup.cache_clear()
    assert (bf16_speedup(), cpu_speed.int8_speedup()) == (9.0, 1.4) and len(measured) == 2
    cpu_speed.int8_speedup.cache_clear()


def test_measurement_is_bounded_in_time(monkeypatch):
    monkeypatch.setattr(cpu_speed, "MEASURING_SECONDS", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert cpu_speed._measure() > 0 and cpu_speed._measure_int8() > 0
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert default_bits("cpu") == (16 if bf16_speedup() >= MIN_BF16_SPEEDUP else 32)
