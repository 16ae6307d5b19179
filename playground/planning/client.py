"""The planner seen from the page: worker processes that predict memory, so that one can plan while a run goes on.

They see no GPU, start with the first question, and are replaced when they die. Answers are remembered, and those that
the Plan tab opens with are remembered from the start: planning/build_answers.py has written them down.
"""

import json
import math
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import psutil

from playground import ASSETS, catalog
from playground.errors import PlaygroundError, problem
from playground.jsonl_process import Connection, Message
from playground.memory.this_machine import hide_gpus
from playground.memory.this_machine import this_machine as this_machine  # the page asks it of this client as well
from playground.memory.this_machine import usable_processes as usable_processes
from playground.settings.limits import current_limits

COMMAND = (sys.executable, "-m", "playground.planning.process")
PREVIEW_COMMAND = (sys.executable, "-m", "playground.planning.preview")
OF_ROWS = ("count_rows", "xray", "cutoff_cost", "tune_summary", "repeat_files")
# Not remembered: the files may change or go.
OF_FILES = (
    *(*OF_ROWS, "load_times", "preview", "describe_adapter"),
    *("adapter_spectrum", "write_tune_snapshot", "weight_picture"),
)
# Of a model's folder, what answers that are remembered depend on; "": the folder, or the file, itself.
MODEL_FILES = ("", "config.json", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
OF_SPEEDS = ("forecast", "fastest_settings")  # whose answers have seconds, once speeds of this machine were measured
SPEEDS = "rates"  # the folder of speed/rates.py within the cache's
WORKERS = {
    "forecast": "forecast",
    "card_verdicts": "forecast",
    "bar": "forecast",  # each is answered soon, and shares what the process remembers of a model with the forecast
    **dict.fromkeys(("job_tape", "load_times"), "forecast"),
    "write_tune_snapshot": "forecast",
    **dict.fromkeys(("largest_models", "largest_for_setups"), "largest_models"),
    **dict.fromkeys(OF_ROWS, "rows"),
    "preview": "preview",
}
OTHER_WORKER = "other"  # of questions that WORKERS doesn't name: each worker is a process, so a slider never waits long
MAX_BYTES = 6 * 2**30  # of memory that a process may take for its questions
MAX_PREVIEW_BYTES = 2**30
MAX_SILENT_SECONDS = 240.0  # without an answer or progress: a forecast takes seconds, on a busy machine some more
MAX_PREVIEW_SECONDS = 60.0  # of a preview: it takes a second, or as long as a hub does
WATCH_SECONDS = 0.05  # between two looks at a process that answers
MAX_ANSWERS = 512  # that are remembered; the oldest is forgotten first
STORED_ANSWERS = ASSETS / "catalog" / "answers.json"
ATTEMPTS = 2  # a process that died between two questions is replaced; a question that kills it isn't repeated for ever

OnProgress = Callable[[float, float, str], Any]


def read_stored_answers() -> list[dict[str, Any]]:
    """What the Plan tab opens with: [{"id" (the question), "arguments", "answer"}]."""
    entries: list[dict[str, Any]] = json.loads(STORED_ANSWERS.read_text(encoding="utf-8"))
    return entries


class Planner:
    """Asks questions of the planning process and remembers the answers. Safe to use from several threads."""

    def __init__(
        self,
        root: Path,
        command: tuple[str, ...] = COMMAND,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
        most_seconds: float = math.inf,  # of any question
    ) -> None:
        log, names = root / "engine.log", {*WORKERS.values(), OTHER_WORKER} - {"preview"}
        limits, of_previews = (MAX_BYTES, most_seconds), (MAX_PREVIEW_BYTES, min(MAX_PREVIEW_SECONDS, most_seconds))
        self._workers = {name: Worker(log, command, *limits, environment, folder) for name in names}
        self._workers["preview"] = Worker(log, PREVIEW_COMMAND, *of_previews, environment, folder)
        self._answers: OrderedDict[str, Any] = OrderedDict()
        self._stored = {_key(entry["id"], entry["arguments"]): entry["answer"] for entry in read_stored_answers()}

    def ask(self, do: str, on_progress: OnProgress | None = None, asker: object = None, **arguments: Any) -> Any:
        """The result of a function of the planning process with these JSON arguments (settings as a dict).

        `on_progress(done, total, unit)` is called while a long question is answered; what it raises ends the question.
        asker: who asks, so that others' questions wait for one of theirs at most; None for nobody in particular.
        Raises PlaygroundError: for wrong arguments, for a question that killed the process or went beyond its limits of
        memory and time and, without any problem to show, for one that was stopped.
        """
        key, worker = _key(do, arguments), self._worker(do)
        if key in self._stored:
            self._warm_up(worker, do, arguments)
            return self._stored[key]
        key += repr(_state(do, arguments))
        answer = self._answers.get(key)
        if answer is not None:  # a remembered answer doesn't wait for a question under way
            return answer
        with worker.turn(asker), worker.lock:
            answer = self._answers.get(key)
            if answer is None:
                worker.asker = asker
                answer = worker.ask(do, arguments, on_progress)
                if do not in OF_FILES:
                    self._answers[key] = answer
                if len(self._answers) > MAX_ANSWERS:
                    self._answers.popitem(last=False)
            return answer

    def stored_answer(self, do: str, **arguments: Any) -> Any:
        """The answer that is known without asking, or None."""
        return self._stored.get(_key(do, arguments))

    def stop(self, do: str, asker: object = None) -> None:
        """Stop the question under way in the process that answers `do`, if it is this asker's, who gets an error."""
        worker = self._worker(do)
        if worker.asker == asker:
            worker.stop()

    def close(self) -> None:
        """End the processes; the next question starts a new one."""
        for worker in self._workers.values():
            worker.close()

    def pid(self, do: str) -> int | None:
        """Id of the process that answers `do`; None before its first question."""
        connection = self._worker(do).connection
        return connection.pid if connection else None

    def _warm_up(self, worker: "Worker", do: str, arguments: dict) -> None:
        """Have the forecasts' process compute a stored answer too, so that the next forecast, a slider's, is quick."""

        def ask() -> None:
            with worker.lock, suppress(PlaygroundError):
                if worker.connection is None:
                    worker.ask(do, arguments, None)

        if do == "forecast" and worker.connection is None:
            threading.Thread(target=ask, daemon=True).start()

    def _worker(self, do: str) -> "Worker":
        return self._workers[WORKERS.get(do, OTHER_WORKER)]


class Worker:
    """One planning process and the question that it answers. `ask` is for the thread that has the `lock`.

    most_bytes, most_seconds: of memory that the process may take, and of time for a question; it is ended beyond that.
    environment, folder: its variables besides this process's, and its working folder.
    """

    def __init__(
        self,
        log: Path,
        command: tuple[str, ...],
        most_bytes: int = MAX_BYTES,
        most_seconds: float = math.inf,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.lock, self._most_seconds = threading.Lock(), most_seconds
        self.connection: Connection | None = None
        self.asker: object = None  # who asks the question under way
        self._log, self._command, self._most_bytes, self._folder = log, command, most_bytes, folder
        self._environment = {**hide_gpus(), "TOKENIZERS_PARALLELISM": "false", **(environment or {})}
        self._asking = self._stopped = False
        self._turns: WeakKeyDictionary[object, threading.Lock] = WeakKeyDictionary()

    def turn(self, asker: object) -> AbstractContextManager:
        """What lets only one question of an asker wait for the process: the next one's waits for that."""
        return nullcontext() if asker is None else self._turns.setdefault(asker, threading.Lock())

    def ask(self, do: str, arguments: dict, on_progress: OnProgress | None) -> Any:
        """The result of one question; see Planner.ask."""
        self._stopped, self._asking = False, True
        try:
            for _ in range(ATTEMPTS):
                last = self._ask_once(do, arguments, on_progress)
                if "result" in last:
                    return last["result"]
                if "error" in last:
                    raise PlaygroundError.from_dict(last["error"])
                if self._stopped:
                    raise PlaygroundError
            raise problem("error.planner_died", code=last["exit"])
        finally:
            self._asking = False

    def stop(self) -> None:
        """Stop the question under way, if there is one."""
        if self._asking:
            self._stopped = True
            self.close()

    def close(self) -> None:
        """End the process."""
        if self.connection:
            self.connection.close(grace=0)

    def _ask_once(self, do: str, arguments: dict, on_progress: OnProgress | None) -> Message:
        """The last message about one question: its result, its error, or the exit of the process."""
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        connection = self._live_connection()
        connection.send(do, arguments, messages.put)
        if self._stopped:  # before there was a process that could be ended
            self.close()
        began = last_news = time.monotonic()
        while True:
            message: Message | None = None
            with suppress(queue.Empty):
                message = messages.get(timeout=WATCH_SECONDS)
            if message is not None and "event" not in message:
                return message
            if exceeded := self._exceeded(connection, began, last_news):
                self.close()
                return {"error": exceeded.to_dict()}
            if message is None:
                continue
            last_news = time.monotonic()
            if on_progress:
                try:
                    on_progress(*(message["event"][name] for name in ("done", "total", "unit")))
                except BaseException:
                    self.close()  # nobody waits for the rest, and the next question shouldn't
                    raise

    def _exceeded(self, connection: Connection, began: float, last_news: float) -> PlaygroundError | None:
        """The error of a question that takes more memory or time than it may, or None."""
        now = time.monotonic()
        if now - last_news > MAX_SILENT_SECONDS or now - began > self._most_seconds:
            return problem("error.planner_slow", seconds=round(now - began))
        with suppress(psutil.Error):
            taken = psutil.Process(connection.pid).memory_info().rss
            if taken > self._most_bytes:
                return problem("error.planner_memory", size_bytes=taken, most_bytes=self._most_bytes)
        return None

    def _live_connection(self) -> Connection:
        if not self.connection or not self.connection.alive or self.connection.closing:
            self.connection = Connection(self._command, self._log, self._environment, self._folder)
        return self.connection


def plan_questions(settings: dict, context: int, capacity: int, device: str) -> dict[str, dict[str, Any]]:
    """What the Plan tab asks of the planning process, as {function: arguments}.

    settings: as a dict. context: tokens of a chat. capacity: bytes of the chosen memory. device: "cuda" or "cpu".
    """
    train = settings["train"]
    alone = settings | {"train": train | {"num_processes": 1, "parallel": "ddp"}}  # what a saving saves on one GPU
    return {
        "forecast": {"settings": settings, "context": context, "capacity": capacity, "device": device},
        "waterfall": {"settings": alone, "device": device},
        "fastest_settings": {"settings": settings, "capacity": capacity},
        "largest_models": {
            "context": context,
            "length": train["max_seq_length"],
            "gpus": train["num_processes"],
        },
        "largest_for_setups": {"length": train["max_seq_length"]},
    }


def _key(do: str, arguments: dict) -> str:
    """A question as a key of remembered answers."""
    return json.dumps([do, arguments], sort_keys=True)


def _state(do: str, arguments: dict) -> list[tuple[int, ...]]:
    """What an answer rests on besides the arguments: the files of a model on this machine, and measured speeds."""
    found = [_stat(catalog.cache_folder() / SPEEDS)] if do in OF_SPEEDS else []
    with suppress(KeyError, TypeError, RuntimeError):  # no settings, wrong ones, "~" of nobody: the process says so
        if not current_limits():  # a shared page looks at no path that a visitor names
            model = Path(arguments["settings"]["load"]["model"]).expanduser()
            found += [_stat(model / name) for name in MODEL_FILES]
    return found


def _stat(path: Path) -> tuple[int, ...]:
    with suppress(OSError, ValueError):
        stat = path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns
    return ()
