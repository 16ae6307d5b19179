"""The planner, seen from the page: helper processes that predict memory, so that one can plan while a run goes on.

They see no GPU, are started by the first question, and are replaced if they die. What was answered once is remembered.
"""

import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from playground.errors import PlaygroundError, problem
from playground.memory import meter

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "playground.planning.process")
CHANGING = ("count_rows", "xray", "cutoff_cost")  # what rows say isn't remembered here: their file may change
LANES = {
    "forecast": "quick",
    "largest_models": "survey",
    **dict.fromkeys(CHANGING, "data"),
}  # each has its own process, so that a slider needn't wait for a survey
REMEMBERED = 512  # answers
TRIES = 2  # a process that died between two questions is replaced; one that dies of a question isn't asked for ever


class Planner:
    """Asks one question of a kind after the other. Safe to use from several threads."""

    def __init__(self, root: Path, command: tuple[str, ...] = COMMAND):
        self._lanes = {name: WorkerLane(root, command) for name in ("quick", "slow", "survey", "data")}
        self._answers: OrderedDict[str, object] = OrderedDict()

    def ask(self, do: str, on_progress: Callable | None = None, **values):
        """What `do` of memory/planner.py, relief.py or preview.py says to these JSON values (settings as a dict).

        `tell(done, total, unit)` hears how far a long question is. Raises PlaygroundError: what is wrong with the values, that
        the process died of them, or, with no problem to tell of, that the question was stopped.
        """
        key = json.dumps([do, values], sort_keys=True)
        answer = self._answers.get(key)
        if answer is not None:  # what is remembered doesn't wait for a question under way
            return answer
        lane = self._lane(do)
        with lane.lock:
            answer = self._answers.get(key)
            if answer is None:
                answer = lane.ask(do, values, on_progress)
                if do not in CHANGING:
                    self._answers[key] = answer
                if len(self._answers) > REMEMBERED:
                    self._answers.popitem(last=False)
            return answer

    def stop(self, do: str) -> None:
        """Break off the question that is under way where `do` is asked, if one is; whoever waits for it hears so."""
        self._lane(do).stop()

    def _lane(self, do: str) -> "WorkerLane":
        return self._lanes[LANES.get(do, "slow")]

    def close(self) -> None:
        """End the processes; the next question starts another."""
        for lane in self._lanes.values():
            lane.close()


class WorkerLane:
    """One process, for whoever holds the `lock`."""

    def __init__(self, root: Path, command: tuple[str, ...]):
        self.root, self.lock, self.process = root, threading.Lock(), None
        self._command, self._count = command, 0
        self._asked = self._stopped = False

    def ask(self, do: str, values: dict, on_progress: Callable | None = None):
        self._count, self._stopped, self._asked = self._count + 1, False, True
        try:
            told = self._answer(do, values, on_progress)
        finally:
            self._asked = False
        if "error" in told:
            raise PlaygroundError.from_dict(told["error"])
        return told["result"]

    def stop(self) -> None:
        if self._asked:
            self._stopped = True
            self.close()

    def _answer(self, do: str, values: dict, on_progress: Callable | None) -> dict:
        request = json.dumps({"id": self._count, "do": do, "values": values}, ensure_ascii=False) + "\n"
        for _ in range(TRIES):
            process = self._living()
            for line in self._lines(process, request):
                told = json.loads(line)
                if "progress" not in told:
                    return told
                if on_progress:
                    self._pass_on(on_progress, told["progress"])
            code = process.wait()  # until it is gone, it would pass for living
            if self._stopped:
                raise PlaygroundError
        raise problem("error.planner_died", code=code)

    def _lines(self, process: subprocess.Popen, request: str) -> Iterator[str]:
        try:
            process.stdin.write(request)
            process.stdin.flush()
            while line := process.stdout.readline():
                yield line
        except OSError:
            return

    def _pass_on(self, on_progress: Callable, progress: list) -> None:
        try:
            on_progress(*progress)
        except BaseException:
            self.close()  # nobody waits for the rest, which the next question would take for its own answer
            raise

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _living(self) -> subprocess.Popen:
        if self.process is None or self.process.poll() is not None:
            self.root.mkdir(parents=True, exist_ok=True)
            with open(self.root / "engine.log", "a", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    self._command,
                    cwd=PROJECT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"},
                )
        return self.process


@cache
def this_machine() -> dict:
    """What a model would run on here: {"device": "cuda" or "cpu", "name", "bytes"}."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,memory.reserved", "--format=csv,noheader,nounits", "--id=0"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
        name, total, kept = (part.strip() for part in told.splitlines()[0].split(","))
        return {"device": "cuda", "name": name, "bytes": (int(total) - int(kept)) * 2**20}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):  # no NVIDIA card, or no driver for it
        here = meter.hardware("cpu")
        return {"device": "cpu", "name": here["name"], "bytes": here["capacity"]}
