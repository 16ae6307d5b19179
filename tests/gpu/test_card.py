"""A pretended card on a real one: memory runs out where it would there, and is given back afterwards."""

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import toys

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import card_limit
from playground.runs import accuracy
from playground.settings import Data, Load, Settings, Train

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
def bench(tmp_path):
    loaded = Workbench(tmp_path / "runs")
    yield loaded
    loaded.free()


def chosen(model, card: float, **train) -> Settings:
    return Settings(
        load=Load(model=str(model), bits=32, simulate_gpu_gib=card),
        data=Data(end_row=32),
        train=Train(**{"max_steps": 3, "batch_size": 8, **train}),
    )


def test_what_the_card_cannot_hold_runs_out_and_says_with_what(bench, model):
    with pytest.raises(PlaygroundError) as told:
        list(bench.tune(chosen(model, CARD, method="full")))  # weights, gradients and two averages: four times 0.4 GiB
    [problem] = told.value.problems
    assert (problem.key, problem.values["capacity_bytes"]) == ("error.out_of_memory", int(CARD * 2**30))
    [failure] = [e for e in bench.run.events() if e["kind"] == "error"]
    assert (
        failure["peak"]["reserved"] <= CARD * 2**30 - card_limit.MAX_RUNTIME_BYTES
        and failure["peak"]["device_used"] <= CARD * 2**30
    )
    assert sum(failure["parts"].values()) == failure["peak"]["device_used"] and failure["parts"]["weights"] > 2**28
    [said] = [e for e in bench.run.events() if e["kind"] == "memory_predicted" and e["phase"] == "tune"]
    assert (said["capacity"], said["verdict"]) == (int(CARD * 2**30), "no")
    assert torch.cuda.get_per_process_memory_fraction() == 1.0
    assert list(bench.tune(chosen(model, 0, method="full")))[-1]["result"]["steps"] == 3


def test_what_it_can_hold_stays_within_it_as_predicted(bench, model):
    run = list(bench.tune(chosen(model, CARD)))[-1]["result"]["run"]
    events = list(bench.run.events())
    assert events[0]["hardware"]["capacity"] == int(CARD * 2**30) and events[0]["hardware"]["pretended"]
    errors = {(pair.phase, pair.kind): pair.error for pair in accuracy.pairs(run, events)}
    assert abs(errors["tune", "allocated"]) < 0.05 and abs(errors["load", "weights"]) < 0.01
    assert {e["verdict"] for e in events if e["kind"] == "memory_predicted"} <= {"fits", "tight"}
