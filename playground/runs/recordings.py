"""Recorded runs, which the page plays before anything has run: `assets/recordings/<name>.jsonl`, in a run's format."""

import json

from playground import ASSETS
from playground.runs.upgrade import upgraded


def read_recording(name: str) -> list[dict]:
    """The events of a recording; [] where there is none of that name."""
    path = ASSETS / "recordings" / f"{name}.jsonl"
    if not path.is_file():
        return []
    return [upgraded(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]
