"""Base and tuned answers to the held-out rows: `<run>/answers.jsonl`, one row a line, as the evaluation wrote them."""

from pathlib import Path

from playground.json_values import read_json_lines, valid_value

FILE = "answers.jsonl"
MAX_CHARACTERS = 50_000_000  # of a file that is read


def read_answers(folder: Path) -> list[dict]:
    """The rows of a run's folder that can be read; a torn or edited line is passed over, as is a file that is none."""
    try:
        rows = read_json_lines(folder / FILE, MAX_CHARACTERS)
    except (OSError, ValueError):
        return []
    return [valid_value(row) for row in rows if isinstance(row, dict)]
