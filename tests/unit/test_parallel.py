"""Two processes (gloo) learn what one learns, with weights whole or split; and what is told when that can't be.

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

HERE = Path(__file__).resolve()
PROJECT = HERE.parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(PROJECT), str(HERE.parents[1])]

import psutil
import pytest
import torch

from playground.errors import PlaygroundError, problem
from playground.settings import Settings
from playground.train.parallel import Team, _messages, is_lost_peer

PLAIN, AGAIN, TAIL = (
    ("llama", "off", 24),
    ("llama", "all", 24),
    ("llama-tied", "2", 17),
)  # family, dial, rows: of 17, an epoch's last step has one
ARMS = {
    "whole": [PLAIN, TAIL],
    "split": [PLAIN, AGAIN, TAIL, ("gpt2", "all", 24), ("gemma2", "off", 24)],
    "offloaded": [AGAIN],
}
SPLIT = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
LAUNCHED = {"whole": {}, "split": SPLIT, "offloaded": SPLIT | {"FSDP_OFFLOAD_PARAMS": "true"}}


def chosen(micro_batch: int, policy: str = "off", **train) -> Settings:
    values = {
        "max_steps": 3,
        "batch_size": 8,
        "micro_batch_size": micro_batch,
        "lr": 1e-2,
        "gradient_checkpointing": policy,
    } | train
    return Settings().with_values({"load": {"bits": 32, "device": "cpu"}, "train": values})


def learned(team: Team, micro_batch: int, family: str, policy: str, count: int) -> dict:
    """Three steps over `count` rows: loss and summed gradients of each, and the adapter after them."""
    import toys

    from playground.data.batch import Example
    from playground.model.load import LoadedModel
    from playground.train.loop import fine_tune
    from playground.train.prepare import prepare_trainer

    draw = random.Random(0)
    rows = [Example([draw.randrange(5, 330) for _ in range(draw.randrange(8, 40))], 4) for _ in range(count)]
    model, settings, steps = toys.make_model(family).requires_grad_(False), chosen(micro_batch, policy), []
    team.check(settings)
    trainer = prepare_trainer(
        LoadedModel(model, toys.make_tokenizer(False), "cpu", torch.float32, ""), settings, rows, [], team
    )
    plain = team.sum

    def keeping(tensors):
        plain(tensors)
        steps.append([t.clone() for t in tensors])

    team.sum = keeping
    told = [
        event["loss"]
        for event in fine_tune(trainer, rows, settings.train, threading.Event())
        if event["kind"] == "step"
    ]
    team.sum = plain
    adapter = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    frozen = [p for p in model.parameters() if not p.requires_grad]
    here = sum(getattr(p, "_local_tensor", p).numel() for p in frozen)
    return {
        "told": told,
        "steps": steps,
        "adapter": adapter,
        "here": here,
        "all": sum(p.numel() for p in frozen),
        "mode": trainer.batcher.mode,
    }


def away(ours, theirs) -> float:
    """How far apart two lists of tensors are, relative to the second."""
    ours, theirs = (torch.cat([t.flatten() for t in tensors]).double() for tensors in (ours, theirs))
    return ((ours - theirs).norm() / theirs.norm()).item()


def compare(team: Team, folder: Path) -> None:
    torch.save([learned(team, 4, *arm) for arm in ARMS[folder.name]], folder / f"{team.rank}.pt")
    talk(team, folder)


def talk(team: Team, folder: Path) -> None:
    """What the processes tell each other, by itself."""
    small, large = torch.full((2, 3), float(team.rank + 1)), torch.arange(5.0)
    team.sum([small, large])
    found = {
        "sum": [small.tolist(), large.tolist()],
        "total": team.total(1, team.rank),
        "any": [team.any(team.rank == 1), team.any(False)],
        "share": team.share([1, 2, 3]),
        "level": team.pad_micro_batches([[1]] * (team.rank + 1), [0]),
        "none": team.pad_micro_batches([], [0]),
    }
    with team.turns():
        (folder / "first").write_text("0") if team.main else (folder / "first").read_text()
    (folder / f"{team.rank}.json").write_text(json.dumps(found))
    team.leave()


def die(team: Team, folder: Path) -> None:
    """Rank 1 dies; rank 0 waits for it."""
    team.sum([torch.ones(1)])
    if not team.main:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        team.sum([torch.ones(1)])
    except RuntimeError as error:
        (folder / "told").write_text(f"{is_lost_peer(error)} {error}")


def hang(team: Team, folder: Path) -> None:
    """Rank 0 waits in a collective for a process that is alive and never comes."""
    team.watch(lambda: (folder / "told").write_text("ended"))
    team.sum([torch.ones(1)])
    (folder / f"ready{team.rank}").touch()
    if team.main:
        team.sum([torch.ones(1)])
    time.sleep(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(job: str, folder: Path, **environment) -> list[subprocess.Popen]:
    """Two processes as `accelerate launch` would start them."""
    folder.mkdir(exist_ok=True)
    told = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_MIXED_PRECISION": "no",
    }
    command = [sys.executable, str(HERE), job, str(folder)]
    return [
        subprocess.Popen(
            command,
            env=told | environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said


@cache
def alone(arm: tuple) -> dict:
    """What one process learns, with micro-batches of all rows."""
    return learned(Team("cpu"), 8, *arm)


@pytest.fixture(scope="module", params=list(ARMS))
def two(request, tmp_path_factory):
    """What two processes learn, and what they told each other: (how, [rank 0's, rank 1's], [rank 0's, rank 1's])."""
    folder = tmp_path_factory.mktemp("team") / request.param
    finish(start("compare", folder, **LAUNCHED[request.param]))
    return (
        request.param,
        [torch.load(folder / f"{rank}.pt") for rank in (0, 1)],
        [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)],
    )


def test_two_processes_learn_what_one_learns(two):
    how, (main, other), _ = two
    for arm, mine, theirs in zip(ARMS[how], main, other):
        one = alone(arm)
        assert mine["mode"] == one["mode"]
        (loss, *gradients), (right, *wanted) = mine["steps"][0], one["steps"][0]
        assert loss.item() == pytest.approx(right.item(), rel=1e-6), arm
        assert away(gradients, wanted) < 2e-6, arm
        assert mine["told"] == theirs["told"] == pytest.approx(one["told"], abs=2e-5), arm
        assert away(mine["adapter"].values(), one["adapter"].values()) < 1e-4, (
            arm
        )  # AdamW makes much of gradients near zero
        assert all(torch.equal(mine["adapter"][name], weight) for name, weight in theirs["adapter"].items()), arm
        assert mine["here"] == mine["all"] if how == "whole" else mine["here"] < 0.55 * mine["all"]


def test_what_processes_tell_each_other(two):
    how, _, (main, other) = two
    assert main["sum"] == other["sum"] == [[[3.0] * 3] * 2, [0.0, 2.0, 4.0, 6.0, 8.0]]
    assert main["total"] == [2, 1] and main["any"] == [True, False]
    assert (main["share"], other["share"]) == ([1, 3], [2])
    assert main["none"] == [[[0], 0]] and other["level"] == [[[1], 1], [[1], 1]]
    assert main["level"] == [[[1], 1]] + (
        [] if how == "whole" else [[[0], 0]]
    )  # split weights are gathered as often everywhere


def test_a_dead_process_is_recognized_at_once(tmp_path):
    main, other = start("die", tmp_path)
    assert other.wait(60) == -signal.SIGKILL
    assert main.wait(10) == 0, main.communicate()
    assert (tmp_path / "told").read_text().startswith("True"), (tmp_path / "told").read_text()


def test_the_main_process_tells_its_end_even_from_within_a_collective(tmp_path):
    main, other = start("hang", tmp_path)
    until = time.time() + 60
    while not (tmp_path / "ready0").exists() and time.time() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    main.terminate()
    assert main.wait(10) == 1
    assert (tmp_path / "told").read_text() == "ended"
    other.kill()
    other.wait()


def test_a_collective_that_failed_is_told_from_other_errors():
    assert is_lost_peer(
        RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    )
    assert is_lost_peer(torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0."))
    assert not is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_peer(problem("error.memory")) and not is_lost_peer(ConnectionError("connection closed by peer"))


def test_messages_are_of_limited_size(monkeypatch):
    monkeypatch.setattr("playground.train.parallel.MESSAGE", 5)
    assert [[len(t) for t in m] for m in _messages([torch.ones(n) for n in (2, 3, 1, 9, 1)])] == [[2, 3], [1], [9], [1]]


# --- the command itself ---


@pytest.fixture
def command(chosen_toy, tmp_path):
    """`command(config, **train)` starts `accelerate launch … tune` on two processes; it writes below `tmp_path`."""

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
            *chosen_toy,
            *flags,
        ]
        with open(tmp_path / "said", "w") as said:
            return subprocess.Popen(
                line,
                cwd=PROJECT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    return launched


@pytest.fixture
def chosen_toy(toy, lesson) -> list[str]:
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
    """What the one run below `folder` says so far."""
    found = list((folder / "runs").glob("*/events.jsonl"))
    assert len(found) <= 1
    return [json.loads(line) for line in found[0].read_text().splitlines() if line.endswith("}")] if found else []


@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_the_launched_command_leaves_one_run(command, config, tmp_path):
    process = command(config, "--steps", "3")
    answer, _ = process.communicate(timeout=200)
    assert process.returncode == 0, (tmp_path / "said").read_text()
    assert [e["step"] for e in events(tmp_path) if e["kind"] == "step"] == [1, 2, 3]
    assert [e["kind"] for e in events(tmp_path)].count("done") == 1
    assert len(answer.strip().splitlines()) == 1 and json.loads(answer)["steps"] == 3
    assert [f.name for f in (tmp_path / "runs").iterdir()] == [Path(json.loads(answer)["adapter"]).parent.name]
    assert len(list((tmp_path / "runs").rglob("adapter_model.safetensors"))) == 1


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


# --- what can't be ---


@pytest.fixture
def team():
    """One process that says of itself that it is one of two."""
    made = Team("cpu")
    made.size = made._here = 2
    return made


def refused(team: Team, settings: Settings) -> dict:
    with pytest.raises(PlaygroundError) as caught:
        team.check(settings)
    return {p.key: p.values for p in caught.value.problems}


def test_more_processes_than_cards(team, monkeypatch):
    team.device = "cuda"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert refused(team, chosen(0)) == {"error.processes": {"processes": 2, "devices": 1}}


@pytest.mark.parametrize("batch, micro_batch, told", [(8, 8, 8), (9, 0, 1), (6, 2, 2)])
def test_a_batch_that_cannot_be_shared_out(team, batch, micro_batch, told):
    found = refused(team, chosen(micro_batch, batch_size=batch))
    assert found == {"error.accumulation": {"batch": batch, "micro_batch": told, "processes": 2}}


def test_all_that_cannot_be_split_is_told_at_once(team):
    team.sharded = True
    assert list(refused(team, chosen(3, batch_size=9, method="full"))) == ["error.accumulation", "error.sharded_full"]
    assert refused(team, Settings().with_values({"load": {"bits": 8}})) == {"error.sharded_bits": {"bits": 8}}


def test_deepspeed_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert list(refused(Team("cpu"), chosen(0))) == ["error.deepspeed"]


def test_one_process_talks_to_nobody():
    team, ones = Team("cpu"), torch.ones(3)
    team.check(chosen(0))
    team.sum([ones])
    assert team.main and team.accelerator is None and team.load_device == "cpu" and torch.equal(ones, torch.ones(3))
    assert (
        team.share([1, 2, 3]) == [1, 2, 3]
        and team.total(2) == [2]
        and team.pad_micro_batches([[1], [2]], []) == [([1], 1), ([2], 1)]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Team("cpu"), Path(sys.argv[2]))
