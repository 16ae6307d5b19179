"""A fine-tune with several processes that the engine starts: its result, its stop, and the death of a process."""

import os
import signal
import time
from collections.abc import Callable

import gradio as gr
import psutil
import pytest
import torch
from pages import page_over
from safetensors.torch import load_file
from toys import keys

from playground import runs
from playground.engine.client import Engine
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import this_machine as machine
from playground.planning.client import usable_processes
from playground.settings import Settings
from playground.settings.limits import Limits, beyond_limits
from playground.ui import fine_tune_tab

TWO = {"num_processes": 2, "max_steps": 3, "batch_size": 4, "sample_every": "off", "measure_forgetting": False}
SOON = 15  # seconds: 5 are meant (2.6 were measured), on a machine that does nothing else
ENDLESS = TWO | {"max_steps": 100_000, "save_every": 5}


@pytest.fixture(autouse=True)
def cpu_processes(monkeypatch):
    monkeypatch.setenv("PLAYGROUND_CPU_PROCESSES", "2")


@pytest.fixture
def engine(tmp_path):
    engine = Engine(tmp_path / "runs")
    yield engine
    engine.close()


def members(engine: Engine) -> dict[int, psutil.Process]:
    """The processes that train, by rank."""
    found = {}
    for process in children(engine):
        rank = process.environ().get("RANK")
        if rank is not None:
            found[int(rank)] = process
    return found


def first(job, kind: str) -> dict:
    return next(event for event in job.events() if event["kind"] == kind)


def children(engine: Engine) -> list[psutil.Process]:
    """accelerate's launcher, and the processes that it has started."""
    return psutil.Process(engine.pid).children(recursive=True)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def assert_none_left(engine: Engine) -> None:
    assert children(engine) == [] and engine.state == "ready"


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_leave_the_adapter_of_one(engine, chosen, parallel):
    """And a model that was loaded before is freed; afterwards none is loaded."""
    one = engine.tune(chosen(lora={"dropout": 0.0}))
    assert one.wait(120) and not one.error and engine.loaded
    two = engine.tune(chosen(train={"num_processes": 2, "parallel": parallel}))
    kinds = [event["kind"] for event in two.events()]
    assert kinds[0] == "unloaded" and kinds.index("loaded") < kinds.index("step") and kinds[-2:] == ["unloaded", "done"]
    assert engine.loaded is None
    assert two.result["steps"] == 3 and two.result["run"] == two.run != one.run
    expected, found = (load_file(f"{job.result['adapter']}/adapter_model.safetensors") for job in (one, two))
    assert expected.keys() == found.keys()
    difference = sum((expected[name] - found[name]).norm() ** 2 for name in expected) ** 0.5
    assert difference / sum(tensor.norm() ** 2 for tensor in expected.values()) ** 0.5 < 1e-3
    assert runs.summary(engine.root, two.run).state == "done"
    assert not runs.is_held(runs.find(engine.root, two.run))
    assert_none_left(engine)


@pytest.mark.slow
def test_stop_ends_both_soon_and_the_run_continues(engine, chosen):
    job = engine.tune(chosen(train=ENDLESS))
    stepped = first(job, "step")["step"]
    assert engine.stop("tune") and job.wait(SOON) and not job.error
    assert job.result["stopped"] and job.result["checkpoint"]
    assert_none_left(engine)
    assert runs.summary(engine.root, job.run).is_resumable
    again = engine.resume(job.run)
    assert first(again, "step")["step"] > stepped and len(members(engine)) == 2
    engine.stop()
    assert again.wait(SOON) and not again.error and again.run == job.run


