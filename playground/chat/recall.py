"""Fact recall: of the held-out questions, how many answers name the fact, base beside tuned."""

import re
import threading
from collections.abc import Generator, Sequence

from playground.chat.pair import Asked, answers
from playground.data.source import Row
from playground.data.template import Template, Turn
from playground.settings import Generation

ROWS = 90  # questions at once, two rows each
LENGTH = 28  # tokens an answer


def names_fact(answer: str, row: Row) -> bool:
    """Whether an answer holds one of the row's keys, whatever its case; "6:40" isn't in "16:40" nor in "6:405"."""
    found = (rf"(?<![0-9A-Za-z]){re.escape(key)}" + (r"(?![0-9])" if key[-1:].isdigit() else "") for key in row.key)
    return any(re.search(pattern, answer, re.IGNORECASE) for pattern in found)


def recall(model, template: Template, rows: Sequence[Row], stop: threading.Event) -> Generator[dict, None, dict | None]:
    """Ask every row of base and tuned, greedily; yield `progress`, return {"base", "tuned", "rows"} as shares of 1.

    None if stopped before the end.
    """
    # Like lengths together: less padding.
    asked = sorted(((row, template.ids([Turn(row.instruction, input=row.input)])) for row in rows), key=lambda pair: len(pair[1]))
    right = {"base": 0, "tuned": 0}
    for start in range(0, len(asked), ROWS):
        part = asked[start : start + ROWS]
        both = [Asked(ids, tuned) for tuned in (False, True) for _, ids in part]
        texts: list[str] = []
        for event in answers(model, template.tokenizer, both, template.end_ids(), Generation(max_new_tokens=LENGTH), stop):
            texts = event["texts"]
            done = start + len(part) * event["tokens"] / LENGTH
            yield {"kind": "progress", "done": round(done, 1), "total": len(asked), "unit": "rows"}
        if stop.is_set():
            return None
        for (row, _), base, tuned in zip(part, texts[: len(part)], texts[len(part) :]):
            right["base"] += names_fact(base, row)
            right["tuned"] += names_fact(tuned, row)
    return {side: round(count / len(asked), 4) for side, count in right.items()} | {"rows": len(asked)}
