"""Inject faults into fine-tunes at random moments, and count what was kept.

    python tests/bench/faults.py                 # every fault ten times
    python tests/bench/faults.py --times 2 --only SIGTERM gone

A toy model is fine-tuned in a process of its own (`command`: as `python -m playground tune`), by an engine (`engine`:
as the page's process runs it), or by the served page (`page`). Moments are uniform in time over the second after the
first step. Checkpoints are automatic, except that an engine that is killed writes one every five steps. Counted are, of
all times: closed (the run's record ends with its end, once), named (with the cause), kept (there is a checkpoint, or
the adapter), resumed (the run goes on from there to its last step). The largest are given of: lost_steps (that were
recorded and aren't in the checkpoint), left (processes that are still there), and seconds from the fault to the end of
the last process.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from arms import PROJECT, attempt, failures, report, write

sys.path.insert(0, str(PROJECT / "tests"))

import toys

from playground import runs
from playground.ending import ENDING
from playground.engine.client import Engine
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory.meter import hardware
from playground.model import saved_adapter
from playground.runs import event_log
from playground.settings import Settings
from playground.train import checkpoint, loop

STEPS, MANY_STEPS = 100, 600  # of processes whose steps are slowed down, and of others
WAIT = 120.0  # seconds at most, for any state
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
DISKS = {"full": errno.ENOSPC, "read-only": errno.EROFS}


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("the state never came")
        time.sleep(0.01)


def steps_of(root: Path) -> int:
    """The last recorded step of the newest run."""
    history = runs.history(root)
    events = runs.find(root, history[0].id).events(at_a_glance=True) if history else ()
    return max((event["step"] for event in events if event["kind"] == "step"), default=0)


def random_moment(root: Path) -> None:
    wait_until(lambda: steps_of(root) >= 1)
    time.sleep(random.random())


def slow_steps() -> None:
    accumulate = loop._accumulate
    loop._accumulate = lambda *arguments: (time.sleep(0.02), accumulate(*arguments))[1]


def forked(root: Path, settings: Settings, prepare: Callable[[], object] = lambda: None) -> psutil.Process:
    """A fine-tune in a process of its own, with the command's handling of signals."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            slow_steps()
            prepare()
            with ENDING.signals():
                list(Workbench(root).tune(settings))
        finally:
            os._exit(ENDING.status)
    return psutil.Process(pid)


def end_of(processes: list[psutil.Process], began: float) -> dict:
    """Wait for their end: {"left", "seconds"}."""
    _, alive = psutil.wait_procs(processes, timeout=WAIT)
    return {"left": len(alive), "seconds": round(time.monotonic() - began, 2)}


def outcome(root: Path, cause: str, settings: Settings) -> dict:
    """What is there of the newest run, and whether it goes on from there to its end."""
    summary = runs.history(root)[0]
    run = runs.find(root, summary.id)
    events = list(run.events())
    ends = [event for event in events if event["kind"] in ("done", "error")]
    path = run.folder / checkpoint.NAME
    kept = torch.load(path, weights_only=True)["step"] if path.is_file() else 0
    offered = runs.interrupted(root)
    found = {
        "closed": len(ends) == 1 and events[-1] is ends[0],
        "named": bool(ends) and (ends[0].get("result", {}).get("ended_by") == cause or cause in json.dumps(ends[0])),
        "kept": kept > 0,
        "lost_steps": steps_of(root) - kept,
        "offered": offered is not None and offered.id == summary.id,
    }
    [done] = [event for event in Workbench(root).resume(summary.id) if event["kind"] == "done"]
    return found | {"resumed": done["result"]["steps"] == settings.train.max_steps}


def command_signal(name: str) -> Callable[[Path, Settings], dict]:
    def inject(root: Path, settings: Settings) -> dict:
        process = forked(root, settings)
        random_moment(root)
        began = time.monotonic()
        process.send_signal(getattr(signal, name))
        ended = end_of([process], began)
        return outcome(root, name, settings) | ended

    return inject


