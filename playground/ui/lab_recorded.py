"""What this program measured before, and ships with: the bit-width lab's points and a weight's picture, by date.

The Talk tab shows them, and the Bit widths tab until something was measured here.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from playground import ASSETS
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


def recorded_badge(word: Callable) -> str:
    """When and on what hardware the figures were measured."""
    recorded = recorded_figures()
    return badge(word("talk.recorded", date=recorded["recorded"], hardware=recorded["hardware"]))
