"""Read a talk's steps: `assets/talk/steps.json`, or a speaker's own file (`python app.py --talk FILE`).

A step is {"kind", "title": {language: text}, "text": {language: text}} and the options of its kind (KINDS). Recordings
are named as they ship, or as files (`my-run.jsonl`) beside the speaker's.
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
    "guess": ("question", "model"),
    "measured": ("recordings", "model", "card"),
    "peft": ("models",),
    "savings": ("model",),
    "weight": ("model",),
    "largest": (),
    "formats": ("models",),
    "lora": ("model", "rows", "columns", "r"),
    "run": ("recordings", "model"),
    "prompts": ("recordings", "model"),
    "cost": ("recordings", "model"),
}
NEED_RECORDINGS = ("measured", "cost")  # others have recordings of each language to fall back to
MOST_MODELS = 4  # that a step shows side by side
_BETWEEN = re.compile(r"[\s,]*")
COMMON = ("kind", "title", "text", "tab")
TABS = ("start", "plan", "load", "data", "tune", "chat", "lab", "runs", "take")  # that a step may open


@dataclass(frozen=True)
class Step:
    """One step. title, text: by language; tab: the tab that its button opens, or "". options: of its kind.

    options["recordings"]: names of those that ship, and paths of a speaker's own. number, line: in its file, from 1.
    """

    kind: str
    title: dict[str, str]
    text: dict[str, str]
    tab: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    number: int = 1
    line: int = 1


def read_steps(path: Path = STEPS) -> list[Step]:
    """The steps of a file, in its order. Raises PlaygroundError with all that is wrong with it, by step and line."""
    text, values = _read_json(path)
    if not isinstance(values, list) or not 0 < len(values) <= MAX_STEPS:
        raise problem("error.talk_list", path=path.name, most=MAX_STEPS)
    places = list(enumerate(zip(values, _first_lines(text)), 1))
    problems = [found for number, (value, line) in places for found in _problems(value, number, line, path.parent)]
    if problems:
        raise PlaygroundError(*problems)
    return [_step(value, number, line, path.parent) for number, (value, line) in places]


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


def _step(value: dict, number: int, line: int, folder: Path) -> Step:
    options = {name: value[name] for name in KINDS[value["kind"]] if name in value}
    if "recordings" in options:
        options["recordings"] = [_place(name, folder) for name in options["recordings"]]
    elif "model" in options and "recordings" in KINDS[value["kind"]]:
        options["recordings"] = recordings_of(options["model"], value["kind"])
    return Step(value["kind"], value["title"], value.get("text", {}), value.get("tab", ""), options, number, line)


def _place(name: str, folder: Path) -> str | Path:
    """A recording's name as it ships, or the path of a file beside the speaker's steps."""
    return folder / name if name.endswith(".jsonl") else name


def recordings_of(model: str, kind: str) -> list[str]:
    """The names of the shipped recordings of a model that a step of this kind can show."""
    names = [name for name in recordings.names() if _model_of(name) == model]
    return [name for name in names if shows(kind, recordings.read_recording(name))]


def _model_of(name: str) -> str:
    return str(recordings.first_and_last(name)[0]["settings"]["load"]["model"])


def shows(kind: str, events: list[dict]) -> bool:
    """Whether a recording has what a step of this kind shows: answers, or a fine-tune's result with measured facts."""
    has_answers = any(event["kind"] == "sample" for event in events)
    if kind == "run":
        return has_answers and bool(events[-1].get("result", {}).get("recall"))
    return has_answers or kind != "prompts"


def _first_lines(text: str) -> Iterator[int]:
    """The line on which each step begins, from 1. text: a JSON list."""
    decoder, place = json.JSONDecoder(), text.index("[") + 1
    while text[place := _BETWEEN.match(text, place).end()] != "]":  # type: ignore[union-attr]
        yield text.count("\n", 0, place) + 1
        _, place = decoder.raw_decode(text, place)


def _problems(value: Any, number: int, line: int, folder: Path) -> Iterator[Problem]:
    """What is wrong with one step. folder: of its file."""
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
    yield from _model_problems(value, number, line)
    if "recordings" in KINDS[kind] and ("recordings" in value or (kind in NEED_RECORDINGS and "model" not in value)):
        yield from _recording_problems(value, number, line, folder)
    for name in {"rows", "columns", "r", "card"} & set(KINDS[kind]):
        size = value.get(name, 1)
        if type(size) is not int or not 0 < size <= 10**6:
            yield Problem("error.talk_value", {"step": number, "line": line, "name": name, "value": str(size)[:40]})


def _model_problems(value: dict, number: int, line: int) -> Iterator[Problem]:
    """Models that the program's list doesn't have, and those without a recording where a step shows one."""
    kind, known = value["kind"], [*shapes(), *models()]
    if "models" in KINDS[kind] and "models" in value:
        listed = value["models"]
        if not isinstance(listed, list) or not 0 < len(listed) <= MOST_MODELS:
            yield Problem("error.talk_models", {"step": number, "line": line, "most": MOST_MODELS})
            return
        yield from (
            Problem("error.talk_value", {"step": number, "line": line, "name": "models", "value": str(model)[:80]})
            for model in listed
            if model not in known
        )
    if "model" not in KINDS[kind] or "model" not in value:
        return
    if value["model"] not in known:
        yield Problem(
            "error.talk_value", {"step": number, "line": line, "name": "model", "value": str(value["model"])[:80]}
        )
    elif "recordings" in KINDS[kind] and "recordings" in value:
        yield Problem("error.talk_both", {"step": number, "line": line})
    elif "recordings" in KINDS[kind] and not recordings_of(value["model"], kind):
        names = [name for name in recordings.names() if shows(kind, recordings.read_recording(name))]
        recorded = sorted({_model_of(name) for name in names})
        yield Problem(
            "error.talk_no_recording", {"step": number, "line": line, "model": value["model"], "models": recorded}
        )


def _recording_problems(value: dict, number: int, line: int, folder: Path) -> Iterator[Problem]:
    """Recordings that neither ship nor lie beside the file, or that lack what the step shows of them."""
    listed: Any = value.get("recordings")
    names: list[Any] = listed if isinstance(listed, list) and listed else [listed]
    for name in names:
        is_own = isinstance(name, str) and name.endswith(".jsonl")
        if not isinstance(listed, list) or not (is_own or name in recordings.names()):
            yield Problem(
                "error.talk_value", {"step": number, "line": line, "name": "recordings", "value": str(name)[:80]}
            )
            continue
        try:
            events = recordings.read_recording(_place(name, folder))
        except PlaygroundError as error:
            yield from error.problems
            continue
        if not shows(value["kind"], events):
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