def engine_signal(name: str) -> Callable[[Path, Settings], dict]:
    def inject(root: Path, settings: Settings) -> dict:
        engine = Engine(root)
        train = {"max_steps": MANY_STEPS, "save_every": 5 if name == "SIGKILL" else 0}
        chosen = settings.with_values({"train": train})
        job = engine.tune(chosen)
        random_moment(root)
        process, began = psutil.Process(engine.pid), time.monotonic()
        process.send_signal(getattr(signal, name))
        job.wait(WAIT)  # first: how a process ended can be asked once, here by the engine's connection
        ended = end_of([process], began)
        return outcome(root, name if name != "SIGKILL" else "engine_killed", chosen) | ended

    return inject


def page_signal(name: str) -> Callable[[Path, Settings], dict]:
    def inject(root: Path, settings: Settings) -> dict:
        from gradio_client import Client
        from served_app import ServedApp

        app = ServedApp(root.parent)
        app.wait_until_served()
        chosen = settings.with_values({"train": {"max_steps": MANY_STEPS}})
        Client(app.url, verbose=False).predict(chosen.to_dict(), api_name="/tune")
        random_moment(app.runs)
        processes = [psutil.Process(app.process.pid)]
        processes += processes[0].children(recursive=True)
        began = time.monotonic()
        app.process.send_signal(getattr(signal, name))
        app.process.wait(WAIT)
        ended = end_of(processes, began)
        return outcome(app.runs, name if name != "SIGKILL" else "parent", chosen) | ended

    return inject


def disk_fault(kind: str) -> Callable[[Path, Settings], dict]:
    """The folder of the runs becomes full, read-only or gone during the fine-tune, which ends by itself."""

    def inject(root: Path, settings: Settings) -> dict:
        switch = root.parent / "switch"

        def prepare() -> None:
            def refuse(path: object) -> None:
                if kind in DISKS and switch.exists() and str(path).startswith(str(root)):
                    raise OSError(DISKS[kind], os.strerror(DISKS[kind]), str(path))

            plain, save, whole = open, saved_adapter.save_lora, checkpoint.write_whole
            vars(event_log)["open"] = lambda path, mode: (refuse(path), plain(path, mode))[1]
            saved_adapter.save_lora = lambda model, folder: (refuse(folder), save(model, folder))[1]
            checkpoint.write_whole = lambda state, path: (refuse(path), whole(state, path))[1]

        process = forked(root, settings, prepare)
        random_moment(root)
        began = time.monotonic()
        if kind == "gone":
            shutil.rmtree(root)
        switch.touch()
        ended = end_of([process], began)
        switch.unlink()
        put_back = runs.put_back_spares(root)
        summary = runs.history(root)[0]
        return {
            "closed": summary.state == "done",
            "kept": summary.has_adapter,
            "put_back": put_back == [summary.id],
            "named": any(e.get("key") == "note.run_fault" for e in runs.find(root, summary.id).events()),
            **ended,
        }

    return inject


def second_writer(root: Path, settings: Settings) -> dict:
    """Another program resumes and deletes the run that is being written."""
    process = forked(root, settings)
    random_moment(root)
    run_id, refused = runs.history(root)[0].id, 0
    for act in (lambda: list(Workbench(root).resume(run_id)), lambda: runs.delete(root, run_id)):
        try:
            act()
        except PlaygroundError as error:
            values = error.problems[0].values
            refused += error.problems[0].key == "error.run_held" and values["pid"] == str(process.pid)
    began = time.monotonic()
    process.kill()
    ended = end_of([process], began)
    steps = [event["step"] for event in runs.find(root, run_id).events() if event["kind"] == "step"]
    once = len(steps) == len(set(steps))
    return {
        "refused": refused == 2,
        "once": once,
        "free_after_death": not runs.is_held(runs.find(root, run_id)),
        **ended,
    }


def suspended(root: Path, settings: Settings) -> dict:
    """The engine is stopped for three seconds, as a machine that sleeps stops it."""
    engine, settings = Engine(root), settings.with_values({"train": {"max_steps": MANY_STEPS}})
    job = engine.tune(settings)
    random_moment(root)
    process, began = psutil.Process(engine.pid), time.monotonic()
    process.suspend()
    time.sleep(3)
    process.resume()
    done = job.wait(WAIT) and not job.error and job.result["steps"] == settings.train.max_steps
    engine.close()
    times = [event["t"] for event in runs.find(root, job.run or "").events()]
    return {"finished": done, "in_order": times == sorted(times), **end_of([process], began)}


