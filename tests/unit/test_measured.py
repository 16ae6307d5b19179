"""What was measured for a model at each bit width, as the card picture draws it."""

import pytest

from playground import runs
from playground.runs.measured import latest_measurements
from playground.settings import Settings

HERE = {"device": "cpu", "name": "this processor"}
CHOSEN = Settings().with_values({"load": {"model": "toy", "bits": 16}})


def measured_run(root, total: int, hardware: dict = HERE, phase: str = "tune", **groups: dict) -> runs.Run:
    run = runs.create(root, "tune", CHOSEN.with_values(groups), hardware=hardware)
    run.append("memory_measured", phase=phase, parts={"weights": total // 2, "adapters": 0}, peak={"rss": total})
    return run


def totals(root, phase: str = "tune") -> dict[int, int]:
    return {bits: m.total for bits, m in latest_measurements(root, "toy", phase, HERE).items()}


def test_the_newest_measurement_of_each_width_counts(tmp_path):
    measured_run(tmp_path, 100)
    measured_run(tmp_path, 60, load={"bits": 4})
    newest = measured_run(tmp_path, 90)
    assert totals(tmp_path) == {16: 90, 4: 60}
    found = latest_measurements(tmp_path, "toy", "tune", HERE)[16]
    assert (found.run, found.parts) == (newest.id, {"weights": 45})


def test_other_models_machines_and_phases_are_left_out(tmp_path):
    measured_run(tmp_path, 1, load={"model": "another"})
    measured_run(tmp_path, 2, hardware=HERE | {"name": "another processor"})
    measured_run(tmp_path, 3, hardware=HERE | {"device": "cuda"})
    measured_run(tmp_path, 4, phase="load")
    assert totals(tmp_path) == {} and totals(tmp_path, "load") == {16: 4}


def test_a_run_that_cannot_be_read_is_left_out(tmp_path):
    run = measured_run(tmp_path, 5)
    (run.folder / "settings.json").write_text("{")
    assert totals(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"load": {"bits": 4}, "train": {"lr": 0.5}}, True),
        ({"train": {"batch_size": 3}}, False),
        ({"lora": {"r": 3}}, False),
        ({"train": {"num_processes": 2}}, False),
        ({"train": {"parallel": "fsdp2"}}, True),
        ({"load": {"dtype": "float16"}}, False),
        ({"load": {"quant_type": "fp4", "quant_type_8bit": "fp8"}}, True),
    ],
)
def test_settings_are_the_same_if_they_need_the_same_memory(tmp_path, changes, same):
    measured_run(tmp_path, 5)
    measurement = latest_measurements(tmp_path, "toy", "tune", HERE)[16]
    assert measurement.is_of_same_settings(CHOSEN.with_values(changes)) is same
