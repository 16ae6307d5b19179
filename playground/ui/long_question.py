"""Ask the planner a long question while its progress is shown."""

import threading
from collections.abc import Generator, Sequence
from typing import Any

from playground.errors import PlaygroundError
from playground.planning.client import Planner

POLL_SECONDS = 0.3  # between two progress updates


def ask_with_progress(
    planner: Planner, question: str, values: dict[str, Any]
) -> Generator[Sequence | None, None, dict[str, Any]]:
    """The planner's answer; meanwhile yield its latest progress (done, total, unit), or None before the first.

    planner: of the visitor who asks, who may stop the question. Raises what the planner raises. Closing the iterator
    ends the question.
    """
    progress: list[Sequence] = []
    answer: dict[str, Any] = {}
    closed = threading.Event()

    def on_progress(*step: Any) -> None:
        if closed.is_set():
            raise PlaygroundError
        progress.append(step)

    def ask() -> None:
        try:
            answer["result"] = planner.ask(question, on_progress, **values)
        except BaseException as error:
            answer["error"] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if thread.is_alive():
                yield progress[-1] if progress else None
    finally:
        closed.set()
    if "error" in answer:
        raise answer["error"]
    return answer["result"]
