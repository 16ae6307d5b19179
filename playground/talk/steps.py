"""Read a talk's steps: `assets/talk/steps.json`, or a speaker's own file (`python app.py --talk FILE`).

A step is {"kind", "title": {language: text}, "text": {language: text}} and the options of its kind (KINDS).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from playground import ASSETS
from playground.catalog import models, shapes
from playground.errors import PlaygroundError, Problem, problem
from playground.i18n import LANGUAGES
from playground.runs import recordings

STEPS = ASSETS / "talk" / "steps.json"
MODEL = "cyberagent/open-calm-7b"  # of steps that name none
MAX_STEPS = 60
MAX_TEXT = 600  # characters: more isn't read from the last row
# The kinds of steps, and the options of each beside title, text and tab.
KINDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "bytes": ("model",),
    "cards": ("model",),
    "guess": ("question",),
    "measured": ("recordings", "card"),
    "peft": (),
    "savings": (),
    "weight": (),
    "largest": (),
    "formats": (),
    "lora": ("rows", "columns", "r"),
    "run": (),
    "prompts": ("recordings",),
    "cost": ("recordings",),
}
_BETWEEN = re.compile(r"[\s,]*")
COMMON = ("kind", "title", "text", "tab")
TABS = ("start", "plan", "load", "data", "tune", "chat", "lab", "runs", "take")  # that a step may open


@dataclass(frozen=True)
class Step:
    """One step. title, text: by language; tab: the tab that its button opens, or "". options: of its kind."""

    kind: str
    title: dict[str, str]
    text: dict[str, str]
    tab: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def read_steps(path: Path = STEPS) -> list[Step]:
    """The steps of a file, in its order. Raises PlaygroundError with all that is wrong with it, by step and line."""
    text, values = _read_json(path)
    if not isinstance(values, list) or not 0 < len(values) <= MAX_STEPS:
        raise problem("error.talk_list", path=path.name, most=MAX_STEPS)
    places = enumerate(zip(values, _first_lines(text)), 1)
    problems = [found for number, (value, line) in places for found in _problems(value, number, line)]
    if problems:
        raise PlaygroundError(*problems)
    return [_step(value) for value in values]


def _read_json(path: Path) -> tuple[str, Any]:
    """A file's text, without the mark that some editors begin UTF-8 with, and its value. Raises PlaygroundError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return text, json.loads(text)
    except json.JSONDecodeError as error:
        raise problem(
            "error.talk_json", path=path.name, line=error.lineno, column=error.colno, detail=error.msg
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8; an integer of thousands of digits; too deep
        raise problem("error.talk_file", path=path.name, detail=str(error)[:200]) from error


def _step(value: dict) -> Step:
    options = {name: value[name] for name in KINDS[value["kind"]] if name in value}
    return Step(value["kind"], value["title"], value.get("text", {}), value.get("tab", ""), options)


def _first_lines(text: str) -> Iterator[int]:
    """The line on which each step begins, from 1. text: a JSON list."""
    decoder, place = json.JSONDecoder(), text.index("[") + 1
    while text[place := _BETWEEN.match(text, place).end()] != "]":  # type: ignore[union-attr]
        yield text.count("\n", 0, place) + 1
        _, place = decoder.raw_decode(text, place)


def _problems(value: Any, number: int, line: int) -> Iterator[Problem]:
    """What is wrong with one step."""
    if not isinstance(value, dict):
        yield Problem("error.talk_step", {"step": number, "line": line})
        return
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        yield Problem("error.talk_kind", {"step": number, "line": line, "kind": str(kind)[:40], "kinds": list(KINDS)})
        return
    allowed = (*COMMON, *KINDS[kind])
    for name in value:
        if name not in allowed:
            near = get_close_matches(name, allowed, 1) or ["–"]
            yield Problem("error.talk_key", {"step": number, "line": line, "name": name[:40], "near": near[0]})
    for name in ("title", "text", "question"):
        yield from _text_problems(value, number, line, name)
    if value.get("tab", "") not in ("", *TABS):
        yield Problem(
            "error.talk_value", {"step": number, "line": line, "name": "tab", "value": str(value["tab"])[:40]}
        )
    if "model" in KINDS[kind] and value.get("model", MODEL) not in [*shapes(), *models()]:
        yield Problem(
            "error.talk_value", {"step": number, "line": line, "name": "model", "value": str(value["model"])[:80]}
        )
    if "recordings" in KINDS[kind] and (kind != "prompts" or "recordings" in value):
        yield from _recording_problems(value, number, line)
    for name in {"rows", "columns", "r", "card"} & set(KINDS[kind]):
        size = value.get(name, 1)
        if type(size) is not int or not 0 < size <= 10**6:
            yield Problem("error.talk_value", {"step": number, "line": line, "name": name, "value": str(size)[:40]})


def _recording_problems(value: dict, number: int, line: int) -> Iterator[Problem]:
    """Recordings that don't ship with the program, or that hold no answers where a step shows them."""
    listed = value.get("recordings")
    for name in listed if isinstance(listed, list) and listed else [listed]:
        if not isinstance(listed, list) or name not in recordings.names():
            yield Problem(
                "error.talk_value", {"step": number, "line": line, "name": "recordings", "value": str(name)[:80]}
            )
        elif value["kind"] == "prompts" and not any(e["kind"] == "sample" for e in recordings.read_recording(name)):
            yield Problem("error.talk_no_answers", {"step": number, "line": line, "name": name})


def _text_problems(value: dict, number: int, line: int, name: str) -> Iterator[Problem]:
    """A title, and what a guess is asked with, in every language; and texts that are short enough."""
    texts = value.get(name, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        yield Problem("error.talk_value", {"step": number, "line": line, "name": name, "value": str(texts)[:40]})
        return
    is_needed = name == "title" or (name == "question" and value["kind"] == "guess")
    if is_needed and not set(LANGUAGES) <= set(texts):
        yield Problem("error.talk_title", {"step": number, "line": line, "name": name, "languages": list(LANGUAGES)})
    for text in texts.values():
        if len(text) > MAX_TEXT:
            yield Problem(
                "error.talk_long", {"step": number, "line": line, "name": name, "chars": len(text), "most": MAX_TEXT}
            )
