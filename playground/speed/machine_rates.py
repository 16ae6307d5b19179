"""What a device reaches, by its name: as it was measured on this machine, or estimated from another GPU that was.

An estimate takes the data sheets' peaks of both GPUs (assets/catalog/card_rates.json, cards.json): the other one is
assumed to reach the same share of them. A GPU whose peaks aren't known has no estimate.
"""

import functools
import json
import re

from playground import ASSETS
from playground.catalog.cards import cards
from playground.speed.rates import Rates, kept_rates, scaled_rates

REFERENCE = "card_rates.json"  # in assets/catalog/: the GPU that estimates rest on, and what calibration.py measured
OTHER_VARIANT = r"(?! ?(?:Ti|SUPER|D|Laptop)\b)"  # a device name that continues like this is another GPU's


def known_peak_rates(name: str) -> list[dict]:
    """Peak rates of the GPUs under that catalog id, or of the GPU that a device's name denotes.

    Returns [{"name", "tflops", "gbps", "source"}], empty where none is known.
    """
    peaks_by_card = {card["id"]: card.get("peaks", []) for card in cards()}
    if name in peaks_by_card:
        return peaks_by_card[name]
    matching = [
        peak
        for peaks in peaks_by_card.values()
        for peak in peaks
        if re.search(rf"(?<!\w){peak.get('device', peak['name'])}{OTHER_VARIANT}(?!\w)", name)
    ]
    return matching[:1]


def rates_of_machine(device: str, name: str) -> list[tuple[Rates, dict]]:
    """What a device reaches, each with its peak rate from the data sheet ({} where it was measured here).

    name: a GPU's id in the catalog, which may stand for several GPUs, or a device's name. Empty where nothing is known.
    """
    measured = kept_rates(device, name)
    if measured:
        return [(measured, {})]
    if device != "cuda":
        return []
    reference, own = reference_rates()
    return [
        (scaled_rates(reference, peak["name"], peak["tflops"] / own["tflops"], peak["gbps"] / own["gbps"]), peak)
        for peak in known_peak_rates(name)
    ]


@functools.cache
def reference_rates() -> tuple[Rates, dict]:
    """What was measured on the GPU that estimates for other GPUs rest on, and its peak rate as in the catalog."""
    measured = json.loads((ASSETS / "catalog" / REFERENCE).read_text(encoding="utf-8"))
    return Rates(**measured["rates"]), measured["peak"]
