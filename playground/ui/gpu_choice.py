"""The choice of a GPU, or of this machine, whose memory predictions are compared with."""

from typing import Any

from playground.catalog.cards import cards
from playground.errors import problem
from playground.planning.client import this_machine
from playground.ui.page import Page

THIS_MACHINE = "here"  # this machine, as a choice among the cards


def card_choices(page: Page) -> list[tuple[str, str]]:
    """This machine, and every card of the catalog, as choices."""
    machine = this_machine()
    key = "plan.here_card" if machine["device"] == "cuda" else "plan.here_cpu"
    return [
        (page.translate(key, name=machine["name"], size_bytes=machine["bytes"]), THIS_MACHINE),
        *((page.translate("plan.card_name", gib=c["gib"], name=c["name"]), c["id"]) for c in cards()),
    ]


def memory_of(card: str) -> dict[str, Any]:
    """The memory of a card, or of this machine: {"device": "cuda" or "cpu", "name", "bytes"}."""
    if card == THIS_MACHINE:
        return this_machine()
    entry = next((entry for entry in cards() if entry["id"] == card), None)
    if entry is None:
        raise problem("request.value", field="card", value=str(card)[:60])
    return {"device": "cuda", "name": entry["id"], "bytes": entry["bytes"]}
