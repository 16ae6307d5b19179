"""A sweep: fine-tunes that differ in one or two settings, from "lr=1e-4,1e-3" or "lr=1e-4..1e-2 in 5 log steps".

Everything that is wrong with one is found before anything starts: unknown settings, values that can't be read or aren't
allowed in some combination, too many combinations, a setting that is named twice.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import product
from typing import Any

from playground.errors import PlaygroundError, Problem
from playground.settings import Settings, parse, raise_all

MOST_SETTINGS = 2
MOST_RUNS = 64
MOST_RUNS_PUBLIC = 4  # on a page that strangers open
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\s*\.\.\s*({NUMBER})(?:\s*in\s+(\d{{1,6}})(\s+log)?\s+steps?)?", re.IGNORECASE)
SWITCH = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
EXAMPLE = "lr=1e-4,1e-3"

Value = str | int | float | bool


@dataclass(frozen=True)
class Axis:
    """One setting of a sweep, as "train.lr", and the values that it takes, in their order."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Sweep:
    """Settings of which `axes` are replaced. At least one axis, at most MOST_SETTINGS."""

    base: Settings
    axes: tuple[Axis, ...]

    @property
    def combinations(self) -> list[dict[str, Value]]:
        """{"train.lr": value} of every run, the last setting changing fastest."""
        names = [axis.name for axis in self.axes]
        return [dict(zip(names, values)) for values in product(*(axis.values for axis in self.axes))]

    @property
    def group(self) -> str:
        """The name of this sweep; the same settings and values have the same name."""
        text = json.dumps([self.base.to_dict(), [[axis.name, axis.values] for axis in self.axes]], sort_keys=True)
        return f"sweep-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:10]}"

    def settings(self, combination: dict[str, Value]) -> Settings:
        """The settings of one run. Raises PlaygroundError with everything that isn't allowed."""
        return parse(_grouped(combination), self.base)


def parse_sweep(
    texts: Sequence[str],
    base: Settings,
    most: int = MOST_RUNS,
    check: Callable[[Settings], object] = lambda settings: None,
) -> Sweep:
    """The sweep over `base` that the texts describe, each "setting=values".

    Values are separated by commas (by semicolons where one has a comma in it), or a range: "1..5" counts, "0..1 in 5
    steps" is evenly spaced, "1e-4..1e-2 in 5 log steps" evenly in its logarithm. most: runs. check: raises
    PlaygroundError for settings that aren't allowed here. Raises PlaygroundError with all problems.
    """
    wrong: list[Problem] = []
    axes: list[Axis] = []
    for text in texts:
        axis, found = _axis(text, base)
        wrong += found
        axes += [axis] if axis else []
    named = [axis.name for axis in axes]
    wrong += [
        Problem("problem.sweep_twice", {"field": name}) for name in sorted({n for n in named if named.count(n) > 1})
    ]
    if not texts:
        wrong.append(Problem("problem.sweep_empty", {"example": EXAMPLE}))
    if len(texts) > MOST_SETTINGS:
        wrong.append(Problem("problem.sweep_settings", {"count": len(texts), "most": MOST_SETTINGS}))
    runs = math.prod(len(axis.values) for axis in axes)
    if runs > most:
        wrong.append(Problem("problem.sweep_runs", {"runs": runs, "most": most}))
    sweep = Sweep(base, tuple({axis.name: axis for axis in reversed(axes)}.values())[::-1])
    wrong += _refused(sweep, check) if runs <= most else []
    raise_all(wrong)
    return sweep


def setting_names() -> dict[str, list[str]]:
    """Every way to write a setting, as "train.lr" or "lr", and the settings that it means: several for "seed"."""
    names: dict[str, list[str]] = {}
    for group in fields(Settings):
        for field in fields(getattr(Settings(), group.name)):
            full = f"{group.name}.{field.name}"
            names[full] = [full]
            for short in (f"{group.name}_{field.name}", field.name):
                names.setdefault(short, []).append(full)
    return names


