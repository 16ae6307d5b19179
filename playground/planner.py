"""The planner, seen from the page: helper processes that predict memory, so that one can plan while a run goes on.

They see no GPU, are started by the first question, and are replaced if they die. What was answered once is remembered.
"""

import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from functools import cache
from pathlib import Path

from playground.errors import PlaygroundError, problem
from playground.memory import meter

PROJECT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "playground.planning")
LANES = {"forecast": "quick", "largest": "survey"}  # each has its own process, so that a slider needn't wait for a survey
REMEMBERED = 512  # answers
TRIES = 2  # a process that died between two questions is replaced; one that dies of a question isn't asked for ever


class Planner:
    """Asks one question of a kind after the other. Safe to use from several threads."""

    def __init__(self, root: Path, command: tuple[str, ...] = COMMAND):
        self._lanes = {name: Lane(root, command) for name in ("quick", "slow", "survey")}
        self._answers: OrderedDict[str, object] = OrderedDict()

    def ask(self, do: str, **values):
        """What `do` of memory/planner.py, or relief.py, says to these JSON values (settings as a dict).

        Raises PlaygroundError: what is wrong with the values, or that the process died of them.
        """
        key = json.dumps([do, values], sort_keys=True)
        answer = self._answers.get(key)
        if answer is not None:  # what is remembered doesn't wait for a question under way
            return answer
        lane = self._lanes[LANES.get(do, "slow")]
        with lane.lock:
            answer = self._answers.get(key)
            if answer is None:
                answer = self._answers[key] = lane.ask(do, values)
                if len(self._answers) > REMEMBERED:
                    self._answers.popitem(last=False)
            return answer

    def close(self) -> None:
        """End the processes; the next question starts another."""
        for lane in self._lanes.values():
            lane.close()


class Lane:
    """One process, for whoever holds the `lock`."""

    def __init__(self, root: Path, command: tuple[str, ...]):
        self.root, self.lock, self.process = root, threading.Lock(), None
        self._command, self._count = command, 0

    def ask(self, do: str, values: dict):
        self._count += 1
        request = json.dumps({"id": self._count, "do": do, "values": values}, ensure_ascii=False) + "\n"
        for _ in range(TRIES):
            process = self._living()
            try:
                process.stdin.write(request)
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:
                answer = ""
            if answer:
                break
            code = process.wait()  # until it is gone, it would pass for living
        else:
            raise problem("error.planner_died", code=code)
        told = json.loads(answer)
        if "error" in told:
            raise PlaygroundError.from_dict(told["error"])
        return told["result"]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _living(self) -> subprocess.Popen:
        if self.process is None or self.process.poll() is not None:
            self.root.mkdir(parents=True, exist_ok=True)
            with open(self.root / "engine.log", "a", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    self._command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                    env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"},
                )  # fmt: skip
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
