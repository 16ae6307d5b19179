"""A measured snapshot of a fine-tune has the peak that the run measured."""

import pickle

import pytest
import torch

from playground import runs
from playground.engine.workbench import Workbench
from playground.memory.cuda_snapshot import cuda_snapshot
from playground.settings import Settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def _highest(snapshot):
    """The most bytes that were allocated in the trace, over those that had been there before."""
    allocated = highest = 0
    for entry in snapshot["device_traces"][0]:
        allocated += {"alloc": entry["size"], "free_completed": -entry["size"]}.get(entry["action"], 0)
        highest = max(highest, allocated)
    return highest


def test_its_highest_point_is_the_measured_peak(toy, lesson, tmp_path):
    values = {
        "load": {"model": str(toy()), "bits": 16, "device": "cuda"},
        "data": {"source": str(lesson)},
        "train": {"max_steps": 3, "batch_size": 4, "max_seq_length": 128, "sample_every": "off", "compile": "off"},
    }
    values["train"]["memory_snapshot"] = True  # in the run's folder; the command's file is written around it
    file = tmp_path / "measured.pickle"
    with cuda_snapshot(file):
        events = list(Workbench(tmp_path / "runs").tune(Settings().with_values(values)))
    result = events[-1]["result"]
    for path in (file, runs.find(tmp_path / "runs", result["run"]).snapshot):
        taken = pickle.loads(path.read_bytes())
        assert _highest(taken) == pytest.approx(result["peak"]["allocated"], rel=0.02, abs=2**20)
        names = {frame["filename"] for entry in taken["device_traces"][0] for frame in entry.get("frames", ())}
        assert names and not [name for name in names if name.startswith("/")]
