"""Points of the bit-width lab that were measured before: those that ship, by date, and those in another language.

The Talk tab shows them, and the Bit widths tab until something was measured here with the text that the form names.
"""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from playground import ASSETS
from playground.i18n import LANGUAGES
from playground.lab.question import LabQuestion
from playground.runs.lab_points import all_points
from playground.ui import lab_figure
from playground.ui.talk_bars import badge


@cache
def recorded_figures() -> dict[str, Any]:
    """{"recorded" (date), "hardware", "points" ({model: its points}), "weight" (a picture), "peft" (peaks)}."""
    recording: dict[str, Any] = json.loads((ASSETS / "recordings" / "talk.json").read_text(encoding="utf-8"))
    return recording


def recorded_points() -> lab_figure.Points:
    """The points of the two models that work offline."""
    return {
        (model, point["format"]): point for model, listed in recorded_figures()["points"].items() for point in listed
    }


def bundled_points(root: Path, lang: str, models: Iterable[str]) -> tuple[lab_figure.Points, str]:
    """What was measured here of these models on the bundled text, and that text's language: `lang`, else another one.

    So a figure stays where the page's language is switched. Without any points: {} and "".
    """
    for language in (lang, *(other for other in LANGUAGES if other != lang)):
        known = all_points(root, LabQuestion(language=language).subject())
        if points := {key: known[key] for model in models for key in known if key[0] == model}:
            return points, language
    return {}, ""


def language_badge(word: Callable, language: str) -> str:
    """That points were measured on the bundled text of another language than the page's."""
    return badge(word(f"lab.measured_on.{language}"))


def recorded_badge(word: Callable) -> str:
    """When and on what hardware the figures were measured."""
    recorded = recorded_figures()
    return badge(word("talk.recorded", date=recorded["recorded"], hardware=recorded["hardware"]))
