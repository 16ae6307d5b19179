"""The child's end of a connection over pipes (jsonl_process.py): read requests, answer them one after another."""

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TextIO

from playground.ending import ENDING, PARENT
from playground.errors import as_playground_error
from playground.json_values import to_line
from playground.jsonl_process import Message

IDLE_SECONDS = 2.0  # without a request

Emit = Callable[[dict], None]


class Server:
    """The child's end: reads requests from standard input and answers them one after another.

    To be made before slow imports: from then on the process ends with its parent, and what is printed goes to standard
    error. `cancelled` is set while the request that is being answered is to end early. on_end(cause): called when the
    process is asked to end, also by the end of its parent; without it, the process ends at once.
    """

    def __init__(self, on_end: Callable[[str], object] = lambda cause: os._exit(0)) -> None:
        self._on_end = on_end
        self.cancelled = threading.Event()
        self._output: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        self._writing = threading.Lock()
        self._requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the two following
        self._answering: int | None = None
        self._cancelled_ids: set[int] = set()
        threading.Thread(target=self._listen, daemon=True).start()

    def announce_ready(self, **facts: Any) -> None:
        self._write({"ready": facts})

    def serve(
        self, answer: Callable[[str, dict, Emit], Any], when_idle: Callable[[], object] | None = None
    ) -> NoReturn:
        """Answer requests for ever: `answer(do, arguments, emit)` returns the result; `emit(event)` sends an event.

        What it raises becomes the request's error, its traceback goes to the log. when_idle: called once after each
        request, where none has come for IDLE_SECONDS; the next one waits for its end.
        """
        idle: Callable[[], object] | None = None
        while True:
            request = self._next_request(idle)
            idle = when_idle
            request_id = request["id"]
            self._begin(request_id)
            try:
                end = {"result": answer(request["do"], request["arguments"], partial(self._emit, request_id))}
            except Exception as error:
                traceback.print_exc()
                end = {"error": as_playground_error(error).to_dict()}
            with self._lock:
                self._answering = None
            try:
                self._write({"id": request_id, **end})
            except (TypeError, ValueError, RecursionError) as error:  # a result that isn't JSON
                traceback.print_exc()
                self._write({"id": request_id, "error": as_playground_error(error).to_dict()})
            if ENDING.cause:
                os._exit(ENDING.status)

    def _next_request(self, idle: Callable[[], object] | None) -> Message:
        if idle:
            try:
                return self._requests.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                try:
                    idle()
                except Exception:
                    traceback.print_exc()
        return self._requests.get()

    def _emit(self, request_id: int, event: dict) -> None:
        self._write({"id": request_id, "event": event})

    def _begin(self, request_id: int) -> None:
        with self._lock:
            self._answering = request_id
            if request_id in self._cancelled_ids:  # while it waited for its turn
                self.cancelled.set()
            else:
                self.cancelled.clear()
            self._cancelled_ids = {cancelled for cancelled in self._cancelled_ids if cancelled > request_id}

    def _listen(self) -> None:
        for line in open(sys.stdin.fileno(), encoding="utf-8", closefd=False):
            try:
                message = json.loads(line)
                if "cancel" in message:
                    self._cancel(message["cancel"])
                elif "end" in message:
                    self._on_end(message["end"])
                else:
                    self._requests.put(message)
            except Exception:
                traceback.print_exc()
        self._on_end(PARENT)

    def _cancel(self, request_id: int) -> None:
        with self._lock:
            if request_id == self._answering:
                self.cancelled.set()
            else:
                self._cancelled_ids.add(request_id)

    def _write(self, message: Message) -> None:
        line = to_line(message)
        with self._writing, suppress(BrokenPipeError):  # the parent is gone: what is under way is still to be kept
            self._output.write(line)