@pytest.mark.slow
def test_stop_is_taken_in_by_all_processes_at_the_same_step(chosen, tmp_path, monkeypatch):
    """So that they save the adapter, and none waits for another to gather weights with."""
    monkeypatch.setattr("playground.engine.processes.STOP_SECONDS", 60)
    monkeypatch.setattr("playground.engine.processes.END_SECONDS", 15)
    workbench, events = Workbench(tmp_path), []
    for event in workbench.tune(chosen(train=ENDLESS | {"parallel": "fsdp2"})):
        events.append(event)
        if event["kind"] == "step":
            workbench.stop.set()
    result = events[-1]["result"]
    assert result["stopped"] and os.path.isdir(result["adapter"]) and result["loss"]["after"] is None
    assert not workbench.stop.is_set()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60, 0])
def test_stop_while_all_evaluate_ends_in_order(chosen, tmp_path, monkeypatch, seconds):
    """Also where they get no time to end by themselves."""
    monkeypatch.setattr("playground.engine.processes.STOP_SECONDS", seconds)
    monkeypatch.setattr("playground.engine.processes.END_SECONDS", 15)
    workbench, events = Workbench(tmp_path), []
    for event in workbench.tune(chosen(train=ENDLESS | {"parallel": "fsdp2"})):
        events.append(event)
        if event == {**event, "kind": "phase", "name": "evaluate"}:
            workbench.stop.set()
    assert events[-1]["result"]["stopped"]
    assert [run.state for run in runs.history(tmp_path)] == ["stopped"]


@pytest.mark.slow
def test_stop_ends_processes_that_are_still_starting(engine, chosen):
    engine.start()
    job = engine.tune(chosen(train=ENDLESS))
    wait_until(lambda: len(children(engine)) == 3)  # accelerate, and both
    engine.stop()
    assert job.wait(SOON) and not job.error and job.result["stopped"]
    assert_none_left(engine)
    assert [run.state for run in runs.history(engine.root)] in ([], ["stopped"])


@pytest.mark.slow
def test_stop_ends_processes_that_hang(engine, chosen):
    job = engine.tune(chosen(train=ENDLESS))
    first(job, "step")
    members(engine)[1].suspend()
    engine.stop()
    assert job.wait(30) and not job.error and job.result["stopped"]
    assert runs.summary(engine.root, job.run).is_resumable
    assert_none_left(engine)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_killed_process_ends_the_job_with_its_number_and_signal(engine, chosen, rank):
    job = engine.tune(chosen(train=ENDLESS))
    first(job, "step")
    members(engine)[rank].kill()
    assert job.wait(SOON)
    [problem] = job.error.problems
    assert problem.key == "error.process_signal"
    assert problem.values == {"rank": rank, "processes": 2, "signal": "SIGKILL"}
    assert_none_left(engine)
    *_, last = runs.find(engine.root, job.run).events()
    assert last["problems"][0]["key"] == "error.process_signal"
    assert runs.summary(engine.root, job.run).is_resumable


@pytest.mark.slow
def test_a_member_that_waits_for_a_dead_one_is_ended_soon(chosen, tmp_path, monkeypatch):
    """As one does on a GPU, where no signal is taken in."""
    monkeypatch.setattr("playground.engine.processes.DEATH_SECONDS", 1)
    killed_at = 0.0
    with pytest.raises(PlaygroundError) as caught:
        for event in Workbench(tmp_path).tune(chosen(train=ENDLESS)):
            if event["kind"] == "step" and not killed_at:
                own = {int(p.environ().get("RANK", -1)): p for p in psutil.Process().children(recursive=True)}
                own[0].suspend()
                own[1].kill()
                killed_at = time.monotonic()
    assert time.monotonic() - killed_at < SOON
    [problem] = caught.value.problems
    assert (problem.key, problem.values["rank"]) == ("error.process_signal", 1)


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process(engine, chosen):
    job = engine.tune(chosen(train=ENDLESS))
    first(job, "step")
    [launcher] = psutil.Process(engine.pid).children()
    launcher.kill()
    assert job.wait(SOON) and job.error.problems[0].key == "error.launcher_died"
    assert_none_left(engine)


@pytest.mark.slow
def test_a_killed_engine_leaves_no_process(engine, chosen):
    job = engine.tune(chosen(train=ENDLESS))
    first(job, "step")
    left = children(engine)
    os.kill(engine.pid, signal.SIGKILL)
    assert psutil.wait_procs(left, 20)[1] == [] and len(left) == 3