def value_text(value: Value) -> str:
    """A value as text that `--sweep` reads back."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _axis(text: str, base: Settings) -> tuple[Axis | None, list[Problem]]:
    """The setting and its values of one text, or what is wrong with it."""
    name, equals, listed = unicodedata.normalize("NFKC", text).replace("、", ",").partition("=")
    known = setting_names()
    spelled = name.strip().lstrip("-").replace("-", "_")
    shown = name.strip()[:60]
    if not equals or not listed.strip(" ,;"):
        return None, [Problem("problem.sweep_form", {"text": text[:80], "example": EXAMPLE})]
    meant = known.get(spelled, [])
    if not meant:
        near = get_close_matches(spelled, known, 1) or ["train.lr"]
        return None, [Problem("problem.sweep_setting", {"setting": shown, "near": near[0]})]
    if len(meant) > 1:
        return None, [Problem("problem.sweep_ambiguous", {"setting": shown, "choices": meant})]
    group, field = meant[0].split(".")
    current = getattr(getattr(base, group), field)
    wrong: list[Problem] = []
    try:
        values = _values(meant[0], listed.strip(), isinstance(current, int))
    except PlaygroundError as error:
        return None, list(error.problems)
    converted: list[Value] = []
    for value in values:
        try:
            one = getattr(getattr(base.with_values(_grouped({meant[0]: _switched(value, current)})), group), field)
            converted += [one] if one not in converted else []
        except PlaygroundError as error:
            wrong += error.problems
    return Axis(meant[0], tuple(converted)), wrong


def _values(name: str, listed: str, whole: bool) -> list[Value]:
    """The values of a list or range. whole: whether the setting takes whole numbers. Raises PlaygroundError."""
    found = RANGE.fullmatch(listed)
    if not found:
        if ".." in listed and not re.search(r"[,;/\\]", listed):
            raise PlaygroundError(Problem("problem.sweep_range", {"field": name, "value": listed[:80]}))
        separator = ";" if ";" in listed else ","
        return [value.strip() for value in listed.split(separator) if value.strip()]
    first, last, steps, log = float(found[1]), float(found[2]), found[3], found[4]
    if not math.isfinite(first * last):
        raise PlaygroundError(Problem("problem.sweep_range", {"field": name, "value": listed[:80]}))
    counts_up = steps is None and first == int(first) and last == int(last)
    number = abs(int(last) - int(first)) + 1 if counts_up else int(steps or 0)
    if number < 2 or (log and first * last <= 0):
        raise PlaygroundError(Problem("problem.sweep_range", {"field": name, "value": listed[:80]}))
    if number > MOST_RUNS:
        raise PlaygroundError(Problem("problem.sweep_runs", {"runs": number, "most": MOST_RUNS}))
    shares = [step / (number - 1) for step in range(number)]
    points = [first * (last / first) ** share if log else first + (last - first) * share for share in shares]
    if whole or counts_up:
        return [round(point) for point in points]
    return [float(f"{point:.4g}") for point in points]


def _switched(value: Value, current: Value) -> Value:
    """The words on and off as a truth value, where the setting takes one."""
    return SWITCH.get(str(value).lower(), value) if isinstance(current, bool) else value


def _grouped(combination: dict[str, Value]) -> dict[str, dict[str, Any]]:
    """{"train.lr": value} as {"train": {"lr": value}}."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in combination.items():
        group, _, field = name.partition(".")
        groups.setdefault(group, {})[field] = value
    return groups


def _refused(sweep: Sweep, check: Callable[[Settings], object]) -> list[Problem]:
    """Everything that isn't allowed in some combination, each problem once."""
    wrong: list[Problem] = []
    for combination in sweep.combinations:
        try:
            check(sweep.settings(combination))
        except PlaygroundError as error:
            wrong += [one for one in error.problems if one not in wrong]
    return wrong
