"""Rows for tests of token counts and of what a cutoff costs."""

import json
import random
from pathlib import Path

from playground.data.source import Row


def varied_rows(count: int = 150) -> list[Row]:
    """Rows whose prompts and answers differ in length, the same at each call."""
    draw = random.Random(1)
    return [
        Row("what " * draw.randint(1, 60), "blue " * draw.randint(1, 80), input="青い" * draw.randint(0, 3))
        for _ in range(count)
    ]


def write_numbered_rows(path: Path, count: int = 120) -> Path:
    """A JSON-lines file of rows that are each known by their question."""
    rows = ({"instruction": f"What is {n}?", "output": "blue " * (n % 50 + 1)} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
