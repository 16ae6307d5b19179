"""Cards that a model may have to fit, and whether it does. Imports no torch."""

from playground.catalog.entries import read_entries

TIGHT = 0.92  # of a card: beyond, a desktop or one long row can tip it over


def cards() -> list[dict]:
    """Every card size of the catalog by what it holds, smallest first: {"id", "name", "gib", "bytes"}."""
    return [card | {"bytes": card["gib"] * 2**30} for card in read_entries("cards").values()]


def verdict(device: int, capacity: int) -> str:
    """ "fits", "tight" or "no": bytes that are needed on the card, bytes that it has."""
    return "no" if device > capacity else "tight" if device > TIGHT * capacity else "fits"


def smallest_card(device: int) -> dict | None:
    """The smallest card that has that many bytes, or None where even the largest is too small."""
    return next((card for card in cards() if verdict(device, card["bytes"]) != "no"), None)
