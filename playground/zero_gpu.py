"""The engine on a ZeroGPU Space of Hugging Face, where a GPU is there only during one decorated call.

https://huggingface.co/docs/hub/spaces-zerogpu: the package `spaces`, which is installed there, runs such a call in a
process that it forks from the page's. So each job is one call: it loads its model itself, writes its run and its
adapter to the runs' folder as ever, and leaves nothing loaded. The libraries are imported before, in the page's
process, so that the paid seconds don't go into imports.
"""

import contextvars
import logging
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playground.catalog.cards import is_zero_gpu
from playground.ending import PARENT
from playground.engine.client import STOP_SECONDS, Engine
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.jsonl_process import Message, OnMessage
from playground.planning.client import Planner
from playground.settings.limits import Limits
from playground.worker import Worker

START_SECONDS = 30  # for moving to the GPU and loading a model
SHORT_SECONDS = 60  # asked for where nothing is predicted; what ZeroGPU gives by default
LONG_SECONDS = 120  # for a fine-tune whose speed isn't known
MARGIN = 1.5  # between the predicted seconds and those that are asked for: a longer job is ended by force
SLICE = 60 / 132  # multiprocessors that a call gets, of an H200's (the package's own figure for its default size)
SAVE_SECONDS = 15  # before the end of the asked time at which a job is asked to stop, so that it keeps what it learned

logger = logging.getLogger(__name__)


def make_engine(
    root: Path, planner: Planner, environment: dict[str, str] | None = None, folder: Path | None = None
) -> Engine:
    """The engine of a page: on a ZeroGPU Space this one, elsewhere a process. planner: predicts seconds of GPU.

    The other arguments are those of Engine.
    """
    if is_zero_gpu():
        return ZeroGpuEngine(root, planner, environment, folder)
    return Engine(root, environment=environment, folder=folder)


class ZeroGpuEngine(Engine):
    """An engine whose jobs are calls of a ZeroGPU Space's GPU. Arguments as of make_engine."""

    def __init__(
        self, root: Path, planner: Planner, environment: dict[str, str] | None = None, folder: Path | None = None
    ) -> None:
        super().__init__(root, environment=environment, folder=folder)
        self._planner = planner

    def unload(self) -> bool:
        """Stop the job under way; its model goes with its call."""
        job = self.job
        self.stop()
        return job is None or job.wait(STOP_SECONDS)

    def _start_worker(self) -> Worker:
        connection: Any = GpuCalls(self.root, self._planner, self._environment, self._folder)
        return GpuWorker(connection)


class GpuWorker(Worker):
    """The calls as the engine's client sees them: `exit_error` gets a text, not an exit code."""

    def exit_error(self, code: Any) -> PlaygroundError:
        """Why a call ended without an answer, in the words of the package `spaces`."""
        if self.connection.closing:
            return problem("error.engine_closed")
        return problem("error.zero_gpu", detail=str(code)[:300])


class GpuCalls:
    """What jsonl_process.Connection is for a process, for calls of a GPU: `send`, `cancel` and an end.

    root: the folder of the runs. environment: variables of the calls' process besides those of this one; folder: its
    working directory, by default this process's.
    """

    def __init__(self, root: Path, planner: Planner, environment: dict[str, str], folder: Path | None) -> None:
        import spaces

        self.ready: dict | None = None
        self.closing = False
        self.last_log_line = ""
        self.pid = os.getpid()
        self._root, self._environment, self._working_folder = root.resolve(), environment, folder
        self._planner = planner
        self._call = spaces.GPU(duration=lambda *arguments: arguments[-1])(gpu_job)
        self._stops: dict[int, Path] = {}  # the files that ask each job under way to stop
        self._ended = threading.Condition()
        self._last_id = 0
        self._folder = tempfile.TemporaryDirectory(prefix="zero-gpu-")
        self._importing = threading.Thread(target=self._import_libraries, daemon=True)
        self._importing.start()

    @property
    def alive(self) -> bool:
        """Always: a call that fails takes nothing along."""
        return True

    def send(self, do: str, arguments: dict, on_message: OnMessage) -> int:
        """Begin a job; returns its id. Messages as of Connection.send; {"exit": text} where there was no GPU.

        The visitor who asks is the one whose request is handled now: their share of GPU time is used.
        """
        with self._ended:
            self._last_id += 1
            number = self._last_id
            self._stops[number] = stop = Path(self._folder.name) / str(number)
        place = self._environment, str(self._working_folder or Path.cwd())
        given = (do, arguments, str(self._root), str(stop), *place)
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run, number, given, on_message), daemon=True).start()
        return number

    def cancel(self, request_id: int) -> None:
        """Ask a job to end early; its end still comes as a message."""
        with self._ended:
            if request_id in self._stops:
                self._stops[request_id].touch()

    def ask_to_end(self, cause: str = PARENT) -> None:
        """Ask the job under way to end early."""
        for number in list(self._stops):
            self.cancel(number)

    def close(self, grace: float = 0.0, cause: str = PARENT) -> None:
        """End: the job under way is asked to, and gets `grace` seconds."""
        self.closing = True
        self.ask_to_end(cause)
        with self._ended:
            self._ended.wait_for(lambda: not self._stops, grace)

    def _import_libraries(self) -> None:
        import playground.engine.workbench  # noqa: F401, what jobs need, before their process is forked

        self.ready = {"cuda": True, "pid": self.pid}

    def _run(self, number: int, given: tuple, on_message: OnMessage) -> None:
        last: Message = {"exit": "no answer"}
        self._importing.join()  # a process that is forked meanwhile would have half of the libraries
        try:
            do, arguments, root, *_ = given
            for message in self._call(*given, asked_seconds(do, arguments, root, self._planner)):
                if "event" in message:
                    on_message(message)
                else:
                    last = message
        except Exception as error:  # `spaces` raises gradio.Error with a sentence: no GPU, no time left, aborted
            logger.warning("a GPU call ended: %s", error)
            last = {"exit": str(error) or type(error).__name__}
        with self._ended:
            self._stops.pop(number).unlink(missing_ok=True)
            self._ended.notify_all()
        on_message({"event": {"kind": "unloaded"}})
        on_message(last)


