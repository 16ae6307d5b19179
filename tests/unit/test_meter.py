"""Readings and peaks of memory, and what counts as out of memory."""

import resource
import subprocess
import sys

import pytest
import torch

from playground.memory import meter


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"), True),
        (RuntimeError("could not create a primitive"), False),
        (RuntimeError("shapes don't match"), False),
    ],
)
def test_an_error_that_names_memory_is_out_of_memory(error, expected):
    assert meter.is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("CUDA out of memory. Tried to allocate 25.60 GiB. GPU 0 has a total capacity of 24.00 GiB", int(25.6 * 2**30)),
        ("CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0", 2**29),
        ("can't allocate memory: you tried to allocate 4096 bytes. Error code 12", 4096),
        ("CUDA out of memory", 0),
    ],
)
def test_the_size_of_the_failed_allocation_is_read_from_the_error(text, size):
    assert meter.failed_allocation(RuntimeError(text)) == size


def test_a_failed_primitive_is_out_of_memory_where_the_address_space_is_limited():
    code = (
        "from playground.memory import meter; "
        "print([meter.is_out_of_memory(RuntimeError(text)) for text in ('could not create a primitive', 'shapes')])"
    )
    limit = 4 * 2**30
    completed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert completed.stdout.strip() == "[True, False]"


def test_the_meter_keeps_the_peak_of_each_kind(monkeypatch):
    readings = [{"rss": 5}, {"rss": 9, "reserved": 3}, {"rss": 2, "reserved": 4}]
    passed_on = []
    gauge = meter.Meter(passed_on.append)
    for reading in readings:
        monkeypatch.setattr(meter, "read_memory", lambda reading=reading: reading)
        gauge.take()
    assert passed_on == readings and gauge.peak == {"rss": 9, "reserved": 4}


def test_the_meter_measures_until_it_is_stopped(monkeypatch):
    monkeypatch.setattr(meter, "PERIOD", 0.001)
    ready = meter.threading.Event()
    gauge = meter.Meter(lambda reading: ready.set()).start()
    assert ready.wait(60)
    gauge.stop()
    assert gauge.peak["rss"] > 2**20 and not gauge._thread.is_alive()
