"""Two processes (gloo) train as one does, with weights whole or split; and the errors where they can't.

Run as a script, this file is one of those processes: `test_parallel.py JOB FOLDER`.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch

from playground.ending import ENDING
from playground.errors import PlaygroundError, problem
from playground.settings import Settings
from playground.train.parallel import Team, _messages, is_lost_peer

HERE = Path(__file__).resolve()
PROJECT = HERE.parents[2]

# family, gradient checkpointing, rows
PLAIN, RECOMPUTED = ("llama", "off", 24), ("llama", "all", 24)
TAIL = ("llama-tied", "2", 17)  # an epoch's last step has one row
CASES = {
    "whole": [PLAIN, TAIL],
    "split": [PLAIN, RECOMPUTED, TAIL, ("gpt2", "all", 24), ("gemma2", "off", 24)],
    "offloaded": [RECOMPUTED],
}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ENVIRONMENT = {"whole": {}, "split": FSDP, "offloaded": FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}}


def make_settings(micro_batch: int, policy: str = "off", **train) -> Settings:
    values = {
        "max_steps": 3,
        "batch_size": 8,
        "micro_batch_size": micro_batch,
        "lr": 1e-2,
        "gradient_checkpointing": policy,
    } | train
    return Settings().with_values({"load": {"bits": 32, "device": "cpu"}, "train": values})


def train(team: Team, micro_batch: int, family: str, policy: str, count: int) -> dict:
    """The results of `train_loaded` for a toy, and how many of its numbers are in this process."""
    import toys

    from playground.model.load import LoadedModel

    model = toys.make_model(family).requires_grad_(False)
    loaded = LoadedModel(model, toys.make_tokenizer(False), "cpu", torch.float32, "")
    results = train_loaded(team, loaded, make_settings(micro_batch, policy), count)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    local_numbers = sum(getattr(p, "_local_tensor", p).numel() for p in frozen)
    return results | {"local_numbers": local_numbers, "numbers": sum(p.numel() for p in frozen)}


def train_loaded(team: Team, loaded, settings: Settings, count: int) -> dict:
    """Steps over `count` rows: loss and summed gradients of each, and the adapter after them."""
    from playground.data.batch import Example
    from playground.train.loop import fine_tune
    from playground.train.prepare import prepare_trainer

    draw, sums = random.Random(0), []
    rows = [Example([draw.randrange(5, 330) for _ in range(draw.randrange(8, 40))], 4) for _ in range(count)]
    team.check(settings)
    trainer = prepare_trainer(loaded, settings, rows, [], team)
    all_reduce = team.all_reduce

    def recorded(tensors):
        all_reduce(tensors)
        sums.append([t.clone() for t in tensors])

    team.all_reduce = recorded
    losses = [
        event["loss"]
        for event in fine_tune(trainer, rows, settings.train, threading.Event())
        if event["kind"] == "step"
    ]
    team.all_reduce = all_reduce
    adapter = {name: p.detach().clone() for name, p in loaded.model.named_parameters() if p.requires_grad}
    return {"losses": losses, "sums": sums, "adapter": adapter, "mode": trainer.batcher.mode}


def distance(actual, expected) -> float:
    """The norm of the difference of two lists of tensors, as a share of the norm of the second."""
    actual, expected = (torch.cat([t.flatten() for t in tensors]).double() for tensors in (actual, expected))
    return ((actual - expected).norm() / expected.norm()).item()


def compare(team: Team, folder: Path) -> None:
    torch.save([train(team, 4, *case) for case in CASES[folder.name]], folder / f"{team.rank}.pt")
    communicate(team, folder)


def communicate(team: Team, folder: Path) -> None:
    """Each way of communicating, by itself."""
    small, large = torch.full((2, 3), float(team.rank + 1)), torch.arange(5.0)
    team.all_reduce([small, large])
    results = {
        "sum": [small.tolist(), large.tolist()],
        "numbers": team.sum_numbers(1, team.rank),
        "any": [team.any(team.rank == 1), team.any(False)],
        "rows": team.local_rows([1, 2, 3]),
        "padded": team.pad_micro_batches([[1]] * (team.rank + 1), [0]),
        "none": team.pad_micro_batches([], [0]),
    }
    with team.local_main_first():
        (folder / "first").write_text("0") if team.main else (folder / "first").read_text()
    (folder / f"{team.rank}.json").write_text(json.dumps(results))
    team.leave()


def die(team: Team, folder: Path) -> None:
    """Rank 1 dies; rank 0 waits for it."""
    team.all_reduce([torch.ones(1)])
    if not team.main:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        team.all_reduce([torch.ones(1)])
    except RuntimeError as error:
        (folder / "report").write_text(f"{is_lost_peer(error)} {error}")
        os._exit(0)  # torch's threads of a broken connection may abort a process that ends in order


def hang(team: Team, folder: Path) -> None:
    """Rank 0 waits in a collective for a process that is alive and never comes."""
    with ENDING.signals(), ENDING.work(lambda cause: None, lambda cause: (folder / "report").write_text(cause)):
        team.all_reduce([torch.ones(1)])
        (folder / f"ready{team.rank}").touch()
        if team.main:
            team.all_reduce([torch.ones(1)])
        time.sleep(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(job: str, folder: Path, script: Path = HERE, **environment) -> list[subprocess.Popen]:
    """Two processes of a script as `accelerate launch` would start them."""
    folder.mkdir(exist_ok=True)
    shared = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(HERE.parents[1])]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_MIXED_PRECISION": "no",
    }
    command = [sys.executable, str(script), job, str(folder)]
    return [
        subprocess.Popen(
            command,
            env=shared | environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output


@cache
def alone(case: tuple) -> dict:
    """The results of one process, with micro-batches of all rows."""
    return train(Team("cpu"), 8, *case)


@pytest.fixture(scope="module", params=list(CASES))
def two(request, tmp_path_factory):
    """Two processes: (placement of weights, training results by rank, communication results by rank)."""
    folder = tmp_path_factory.mktemp("team") / request.param
    finish(start("compare", folder, **ENVIRONMENT[request.param]))
    return (
        request.param,
        [torch.load(folder / f"{rank}.pt") for rank in (0, 1)],
        [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)],
    )


@pytest.mark.slow
def test_two_processes_train_as_one_does(two):
    how, (main, other), _ = two
    for case, first, second in zip(CASES[how], main, other, strict=True):
        one = alone(case)
        assert first["mode"] == one["mode"]
        (loss, *gradients), (expected_loss, *expected) = first["sums"][0], one["sums"][0]
        assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6), case
        assert distance(gradients, expected) < 2e-6, case
        assert first["losses"] == second["losses"] == pytest.approx(one["losses"], abs=2e-5), case
        # AdamW divides by the gradients' size, so that rounding of gradients near zero shows
        assert distance(first["adapter"].values(), one["adapter"].values()) < 1e-4, case
        assert first["adapter"].keys() == second["adapter"].keys() != set(), case
        assert all(torch.equal(first["adapter"][name], weight) for name, weight in second["adapter"].items()), case
        share = first["local_numbers"] / first["numbers"]
        assert share == 1 if how == "whole" else share < 0.55


def test_processes_communicate(two):
    how, _, (main, other) = two
    assert main["sum"] == other["sum"] == [[[3.0] * 3] * 2, [0.0, 2.0, 4.0, 6.0, 8.0]]
    assert main["numbers"] == [2, 1] and main["any"] == [True, False]
    assert (main["rows"], other["rows"]) == ([1, 3], [2])
    assert main["none"] == [[[0], 0]] and other["padded"] == [[[1], 1], [[1], 1]]
    padding = [] if how == "whole" else [[[0], 0]]  # split weights are gathered equally often by all processes
    assert main["padded"] == [[[1], 1], *padding]


@pytest.mark.slow
def test_a_dead_process_is_recognized_at_once(tmp_path):
    main, other = start("die", tmp_path)
    assert other.wait(60) == -signal.SIGKILL
    assert main.wait(10) == 0, main.communicate()
    assert (tmp_path / "report").read_text().startswith("True"), (tmp_path / "report").read_text()


@pytest.mark.slow
def test_the_main_process_reports_its_end_even_from_within_a_collective(tmp_path):
    main, other = start("hang", tmp_path)
    until = time.time() + 60
    while not (tmp_path / "ready0").exists() and time.time() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    main.terminate()
    assert main.wait(10) == 128 + signal.SIGTERM
    assert (tmp_path / "report").read_text() == "SIGTERM"
    other.kill()
    other.wait()


def test_the_error_of_a_lost_peer_is_distinguished_from_others():
    assert is_lost_peer(
        RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    )
    assert is_lost_peer(torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0."))
    assert not is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_peer(problem("error.memory")) and not is_lost_peer(ConnectionError("connection closed by peer"))


def test_messages_have_a_limited_size(monkeypatch):
    monkeypatch.setattr("playground.train.parallel.MESSAGE_NUMBERS", 5)
    assert [[len(t) for t in m] for m in _messages([torch.ones(n) for n in (2, 3, 1, 9, 1)])] == [[2, 3], [1], [9], [1]]


@pytest.fixture
def command(toy_flags, tmp_path):
    """`command(config, *flags)` starts `accelerate launch … tune` on two processes; it writes below `tmp_path`."""

    def launched(config: str, *flags: str) -> subprocess.Popen:
        line = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(PROJECT / "assets" / "accelerate" / f"{config}.yaml"),
            "--num_processes",
            "2",
        ]
        line += [
            "--main_process_port",
            str(free_port()),
            "-m",
            "playground",
            "tune",
            "--runs",
            str(tmp_path / "runs"),
            *toy_flags,
            *flags,
        ]
        with open(tmp_path / "stderr", "w") as stderr:
            return subprocess.Popen(
                line,
                cwd=PROJECT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    return launched


@pytest.fixture
def toy_flags(toy, lesson) -> list[str]:
    values = {
        "model": toy(),
        "bits": 32,
        "device": "cpu",
        "source": lesson,
        "batch-size": 4,
        "micro-batch-size": 2,
        "max-seq-length": 128,
        "lr": 0.01,
    }
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def events(folder: Path) -> list[dict]:
    """The events so far of the one run below `folder`."""
    files = list((folder / "runs").glob("*/events.jsonl"))
    assert len(files) <= 1
    return [json.loads(line) for line in files[0].read_text().splitlines() if line.endswith("}")] if files else []


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, bits", [pytest.param("ddp", "32", marks=pytest.mark.exhaustive), ("fsdp2", "32"), ("fsdp2", "4")]
)
def test_the_launched_command_leaves_one_run(command, config, bits, tmp_path):
    process = command(config, "--steps", "3", "--bits", bits)
    answer, _ = process.communicate(timeout=200)
    assert process.returncode == 0, (tmp_path / "stderr").read_text()
    assert [e["step"] for e in events(tmp_path) if e["kind"] == "step"] == [1, 2, 3]
    assert [e["kind"] for e in events(tmp_path)].count("done") == 1
    assert len(answer.strip().splitlines()) == 1 and json.loads(answer)["steps"] == 3
    names = [folder.name for folder in (tmp_path / "runs").iterdir() if folder.name != ".locks"]
    assert names == [Path(json.loads(answer)["adapter"]).parent.name]
    assert len(list((tmp_path / "runs").rglob("adapter_model.safetensors"))) == 1
    predicted = [e["phase"] for e in events(tmp_path) if e["kind"] == "memory_predicted"]
    assert predicted == ["load", "tune"]
    notes = [e["key"] for e in events(tmp_path) if e["kind"] == "note"]
    is_split = (config, bits) == ("fsdp2", "4")
    assert ("note.split_weights" in notes) == is_split
    placed = [(len(e["layers"]), e["total"], e["processes"]) for e in events(tmp_path) if e["kind"] == "streamed"]
    readings = [e["buffers"] for e in events(tmp_path) if "buffers" in e]
    assert (len(placed), bool(readings)) == (is_split, is_split)
    if is_split:  # the first two layers are whole after a backward pass
        assert placed[0] == (placed[0][1], placed[0][1], 2) and readings[-1] == {"ready": [0, 1], "copying": []}


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_failure(command, tmp_path):
    process = command("ddp", "--steps", "100000")
    until = time.time() + 200
    while not any(e["kind"] == "step" for e in events(tmp_path)) and time.time() < until and process.poll() is None:
        time.sleep(0.2)
    other = next(child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    other.kill()
    killed = time.time()
    process.communicate(timeout=60)
    assert process.returncode != 0
    failures = [e for e in events(tmp_path) if e["kind"] == "error"]
    assert [p["key"] for e in failures for p in e["problems"]] == ["error.rank_died"]
    assert time.time() - killed < 20


@pytest.fixture
def team():
    """A single process whose team claims two."""
    team = Team("cpu")
    team.size = team._local_size = 2
    return team


def errors(team: Team, settings: Settings) -> dict:
    with pytest.raises(PlaygroundError) as caught:
        team.check(settings)
    return {p.key: p.values for p in caught.value.problems}


def test_more_processes_than_cards_are_refused(team, monkeypatch):
    team.device = "cuda"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert errors(team, make_settings(0)) == {"error.processes": {"processes": 2, "devices": 1}}


@pytest.mark.parametrize("batch, micro_batch, reported", [(8, 8, 8), (9, 0, 1), (6, 2, 2)])
def test_a_batch_that_cannot_be_divided_is_refused(team, batch, micro_batch, reported):
    problems = errors(team, make_settings(micro_batch, batch_size=batch))
    assert problems == {"error.accumulation": {"batch": batch, "micro_batch": reported, "processes": 2}}


def test_everything_that_cannot_be_sharded_is_reported_at_once(team):
    team.sharded = True
    assert list(errors(team, make_settings(3, batch_size=9, method="full"))) == [
        "error.accumulation",
        "error.sharded_full",
    ]


def test_deepspeed_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert list(errors(Team("cpu"), make_settings(0))) == ["error.deepspeed"]


def test_one_process_needs_no_communication():
    team, ones = Team("cpu"), torch.ones(3)
    team.check(make_settings(0))
    team.all_reduce([ones])
    assert team.main and team.accelerator is None and team.load_device == "cpu" and torch.equal(ones, torch.ones(3))
    assert (
        team.local_rows([1, 2, 3]) == [1, 2, 3]
        and team.sum_numbers(2) == [2]
        and team.pad_micro_batches([[1], [2]], []) == [([1], 1), ([2], 1)]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Team("cpu"), Path(sys.argv[2]))
