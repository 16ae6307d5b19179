"""What a command prints: events on standard error, its result as one JSON object on standard output."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from playground.i18n import translate

IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"  # under `accelerate launch`, rank 0 alone prints


def print_result(result: dict) -> None:
    if IS_MAIN_PROCESS:
        print(json.dumps(without_nan(result), ensure_ascii=False, allow_nan=False))


def without_nan(value: Any) -> Any:
    """A result with null for numbers that JSON doesn't have: NaN and infinity."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def follow(events: Iterable[dict], lang: str, keep: Callable[[dict], None] = lambda event: None) -> dict:
    result = {}
    for event in events:
        keep(event)
        with suppress(BrokenPipeError):  # nobody reads it any more: the work goes on
            print_event(event, lang)
        if event["kind"] == "done":
            result = event["result"]
    return result


def print_event(event: dict, lang: str) -> None:
    """One line on standard error for each event that a person wants to see."""
    kind = event["kind"] if IS_MAIN_PROCESS else None
    if kind == "phase" and event["name"] != "idle":
        line = translate(lang, f"phase.{event['name']}")
    elif kind == "step":
        line = translate(lang, "cli.step", **event)
    elif kind == "progress" and event["total"]:
        print(f"\r{100 * event['done'] / event['total']:5.0f} %", end="\r", file=sys.stderr)
        return
    elif kind in ("memory_predicted", "memory_measured"):
        sizes = event.get("peak", event)
        memory = next(memory for memory in ("device_used", "rss", "allocated") if memory in sizes)
        values = {"size_bytes": sizes[memory], "capacity_bytes": event.get("capacity")}
        line = translate(lang, f"cli.{kind}", job=event["phase"], memory=memory, **values)
    elif kind == "lab_point":
        loss = "–" if event["loss"] is None else f"{event['loss']:.3f}"
        line = translate(lang, "cli.lab_point", **{**event, "loss": loss, "size_bytes": event["bytes"]})
    elif kind == "note":
        line = translate(lang, event["key"], **event["values"])
    else:
        return
    print(line, file=sys.stderr)