class StopFile:
    """What a job asks whether it is to stop, as threading.Event: once a file is there, or its time is nearly over."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._until = path, time.monotonic() + seconds

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._path.exists() or time.monotonic() > self._until

    def set(self) -> None:
        """Ask to stop."""
        self._path.touch()

    def clear(self) -> None:
        """Nothing: the file is of this job alone."""


def gpu_job(
    do: str, arguments: dict, root: str, stop: str, environment: dict[str, str], folder: str, seconds: int
) -> Iterator[Message]:
    """One job, in the process that has the GPU: its messages, the last of which has "result" or "error".

    do, arguments: as of engine/process.py. root: the folder of the runs. stop: the file that asks it to stop.
    environment, folder: as of GpuCalls. seconds: that the GPU is there.
    """
    enter(environment, folder)
    from playground.engine.process import start_job
    from playground.engine.workbench import Workbench
    from playground.memory import meter

    stopping: Any = StopFile(Path(stop), seconds - SAVE_SECONDS)
    workbench = Workbench(Path(arguments.get("root", root)), stopping)
    try:
        for event in start_job(workbench, do, without_compiling(arguments)):
            yield {"event": event}
        yield {"result": meter.read_memory()}
    except Exception as error:
        traceback.print_exc()
        yield {"error": as_playground_error(error).to_dict()}
    finally:
        workbench.free()


def enter(environment: dict[str, str], folder: str) -> None:
    """Take on variables and a working directory, as a process that is started with them.

    The hub's library has read its own variables by then: of those that name a token, it gets the values too.
    """
    from huggingface_hub import constants

    os.environ |= environment
    os.chdir(folder)
    constants.HF_TOKEN_PATH = environment.get("HF_TOKEN_PATH", constants.HF_TOKEN_PATH)
    if environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN") == "1":
        constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True


def without_compiling(arguments: dict) -> dict:
    """A job's arguments with torch.compile off, which ZeroGPU doesn't offer."""
    settings = arguments.get("settings")
    if not isinstance(settings, dict):
        return arguments
    return arguments | {"settings": settings | {"train": settings.get("train", {}) | {"compile": "off"}}}


def asked_seconds(do: str, arguments: dict, root: str, planner: Planner) -> int:
    """The seconds of GPU that a job asks for; it is ended by force after them. Arguments as of gpu_job.

    A fine-tune asks for its predicted seconds and a margin. PLAYGROUND_MAX_SECONDS bounds all jobs.
    """
    seconds = float({"tune": LONG_SECONDS, "resume": LONG_SECONDS, "lab": LONG_SECONDS}.get(do, SHORT_SECONDS))
    if do == "tune":
        predicted = predicted_seconds(arguments["settings"], arguments.get("root", root), planner)
        seconds = START_SECONDS + MARGIN * predicted / SLICE if predicted else seconds
    return int(min(max(seconds, SHORT_SECONDS), Limits.from_environment().seconds))


def predicted_seconds(settings: dict, root: str, planner: Planner) -> float | None:
    """Seconds of a fine-tune on a whole GPU of ZeroGPU's kind; None where nothing tells."""
    try:
        return planner.ask("tune_summary", settings=settings, root=root)["seconds"]
    except PlaygroundError as error:  # whatever is wrong with the settings is the job's to say
        logger.info("no prediction for a GPU call: %s", error)
        return None
