"""Filter the catalog's models by language, size and memory, and collect the facts of each. Imports no torch."""

from math import inf

from playground.catalog import entries
from playground.catalog.cards import smallest_card, verdict
from playground.i18n import translate

SIZES = {"small": (0, 1e9), "medium": (1e9, 4e9), "large": (4e9, 10e9), "huge": (10e9, inf)}  # parameters: from, below
FACTS = ("id", "name", "family", "parameters", "languages", "instruct", "template", "licence", "gated", "talk")


def matching_models(language: str = "", size: str = "", room: int = 0, device: str = "cuda") -> list[str]:
    """Ids of the models that pass all filters; a filter left at its default passes every model.

    language: "ja" or "en". size: a key of SIZES. room: bytes of a GPU, or of main memory for the device "cpu", that
    suffice to chat with the model and to fine-tune it at 4 bits.
    """
    least, below = SIZES.get(size, (0, inf))
    return [
        entry["id"]
        for entry in entries.models().values()
        if least <= entry["parameters"] < below
        and (not language or language in entry["languages"])
        and (not room or _fits(entry, room, device))
    ]


def model_facts(model: str, lang: str) -> dict:
    """What a person wants to know of a catalog model before choosing it: the catalog's fields (FACTS) and

    "targets": the layers that LoRA adapts by default; "memory": bytes needed at 4 bits, {"cuda" and "cpu": {"chat",
    "tune"}}; "card": GiB of the smallest GPU for "chat" and for "tune", or None; "for": who it is for, in the
    language `lang`; "offline": whether it needs no model hub.
    """
    entry = entries.models()[model]
    requirements = entries.requirements()[entry["shape"]]
    smallest = {job: smallest_card(need) for job, need in requirements["cuda"].items()}
    return {key: entry[key] for key in FACTS} | {
        "targets": requirements["targets"],
        "memory": {device: requirements[device] for device in ("cuda", "cpu")},
        "card": {job: card and card["gib"] for job, card in smallest.items()},
        "for": translate(lang, f"catalog.for.{entry['for']}"),
        "offline": model in entries.offline_models(),
    }


def _fits(entry: dict, room: int, device: str) -> bool:
    return verdict(max(entries.requirements()[entry["shape"]][device].values()), room) != "no"