@pytest.mark.slow
def test_an_error_of_all_processes_is_shown_as_it_is(engine, chosen, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    job = engine.tune(chosen(train=TWO, data={"source": str(tmp_path / "empty.jsonl")}))
    assert job.wait(60) and "error.process_code" not in {problem.key for problem in job.error.problems}
    assert_none_left(engine)


@pytest.mark.parametrize(
    "groups, key",
    [
        ({"train": TWO | {"num_processes": 3, "batch_size": 3}}, "error.cpu_processes"),
        ({"train": TWO | {"batch_size": 3}}, "error.accumulation"),
        ({"train": TWO | {"parallel": "fsdp2", "method": "full"}}, "error.sharded_full"),
        ({"train": TWO | {"method": "full", "offload_optimizer": True}}, "error.offload_processes"),
        ({"train": TWO | {"parallel": "fsdp2"}, "load": {"bits": 4}, "lora": {"use_dora": True}}, "error.split_start"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(chosen, tmp_path, monkeypatch, groups, key):
    monkeypatch.setattr("playground.engine.processes.Connection", None)  # it would start them
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).tune(chosen(**groups)))
    assert keys(caught) == [key] and list(tmp_path.iterdir()) == []


def test_several_processes_on_one_gpu_are_refused(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr("playground.engine.processes.Connection", None)
    monkeypatch.setattr("playground.engine.processes.resolve_device", lambda load: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).tune(chosen(train=TWO)))
    assert caught.value.problems[0].values == {"processes": 2, "devices": 1} and keys(caught) == ["error.processes"]


def test_without_the_variable_a_cpu_trains_in_one_process(chosen, tmp_path, monkeypatch):
    monkeypatch.delenv("PLAYGROUND_CPU_PROCESSES")
    with pytest.raises(PlaygroundError) as caught:
        list(Workbench(tmp_path).tune(chosen(train=TWO)))
    assert keys(caught) == ["error.cpu_processes"] and "PLAYGROUND_CPU_PROCESSES=2" in caught.value.text("en")


def test_a_shared_page_allows_as_many_as_its_owner_says():
    two = Settings().with_values({"train": {"num_processes": 2}})
    assert [problem.key for problem in beyond_limits(two, Limits())] == ["shared.processes"]
    assert beyond_limits(two, Limits(processes=2)) == []


@pytest.mark.parametrize(
    "usable, private, offered", [(4, True, [1, 2, 3, 4]), (4, False, [1]), (1, True, [1]), (1, False, [1])]
)
def test_the_form_offers_processes_where_there_are_several_gpus(tmp_path, monkeypatch, usable, private, offered):
    monkeypatch.setattr("playground.ui.process_choice.usable_processes", lambda: usable)
    page = page_over(tmp_path, private=private)
    with gr.Blocks():
        fine_tune_tab.build(page)
    field = page.fields["train", "num_processes"]
    row = field.parent.parent  # Gradio puts the fields of a row into a form
    assert [value for _, value in field.choices] == offered and row.visible == (len(offered) > 1)
    elsewhere = page.values(Settings().with_values({"train": {"num_processes": 8}}))
    assert dict(zip(page.fields, elsewhere, strict=True))["train", "num_processes"] == max(offered)


def test_usable_processes_are_counted(monkeypatch):
    count = usable_processes.__wrapped__
    assert count() == 2
    monkeypatch.setenv("PLAYGROUND_CPU_PROCESSES", "many")
    assert count() == 1
    monkeypatch.setattr(machine, "this_machine", lambda: {"device": "cuda"})
    listed = [f"GPU-{number}, NVIDIA H200, 144384, 500" for number in range(4)]
    monkeypatch.setattr(machine, "_nvidia_smi", lambda *options: "\n".join(listed))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert count() == 4
    for visible, usable in (("0,3", 2), ("0,7,3", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert count() == usable
