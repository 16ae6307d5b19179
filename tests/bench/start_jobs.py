"""Time the start of jobs: the command `tune` to its first step, and the page's engine until it is ready.

    python tests/bench/start_jobs.py                    # five rounds of six arms, about five minutes
    python tests/bench/start_jobs.py --only command command-plain --model FOLDER --out FILE    # on a GPU machine

Arms, each in a new process, interleaved over the rounds (every other round backwards):
  command, engine                    as they are
  command-plain, engine-plain        with libraries imported as they come: without compat.import_libraries
  uncompiled, uncompiled-plain       the command, with libraries that have no bytecode, in an environment that keeps
                                     Python from writing it (PYTHONDONTWRITEBYTECODE=1), as images of GPU machines have.
                                     Before the first round the former runs once, so that this program has kept it

seconds: from the start of the process to the first step's event, or to the engine's message that it is ready; cpu_s:
processor seconds of the process until then, user and system, which other programs on the machine disturb less; rss_gib:
its resident memory then.
The command is the default demo with 16 rows and one step. The model's file is in the page cache.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import arms
import psutil

ARMS = ("command", "command-plain", "engine", "engine-plain", "uncompiled", "uncompiled-plain")
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
LONGEST_SECONDS = 300
PLAIN = "from playground import compat; compat.import_libraries = lambda cache: None"
COMMAND = "from playground.__main__ import main; main(__import__('sys').argv[1:])"
ENGINE = "from playground.engine.process import main; main(__import__('sys').argv[1])"
FLAGS = "tune --max-steps 1 --end-row 16 --sample-every off".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--model", default="", help="another model than the demo's: a folder, or an id")
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/start_jobs.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    rounds: list[dict] = []
    model = ["--model", options.model] if options.model else []
    with tempfile.TemporaryDirectory() as folder:
        _copy_without_bytecode(Path(folder) / "uncompiled")
        _link_cache(Path(folder) / "cache")
        for arm in ("uncompiled", "command"):  # keeps the bytecode; converts the model and reads its file
            if arm in options.only:
                time_start(arm, Path(folder), model)
        for number in range(options.rounds):
            for arm in options.only[:: -1 if number % 2 else 1]:
                load = round(os.getloadavg()[0], 2)
                measured = arms.attempt(lambda arm=arm: time_start(arm, Path(folder), model))  # type: ignore[misc]
                rounds.append({"round": number + 1, "arm": arm, "load_average": load} | measured)
                print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    machine = hardware("cuda" if shutil.which("nvidia-smi") else "cpu")
    report = arms.report("seconds to the first step", LIBRARIES, rounds, hardware=machine)
    arms.write(options.out, report)
    columns = {"seconds": "{:.2f}", "cpu_s": "{:.2f}", "rss_gib": "{:.3f}"}
    print(arms.table(report["medians"], columns) + arms.failures(rounds))


def time_start(arm: str, folder: Path, model: list[str]) -> dict[str, Any]:
    """One start; `folder` has the libraries without bytecode and, afterwards, what is kept of it; model: a flag."""
    runs = Path(tempfile.mkdtemp(dir=folder))
    is_command = not arm.startswith("engine")
    code = "\n".join(([PLAIN] if arm.endswith("plain") else []) + [COMMAND if is_command else ENGINE])
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1", "PLAYGROUND_CALIBRATE": "0"}
    environment["PLAYGROUND_CACHE"] = str(folder / "cache")
    if arm.startswith("uncompiled"):
        environment |= {"PYTHONPATH": str(folder / "uncompiled"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *([*FLAGS, *model, "--runs"] if is_command else ()), str(runs)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=arms.PROJECT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait = _wait_for_step if is_command else _wait_for_engine
        wait(process, runs)
        seconds, started = time.perf_counter() - began, psutil.Process(process.pid)
        used, memory = started.cpu_times(), started.memory_info().rss
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(runs, ignore_errors=True)
    return {"seconds": round(seconds, 3), "cpu_s": round(used.user + used.system, 2), "rss_gib": arms.gib(memory)}


def _wait_for_step(process: subprocess.Popen, runs: Path) -> None:
    """Until a run has recorded a step, looked for fifty times a second. Raises RuntimeError where none comes."""
    until = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if any('"kind":"step"' in file.read_text("utf-8") for file in runs.glob("*-tune/events.jsonl")):
            return
        time.sleep(0.02)
    raise RuntimeError(f"no step: exit status {process.poll()}")


def _wait_for_engine(process: subprocess.Popen, runs: Path) -> None:
    """Until the engine says that it is ready. Raises RuntimeError where it says something else."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if '"ready"' not in line:
        raise RuntimeError(f"not ready: {line[:200]!r}")


def _copy_without_bytecode(folder: Path) -> None:
    """The libraries of this environment, as links to their files."""
    for packages in dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")):
        ignored = shutil.ignore_patterns("__pycache__", "*.pth")
        shutil.copytree(packages, folder, copy_function=os.symlink, ignore=ignored, dirs_exist_ok=True)


def _link_cache(folder: Path) -> None:
    """A cache with the models of this machine's, and no bytecode."""
    from playground.catalog import cache_folder

    folder.mkdir()
    for path in cache_folder().iterdir() if cache_folder().is_dir() else ():
        if path.name != "bytecode":
            (folder / path.name).symlink_to(path.resolve())


if __name__ == "__main__":
    main()
