"""A simulated card on a real one: memory runs out where it would there, and is released afterwards."""

import pytest
import torch
import toys

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import card_limit
from playground.runs import accuracy
from playground.settings import Data, Load, Settings, Train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CARD = 1.5  # GiB: half of it is CUDA's own


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toys.save(
        tmp_path_factory.mktemp("model") / "toy",
        chat=True,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        max_position_embeddings=1024,
    )


@pytest.fixture
def workbench(tmp_path):
    workbench = Workbench(tmp_path / "runs")
    yield workbench
    workbench.free()


def chosen(model, card: float, **train) -> Settings:
    return Settings(
        load=Load(model=str(model), bits=32, simulate_gpu_gib=card),
        data=Data(end_row=32),
        train=Train(**{"max_steps": 3, "batch_size": 8, **train}),
    )


def test_out_of_memory_on_the_simulated_card_has_its_ledger(workbench, model):
    with pytest.raises(PlaygroundError) as caught:
        list(
            workbench.tune(chosen(model, CARD, method="full"))
        )  # weights, gradients and two averages: four times 0.4 GiB
    problem, failed = caught.value.problems
    assert failed.key == "error.failed_allocation" and failed.values["asked_bytes"] > 0
    assert (problem.key, problem.values["capacity_bytes"]) == ("error.out_of_memory", int(CARD * 2**30))
    [failure] = [e for e in workbench.run.events() if e["kind"] == "error"]
    assert (
        failure["peak"]["reserved"] <= CARD * 2**30 - card_limit.MAX_RUNTIME_BYTES
        and failure["peak"]["device_used"] <= CARD * 2**30
    )
    assert sum(failure["parts"].values()) == failure["peak"]["device_used"] and failure["parts"]["weights"] > 2**28
    [prediction] = [e for e in workbench.run.events() if e["kind"] == "memory_predicted" and e["phase"] == "tune"]
    assert (prediction["capacity"], prediction["verdict"]) == (int(CARD * 2**30), "no")
    assert torch.cuda.get_per_process_memory_fraction() == 1.0
    assert list(workbench.tune(chosen(model, 0, method="full")))[-1]["result"]["steps"] == 3


def test_fine_tune_that_fits_stays_within_the_card_as_predicted(workbench, model):
    run = list(workbench.tune(chosen(model, CARD)))[-1]["result"]["run"]
    events = list(workbench.run.events())
    assert events[0]["hardware"]["capacity"] == int(CARD * 2**30) and events[0]["hardware"]["simulated"]
    errors = {(pair.phase, pair.kind): pair.error for pair in accuracy.pairs(run, events)}
    assert abs(errors["tune", "allocated"]) < 0.05 and abs(errors["load", "weights"]) < 0.01
    assert {e["verdict"] for e in events if e["kind"] == "memory_predicted"} <= {"fits", "tight"}
