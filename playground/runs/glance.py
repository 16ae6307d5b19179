"""Read of a run's events what its summary is made of, and pass over the rest unparsed.

Memory is recorded ten times a second, so a summary needs about five of some thousand lines. They are found by the names
of their kinds: to search for bytes takes a tenth of the time of looking at each line.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from playground.runs.store import Run, parse_event
from playground.runs.summary import dict_of, number
from playground.runs.upgrade import SCHEMA

MAX_BYTES = 64_000_000  # of a file that is read at once
MEMORY = b'"memory_'  # begins the names of the kinds memory_predicted and memory_measured
LATE = re.compile(rb'"kind"\s*:\s*"(step|done|error)"')  # a text in a line has its quotes escaped
TAIL = 8_000  # bytes, in which most runs have their end and their last step


def telling_events(folder: str) -> Iterator[dict]:
    """The events of a run that `summarize` needs, oldest first: it makes the same of them as of all. Raises OSError."""
    block = _whole_lines(os.path.join(folder, "events.jsonl"))
    first = parse_event(block[: block.find(b"\n")]) if block else None
    if not first or first["kind"] != "run_started" or first.get("schema") != SCHEMA:
        yield from Run(Path(folder)).events(at_a_glance=True)  # of an earlier version, edited by hand, or very long
        return
    found = _memory_events(block)
    found |= _late_events(block, first, max(0, len(block) - TAIL)) or _late_events(block, first, 0)
    yield first
    yield from (found[start] for start in sorted(found))


def _whole_lines(path: str) -> bytes:
    """A file's lines without one that is torn at its end; nothing of a file that is missing or too large."""
    try:
        with open(path, "rb", buffering=0) as file:
            block = file.read(size) if (size := os.fstat(file.fileno()).st_size) <= MAX_BYTES else b""
    except FileNotFoundError:
        return b""
    return block if block.endswith(b"\n") else block[: block.rfind(b"\n") + 1]


def _memory_events(block: bytes) -> dict[int, dict]:
    """The events after the first that may be about predicted or measured memory, by where their lines start."""
    found, at = {}, block.find(MEMORY, block.find(b"\n"))
    while at >= 0:
        start, end = block.rfind(b"\n", 0, at) + 1, block.find(b"\n", at)
        if event := parse_event(block[start:end]):
            found[start] = event
        at = block.find(MEMORY, end)
    return found


def _late_events(block: bytes, first: dict, begin: int) -> dict[int, dict]:
    """The last `done` of the run's own job, its errors since, and the last step with a speed, by where they start.

    begin: where to look from. Nothing unless all are there that the bytes before `begin` might have.
    """
    found: dict[int, dict] = {}
    has_speed = has_end = False
    for match in reversed([*LATE.finditer(block, begin)]):
        of_step = match[1] == b"step"
        if has_speed if of_step else has_end:
            continue
        start = block.rfind(b"\n", 0, match.start()) + 1
        event = parse_event(block[start : block.find(b"\n", start)])
        if event is None or not (of_step or event.get("job") == first.get("job")):
            continue
        found[start] = event
        has_end = has_end or event["kind"] == "done"
        speed = (event if of_step else dict_of(event, "result")).get("tokens_per_s")
        has_speed = has_speed or number(speed) is not None
        if has_end and has_speed:
            return found
    return found if begin == 0 else {}