def clock_jump(root: Path, settings: Settings) -> dict:
    """The time of day is set by a day, back or forward, during the fine-tune."""
    switch, jump = root.parent / "switch", random.choice((-86400, 86400))

    def prepare() -> None:
        plain = time.time
        time.time = lambda: plain() + (jump if switch.exists() else 0)

    process = forked(root, settings, prepare)
    random_moment(root)
    began = time.monotonic()
    switch.touch()
    ended = end_of([process], began)
    summary = runs.history(root)[0]
    times = [event["t"] for event in runs.find(root, summary.id).events()]
    sane = times == sorted(times) and times[-1] < WAIT and 0 < summary.result["seconds"] < WAIT
    return {"finished": summary.state == "done", "in_order": sane, **ended}


FAULTS: dict[str, Callable[[Path, Settings], dict]] = {
    **{f"command {name}": command_signal(name) for name in SIGNALS},
    **{f"engine {name}": engine_signal(name) for name in (*SIGNALS, "SIGKILL")},
    **{f"page {name}": page_signal(name) for name in (*SIGNALS, "SIGKILL")},
    **{f"runs folder {kind}": disk_fault(kind) for kind in (*DISKS, "gone")},
    "second writer": second_writer,
    "engine suspended": suspended,
    "clock jump": clock_jump,
}


def toy_settings(folder: Path) -> Settings:
    """Quick settings for a toy model and 24 rows in `folder`."""
    rows = [{"instruction": f"What is {n}?", "output": f"The answer is {n}."} for n in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train = {"max_steps": STEPS, "batch_size": 4, "max_seq_length": 128, "sample_every": "off"}
    return Settings().with_values(
        {
            "load": {"model": str(toys.save(folder / "toy")), "bits": 32, "device": "cpu"},
            "data": {"source": str(folder / "rows.jsonl")},
            "train": {**train, "measure_forgetting": False, "eval_rows": 0},
        }
    )


def summed(rounds: list[dict]) -> dict:
    """Of the times that a fault was injected: how often each thing held, and the largest numbers."""
    result: dict = {"times": len(rounds), "failed": len([one for one in rounds if "failed" in one])}
    for name in dict.fromkeys(key for one in rounds for key in one if key not in ("arm", "round", "failed")):
        values = [one[name] for one in rounds if name in one]
        result[name] = sum(values) if isinstance(values[0], bool) else {"most": max(values)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="parts of faults' names")
    parser.add_argument("--out", type=Path, default=PROJECT / "tests" / "bench" / "results" / "faults.json")
    options = parser.parse_args()
    before = json.loads(options.out.read_text(encoding="utf-8"))["rounds"] if options.out.is_file() else []
    names = [name for name in FAULTS if not options.only or any(part in name for part in options.only)]
    rounds = [one for one in before if one["arm"] not in names]
    torch.set_num_threads(1)  # a forked process waits for ever for the threads that its parent had (GNU's OpenMP)
    with tempfile.TemporaryDirectory() as folder:
        settings = toy_settings(Path(folder))
        for name in names:
            for number in range(options.times):
                home = Path(tempfile.mkdtemp(dir=folder))
                found = attempt(lambda home=home, name=name: FAULTS[name](home / "runs", settings))
                rounds.append({"arm": name, "round": number + 1, **found})
                for left in psutil.Process().children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        left.kill()
            write_result(options.out, rounds)
            print(name, json.dumps(summed([one for one in rounds if one["arm"] == name])), flush=True)
    print(failures(rounds))


def write_result(path: Path, rounds: list[dict]) -> None:
    """Write what was found so far; of faults that weren't injected now, what stood there stays."""
    result = report("faults", ("torch", "transformers", "gradio", "filelock"), [], hardware=hardware("cpu"))
    names = dict.fromkeys(one["arm"] for one in rounds)
    result["faults"] = {name: summed([one for one in rounds if one["arm"] == name]) for name in names}
    del result["medians"]
    write(path, result | {"rounds": rounds})


if __name__ == "__main__":
    main()
