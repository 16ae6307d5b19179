"""The predicted step in the format of PyTorch's memory viewer: its highest point is the predicted peak."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from toys import PROJECT, keys

from playground.errors import PlaygroundError
from playground.memory.cuda_snapshot import cuda_snapshot, write_snapshot
from playground.planning.forecast import full_rows, resolve_target
from playground.planning.picture import write_tune_snapshot
from playground.predict import meta_model, phases
from playground.predict.allocation_trace import AllocationEvent
from playground.predict.snapshot import as_snapshot


def _highest(trace):
    allocated = highest = 0
    for entry in trace:
        allocated += {"alloc": entry["size"], "free_completed": -entry["size"]}.get(entry["action"], 0)
        highest = max(highest, allocated)
    return highest


@pytest.mark.parametrize("bits", [16, 4])
def test_the_highest_point_is_the_predicted_peak(chosen, tmp_path, bits):
    settings = chosen(load={"bits": bits, "device": "auto"})
    file = tmp_path / "predicted.pickle"
    write_tune_snapshot(settings, file)
    [trace] = pickle.loads(file.read_bytes())["device_traces"]
    resolved, target = resolve_target(settings, "cuda", 0)
    prediction = phases.predict_tune(meta_model.config_of(settings.load.model), resolved, target, full_rows(resolved))
    assert _highest(trace) == prediction["allocated"]
    names = {frame["name"] for entry in trace for frame in entry["frames"]}
    assert {"weights", "activations", "adapters", "forward", "backward", "layer 0"} <= names


def test_pytorchs_own_viewer_reads_it(chosen, tmp_path):
    file = tmp_path / "predicted.pickle"
    write_tune_snapshot(chosen(load={"bits": 16, "device": "auto"}), file)
    viewer = torch.cuda._memory_viz
    snapshot = pickle.loads(file.read_bytes())
    entries = len(snapshot["device_traces"][0])
    assert f"{entries} entries" in viewer.trace(snapshot) and len(viewer.trace_plot(snapshot)) > 10_000


def test_a_freed_block_has_the_address_of_its_allocation():
    events = [
        AllocationEvent(0, 512, "weights"),
        AllocationEvent(1, 1024, "loss"),
        AllocationEvent(1, 1024, "loss", True),
    ]
    [trace] = as_snapshot(events)["device_traces"]
    assert [entry["action"] for entry in trace] == ["alloc", "alloc", "free_requested", "free_completed"]
    assert trace[1]["addr"] == trace[2]["addr"] == trace[3]["addr"] == trace[0]["addr"] + 512


def test_what_cannot_be_written_or_recorded_is_an_error_in_a_sentence(tmp_path):
    with pytest.raises(PlaygroundError) as caught:
        write_snapshot({}, tmp_path / "none" / "x.pickle")
    assert keys(caught) == ["error.recording_file"]
    if not torch.cuda.is_available():
        with pytest.raises(PlaygroundError) as caught, cuda_snapshot(tmp_path / "x.pickle"):
            pass
        assert keys(caught) == ["error.snapshot_cpu"]
    with cuda_snapshot(None):
        pass


@pytest.mark.slow
def test_the_command_writes_it_beside_its_result(toy, tmp_path):
    file = tmp_path / "predicted.pickle"
    command = [sys.executable, "-m", "playground", "plan", str(toy()), "--snapshot", str(file)]
    command += ["--context", "128", "--max-seq-length", "64"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=300)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["phases"] and pickle.loads(file.read_bytes())["device_traces"][0]
