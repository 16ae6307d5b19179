"""The served page on two GPUs, by its endpoints: both train as predicted, stop soon, and one's death is survived."""

import time

import httpx
import psutil
import pytest
import torch
import toys
from gradio_client import Client
from served_app import ServedApp

from playground import runs
from playground.runs import accuracy

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")

WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "max_position_embeddings": 1024}
SETTINGS = {
    "data": {"source": "helpdesk.en", "end_row": 64},
    "train": {"batch_size": 16, "max_steps": 6, "eval_rows": 4, "sample_every": "off", "lr": 1e-3, "num_processes": 2},
}
STOP_SECONDS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toys.save(tmp_path_factory.mktemp("model") / "wide", chat=True, **WIDE)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    app = ServedApp(tmp_path_factory.mktemp("page"))
    app.wait_until_served()
    yield app
    app.close()


@pytest.fixture(scope="module")
def client(served):
    return Client(served.url, verbose=False)


def start(client, model, bits: int, **train) -> str:
    """Start a fine-tune of both GPUs; return its run's id."""
    groups = SETTINGS | {"load": {"model": str(model), "bits": bits}, "train": SETTINGS["train"] | train}
    return client.predict(groups, api_name="/tune")["id"]


def ended(client, run: str) -> dict:
    return client.submit(run, api_name="/follow").result(timeout=180)


def until_step(client, run: str) -> None:
    until = time.monotonic() + 120
    while not (state := client.predict(run, api_name="/run"))["step"]:
        assert time.monotonic() < until and state["state"] == "running", state
        time.sleep(0.1)


def members(served) -> dict[int, psutil.Process]:
    """The processes that train, by rank."""
    found = {}
    for process in psutil.Process(served.process.pid).children(recursive=True):
        rank = process.environ().get("RANK")
        if rank is not None:
            found[int(rank)] = process
    return found


def test_the_page_offers_both_gpus(served):
    components = httpx.get(f"{served.url}/config").json()["components"]
    assert [["1", 1], ["2", 2]] in [part["props"].get("choices") for part in components]


@pytest.mark.parametrize(
    ("parallel", "bits"), [("ddp", 4), ("ddp", 8), ("ddp", 16), ("fsdp2", 4), ("fsdp2", 8), ("fsdp2", 16)]
)
def test_both_gpus_fine_tune_and_take_what_was_predicted(served, client, model, parallel, bits):
    last = ended(client, start(client, model, bits, parallel=parallel))
    assert last["state"] == "done" and last["step"] == 6 and last["loss"]["after"] < last["loss"]["before"], last
    answers = client.predict(last["id"], "How do I?", {"max_new_tokens": 4}, api_name="/compare")
    assert answers["base"] and set(answers["sides"]) == {"base", "tuned"}
    pairs = accuracy.pairs("r", runs.find(served.runs, last["id"]).events())
    errors = {pair.kind: pair.error for pair in pairs if pair.phase == "tune"}
    print(parallel, bits, {kind: f"{error:+.1%}" for kind, error in errors.items()})
    assert abs(errors["allocated"]) < 0.05 and abs(errors["device_used"]) < 0.08


def test_both_are_stopped_within_seconds(served, client, model):
    run = start(client, model, 4, max_steps=100_000)
    until_step(client, run)
    asked = time.monotonic()
    assert client.predict(run, api_name="/stop")["stopped"]
    while client.predict(run, api_name="/run")["state"] == "running":
        time.sleep(0.05)
    assert time.monotonic() - asked < STOP_SECONDS
    psutil.wait_procs(list(members(served).values()), STOP_SECONDS)
    assert members(served) == {}


@pytest.mark.parametrize("rank", [0, 1])
def test_the_page_survives_the_death_of_one(served, client, model, rank):
    run = start(client, model, 4, max_steps=100_000)
    until_step(client, run)
    members(served)[rank].kill()
    last = ended(client, run)
    assert last["state"] == "failed" and "SIGKILL" in last["error"], last
    assert ended(client, start(client, model, 4))["state"] == "done"
