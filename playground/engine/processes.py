"""Fine-tune with several processes: accelerate starts them, rank 0's events are followed, and none is left behind.

Each process is a member.py. Where one dies, accelerate ends the others and its report says which one it was.
"""

import contextlib
import json
import queue
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from signal import Signals

import psutil

from playground import ASSETS, runs
from playground.ending import ENDING, PARENT
from playground.engine.member import FAILED
from playground.errors import PlaygroundError, Problem, problem
from playground.jsonl_process import Connection, Message
from playground.model import adapt
from playground.model.load import resolve_device
from playground.settings import Settings
from playground.train.parallel import Team, usable_processes

LOG = "processes.log"  # what they print, in the folder of the runs
POLL_SECONDS = 0.1
STOP_SECONDS = 2.0  # to stop in order; then the run is closed with what the last checkpoint has, in 2.5 s
REPORT_SECONDS = 8.0  # between a member's death and accelerate's report of it
# for the others to end once one has died. One that waits for it on its GPU takes in no signal; the launcher waits 30 s
DEATH_SECONDS = 8.0
LEAVE_SECONDS = 5.0  # for members to leave, once rank 0 has given its result
END_SECONDS = 20.0  # beyond which members are killed that were asked to stop or to end; a checkpoint is kept before
CLOSING = re.compile(r"Sending process \d+ closing signal")  # torch's launcher says so once a member has died
RANK, EXIT_CODE = re.compile(r"^rank\s*: (\d+) "), re.compile(r"^exitcode\s*: (-?\d+) ")  # in accelerate's report


def check(settings: Settings) -> None:
    """Raise PlaygroundError where this machine hasn't enough GPUs, or the settings can't be trained with so.

    settings: with the bits that are loaded.
    """
    device, processes = resolve_device(settings.load), settings.train.num_processes
    if device == "cpu" and processes > usable_processes(device):
        raise problem("error.cpu_processes", processes=processes)
    Team.planned(settings, device).check(settings)
    if settings.train.method != "full":
        adapt.check_lora(settings.lora, settings.load, device)


def fine_tune(root: Path, settings: Settings, stop: threading.Event, resume: str | None = None) -> Iterator[dict]:
    """The events of a fine-tune that several processes do; the last one is `done`.

    resume: the id of the run to continue. Raises PlaygroundError as a fine-tune in this process, and where a process
    has died. By then all have ended.
    """
    order = {"root": str(root.resolve()), "settings": settings.to_dict(), "resume": resume}
    with tempfile.TemporaryDirectory(prefix="playground-") as folder:
        path = Path(folder) / "order.json"
        path.write_text(json.dumps(order), encoding="utf-8")
        members = _Members(root, settings, path)
        with ENDING.work(members.ask_to_end, lambda cause: members.kill(), END_SECONDS, members.kill):
            try:
                yield from members.follow(stop)
            finally:
                members.kill()


