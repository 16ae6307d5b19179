"""Which of the models on offer suit a person, and what is to be known of each. Imports no torch."""

from math import inf

from playground.catalog import entries
from playground.catalog.cards import smallest_card, verdict
from playground.i18n import translate

SIZES = {"small": (0, 1e9), "medium": (1e9, 4e9), "large": (4e9, 10e9), "huge": (10e9, inf)}  # parameters: from, up to


def matching_models(language: str = "", size: str = "", room: int = 0, device: str = "cuda") -> list[str]:
    """The ids of the models that speak that language ("ja", "en"), are of that size, and fit.

    room: bytes of a card, or of main memory for the device "cpu", in which a model at 4 bits is to be chatted with and to be
    fine-tuned. Whatever isn't asked for leaves all.
    """
    least, most = SIZES.get(size, (0, inf))
    found = (entry for entry in entries.models().values() if least <= entry["parameters"] < most)
    return [
        e["id"] for e in found if (not language or language in e["languages"]) and (not room or _fits(e, room, device))
    ]


def model_facts(model: str, lang: str) -> dict:
    """What is to be known of a model on offer before it is chosen; the plain values are the catalog's.

    "targets": the layers that LoRA adapts; "memory": bytes that it takes at 4 bits to "chat" and to "tune", on "cuda" and "cpu";
    "card": GB of the smallest card for each, or None; "for": who it is for, in that language.
    """
    entry, needs = entries.models()[model], entries.requirements()[entries.models()[model]["shape"]]
    cards = {kind: smallest_card(size) for kind, size in needs["cuda"].items()}
    kept = ("id", "name", "family", "parameters", "languages", "instruct", "template", "licence", "gated", "talk")
    return {key: entry[key] for key in kept} | {
        "targets": needs["targets"],
        "memory": {device: needs[device] for device in ("cuda", "cpu")},
        "card": {kind: card and card["gib"] for kind, card in cards.items()},
        "for": translate(lang, f"catalog.for.{entry['for']}"),
        "offline": model in entries.offline_models(),
    }


def _fits(entry: dict, room: int, device: str) -> bool:
    return verdict(max(entries.requirements()[entry["shape"]][device].values()), room) != "no"
