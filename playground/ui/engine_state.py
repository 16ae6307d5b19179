"""What the page says of the engine: the state that the live view takes, and the messages after a job."""

from typing import Any

from playground import catalog
from playground.ui.page import Page
from playground.ui.visitor_engine import VisitorEngine


def loaded_text(page: Page) -> str:
    """The message after a model was loaded; "" once it was unloaded."""
    loaded = page.engine.loaded
    return (
        page.translate("load.loaded", model=catalog.display_name(loaded["model"]), bits=loaded["bits"])
        if loaded
        else ""
    )


def tuned_text(page: Page, result: dict) -> str:
    """The message after a fine-tune: recall as measured, whether it was stopped, what to do next."""
    lines = [page.translate("tune.stopped" if result.get("stopped") else "tune.done")]
    if result.get("recall"):
        lines.insert(0, page.translate("tune.recall", **result["recall"]))
    return "\n".join(lines)


def engine_state(page: Page) -> dict[str, Any]:
    """The engine's run and state, as the live view takes them."""
    engine = page.engine
    loaded, memory = engine.loaded, engine.memory or {}
    return {
        "run": engine.run,
        "busy": engine.state == "busy",
        "engine": engine.state,
        "loaded": {"name": catalog.display_name(loaded["model"]), "bits": loaded["bits"]} if loaded else None,
        "memory": memory.get("device_used", memory.get("rss")),
        "waiting": _place_text(page, "shared.place"),
        "waits": _place_text(page, "shared.waits"),
    }


def _place_text(page: Page, key: str) -> str:
    """Where the visitor's job stands in the line, and how long that takes, in these words; "" where none waits."""
    place = page.engine.place if isinstance(page.engine, VisitorEngine) else None
    if place is None:
        return ""
    minutes = max(1, round(place.seconds / 60))
    return page.translate(key, place=place.number, of=place.of, minutes=minutes)
