"""Check a run's event: fields of another type than readers expect are left out, so that no reader has to ask.

An events file may be edited by hand, damaged, or written by another program. Fields that this version doesn't know
pass unchecked, for nobody reads them.
"""

import math
import re
from typing import Any

from playground.json_values import valid_value

MOST = 2**53  # of any number: bytes, steps, tokens; the first that a browser can't count to
TEXTS = (
    *("name", "phase", "job", "key", "when", "unit", "model", "prompt", "subject", "dtype", "format", "verdict"),
    "source",
)
NUMBERS = (
    *("step", "steps", "loss", "tokens", "lr", "tokens_per_s", "left_s", "done", "total", "bits", "more_loss"),
    *(
        "main_memory",
        "rss",
        "allocated",
        "reserved",
        "device_used",
        "need",
        "held",
        "capacity",
        "bytes",
        "seconds",
        "stall_s",
        "processes",
    ),
)
OBJECTS = ("values", "parts", "peak", "settings", "hardware", "versions", "result", "figures", "buffers")
LISTS = ("problems", "helped", "hurt", "layers")
FIELDS = {
    **dict.fromkeys(TEXTS, "text"),
    **dict.fromkeys(NUMBERS, "number"),
    **dict.fromkeys(OBJECTS, "object"),
    **dict.fromkeys(LISTS, "list"),
}
OF_NUMBERS = ("parts", "peak")  # objects that hold nothing else
OF_LISTS = ("buffers",)  # objects that hold lists of numbers
NEEDED: dict[str, tuple[str, ...]] = {
    "step": ("step",),
    "phase": ("name",),
    "memory_predicted": ("phase",),
    "memory_measured": ("phase", "peak"),
    "time_predicted": ("phase", "unit", "seconds"),
    "time_measured": ("phase", "unit", "seconds"),
}
# Halves of characters, integers and floats beyond 64 bits, what JSON doesn't have: such lines are rare.
UNUSUAL = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\d{19}|[eE]\+?\d{3}|NaN|Infinity|[\[{][\[{][\[{][\[{]")
ALIKE = bytes.maketrans(b"123456789E{", b"000000000e[")  # makes one text of what UNUSUAL has classes for
SIGNS = (b"0" * 19, b"e000", b"e+000", b"NaN", b"Infinity", b"[[[[", b"\\u", b"\xed")
MOST_BRACKETS = 100  # of a line that can't be nested too deep


def valid_event(event: dict[str, Any], line: bytes) -> dict[str, Any] | None:
    """An event, parsed from that line, with the fields that can be used; None where it lacks one that it needs."""
    if is_unusual(line) or line.count(b"{") + line.count(b"[") > MOST_BRACKETS:
        event = valid_value(event)
    time = event.get("t")
    if not isinstance(event.get("kind"), str) or not is_usable_number(time):
        return None
    wrong = [name for name in event.keys() & FIELDS.keys() if not _is_usable(FIELDS[name], event[name])]
    if any(name in wrong or name not in event for name in NEEDED.get(event["kind"], ())):
        return None
    for name in wrong:
        if not (name == "loss" and event[name] is None):  # a loss that wasn't finite is news
            del event[name]
    for name in OF_NUMBERS:
        if name in event:
            event[name] = {part: size for part, size in event[name].items() if is_usable_number(size)}
    for name in OF_LISTS:
        if name in event:
            lists = ((key, value) for key, value in event[name].items() if isinstance(value, list))
            event[name] = {key: [number for number in value if is_usable_number(number)] for key, value in lists}
    if "settings" in event:
        event["settings"] = {name: group for name, group in event["settings"].items() if isinstance(group, dict)}
    if event["kind"] == "note":
        event.setdefault("values", {})
    return event


def is_unusual(line: bytes) -> bool:
    """Whether UNUSUAL is found in a line; asked of thousands, so what it can't be without is looked for first."""
    alike = line.translate(ALIKE)
    for sign in SIGNS:
        if sign in alike:
            return bool(UNUSUAL.search(line))
    return False


def is_usable_number(value: Any) -> bool:
    """Whether a value is a finite number that a browser can count to."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_small(value)


def _is_small(value: float) -> bool:
    return -MOST < value < MOST if isinstance(value, int) else math.isfinite(value) and abs(value) < MOST


def _is_usable(kind: str, value: Any) -> bool:
    if kind == "number":
        return is_usable_number(value)
    return isinstance(value, {"text": str, "object": dict, "list": list}[kind])