class _Members:
    """The processes of one fine-tune, children of accelerate's launcher. run: the id of their run, once it is open."""

    def __init__(self, root: Path, settings: Settings, order: Path) -> None:
        self.root, self.count = root, settings.train.num_processes
        self.run: str | None = None
        self._failures: dict[int, PlaygroundError] = {}  # by rank, of those that said why they failed
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._seen: dict[int, psutil.Process] = {}
        self._terminated = False
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(self.count)]
        launch += ["--config_file", str(ASSETS / "accelerate" / f"{settings.train.parallel}.yaml")]
        launch += ["--main_process_port", "0", "-m", "playground.engine.member", str(order)]
        self._connection = Connection(launch, root / LOG)
        self._launcher = psutil.Process(self._connection.pid)
        self._request = self._connection.send("tune", {}, self._messages.put)

    def follow(self, stop: threading.Event) -> Iterator[dict]:
        """Rank 0's events, until all processes have ended."""
        done, error, is_loaded = None, None, False
        for message in self._messages_until_end(stop):
            event = message.get("event", {})
            if event.get("kind") == FAILED:
                self._failures[event["rank"]] = PlaygroundError.from_dict(event)
            elif event.get("kind") == "done":
                done = event
            elif event:
                self.run = event["run"] if event["kind"] == "opened" else self.run
                is_loaded = event["kind"] != "unloaded" and (is_loaded or event["kind"] == "loaded")
                yield event
            elif "error" in message:
                error = PlaygroundError.from_dict(message["error"])
        if is_loaded:
            yield {"kind": "unloaded"}
        yield done or self._recorded_end(stop, error)

    def ask_to_end(self, cause: str) -> None:
        """Ask rank 0 to end once it has kept what was learned; the others follow."""
        self._connection.ask_to_end(PARENT)

    def kill(self) -> None:
        """End what is left of the processes."""
        self._look()
        with contextlib.suppress(psutil.Error):
            self._launcher.kill()
        for process in self._seen.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._connection.close(0)

    def _messages_until_end(self, stop: threading.Event) -> Iterator[Message]:
        """What the processes say, until they have ended or had their time to; then all are killed."""
        asked_at, died_at, until, message = 0.0, 0.0, float("inf"), Message()
        while "exit" not in message and time.monotonic() < until:
            try:
                message = self._messages.get(timeout=POLL_SECONDS)
                yield message
            except queue.Empty:
                message = {}
            self._look()
            if "error" in message or "result" in message:
                until = time.monotonic() + self._seconds_to_leave(message)
            if not asked_at and (stop.is_set() or ENDING.cause):
                asked_at = time.monotonic()
                self._connection.cancel(self._request)
                until = min(until, asked_at + END_SECONDS)
            if asked_at and time.monotonic() > asked_at + STOP_SECONDS and not ENDING.cause:
                self._terminate()
            if not asked_at and not died_at and any(map(CLOSING.search, self._connection.last_log_lines)):
                died_at = time.monotonic()
            if died_at and time.monotonic() > died_at + DEATH_SECONDS:
                self._kill_members()
            has_ended = self._terminated and not self._rank_0_lives()
            if has_ended or not self._connection.alive:
                until = min(until, time.monotonic() + POLL_SECONDS)
        self.kill()

    def _kill_members(self) -> None:
        """Kill the launcher's own children, of which it then reports the one that died first."""
        with contextlib.suppress(psutil.Error):
            for member in self._launcher.children():
                member.kill()

    def _seconds_to_leave(self, message: Message) -> float:
        """How long the processes are waited for after rank 0's last message."""
        if "error" in message:
            is_lost = message["error"]["problems"][0]["key"] == "error.rank_died"
            return REPORT_SECONDS if is_lost else 0.0
        self._connection.close_input()
        return LEAVE_SECONDS

    def _look(self) -> None:
        """Remember the launcher's children, who would outlive it."""
        with contextlib.suppress(psutil.Error):
            self._seen |= {child.pid: child for child in self._launcher.children(recursive=True)}

    def _rank_0_lives(self) -> bool:
        """Whether rank 0 still has something to keep; before it is ready it has nothing."""
        try:
            ready = self._connection.ready
            return ready is not None and psutil.Process(ready["pid"]).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _terminate(self) -> None:
        """Have the launcher end its processes by SIGTERM, once: a second one would cut off what rank 0 keeps."""
        if not self._terminated:
            self._terminated = True
            with contextlib.suppress(psutil.Error):
                self._launcher.terminate()

    def _recorded_end(self, stop: threading.Event, error: PlaygroundError | None) -> dict:
        """The `done` event of a job that was stopped, from its run's record. Raises PlaygroundError for any other."""
        if stop.is_set() or ENDING.cause:
            if self.run is None:
                return {"kind": "done", "job": "tune", "result": {"run": None, "stopped": True, "peak": {}}}
            *_, last = runs.find(self.root, self.run).events(at_a_glance=True)
            if last["kind"] == "done":
                return last
        if error is None or error.problems[0].key == "error.rank_died":
            error = self._death()
            self._record(error)
        raise error

    def _death(self) -> PlaygroundError:
        """Which process died, and of what, as accelerate reports it, with what that process said itself."""
        lines = self._connection.last_log_lines
        ranks, codes = ([m[1] for line in lines if (m := part.match(line))] for part in (RANK, EXIT_CODE))
        if not ranks or not codes:
            detail = (self._connection.last_log_line or "–")[:200]
            return problem("error.launcher_died", processes=self.count, code=self._connection.wait(), detail=detail)
        rank, code = int(ranks[-1]), int(codes[-1])  # the first failure is reported last
        died = Problem("error.process_code", {"rank": rank, "processes": self.count, "code": code})
        if -code in {number.value for number in Signals}:
            signal = Signals(-code).name
            died = Problem("error.process_signal", {"rank": rank, "processes": self.count, "signal": signal})
        said = self._failures.get(rank)
        return PlaygroundError(died, *(said.problems if said else ()))

    def _record(self, error: PlaygroundError) -> None:
        """Write the error into the run, where rank 0 could say at most that another process is gone."""
        if self.run is None:
            return
        run = runs.find(self.root, self.run)
        with contextlib.suppress(OSError, PlaygroundError), runs.locked(run):
            run.append("phase", name="idle")
            run.append("error", job="tune", **error.to_dict())
