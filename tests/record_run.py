"""Make a recording of a run, which the Start tab plays before anything has run here.

    python -m playground tune --preset demo-en && python -m tests.record_run runs/<id> demo-en

Copies the run's events to assets/recordings/<name>.jsonl, with fewer memory events and without what is this machine's
own: paths, run ids, times of day. Hardware and versions stay; the first event gets "recorded", the date.
"""

import argparse
import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from playground import ASSETS
from playground.runs import Run
from playground.runs.thinning import thin_memory

FOLDER = ASSETS / "recordings"
MEMORY_EVENTS = 390  # at most about; with the last one that has parts less than 400
MAX_BYTES = 150_000
OWN_FIELDS = ("run", "adapter", "model", "checkpoint")  # of a result
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(?:[\w.-]+/)+|(?<!\w)[A-Za-z]:\\|(?<!\w)~/")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("name", help="of the recording: the preset's id")
    options = parser.parse_args()
    text = record(list(Run(options.run).events()))
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{options.name}.jsonl").write_text(text, encoding="utf-8")
    print(f"{options.name}.jsonl: {len(text.encode())} bytes, {text.count(chr(10))} events")


def record(events: list[dict]) -> str:
    """The recording of a completed fine-tune: JSON lines. Raises ValueError for another run, or for a private path."""
    if events[0]["kind"] != "run_started" or events[-1]["kind"] != "done" or events[-1]["result"]["stopped"]:
        raise ValueError("only a completed run can be recorded")
    lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in _recorded(events)]
    for line in lines:
        if path := ABSOLUTE_PATH.search(line):
            raise ValueError(f"a path of this machine: {line[max(0, path.start() - 60) : path.end() + 20]}")
    text = "\n".join(lines) + "\n"
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"{len(text.encode())} bytes, more than {MAX_BYTES}")
    return text


def _recorded(events: list[dict]) -> Iterator[dict[str, Any]]:
    """The events that a recording keeps."""
    for event in thin_memory(events, MEMORY_EVENTS):
        if event["kind"] == "run_started":
            day = datetime.fromtimestamp(event["began"], timezone.utc).date().isoformat()
            yield {key: value for key, value in event.items() if key != "began"} | {"recorded": day}
        elif event["kind"] == "done":
            result = {key: value for key, value in event["result"].items() if key not in OWN_FIELDS}
            yield event | {"result": result}
        else:
            yield event


if __name__ == "__main__":
    main()
