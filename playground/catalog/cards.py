"""The GPU sizes of the catalog, and whether a number of bytes fits one. Imports no torch."""

import os

from playground.catalog.entries import read_entries

# What a ZeroGPU Space gives a call by default: the package `spaces` (0.51) states its name and its memory.
ZERO_GPU = {"device": "cuda", "name": "NVIDIA H200 MIG 3g.71gb", "bytes": 74_625_056_768}
TIGHT = 0.92  # share of a GPU's memory: beyond it, a desktop or one long row can be too much


def cards() -> list[dict]:
    """Every GPU size of the catalog, smallest first: {"id", "name", "gib", "bytes"}; "peaks" and "price" where
    rates are known and a price was announced.
    """
    return [card | {"bytes": card["gib"] * 2**30} for card in read_entries("cards").values()]


def verdict(need: int, capacity: int) -> str:
    """Whether that many bytes fit into a capacity in bytes: "fits", "tight" or "no"."""
    if need > capacity:
        return "no"
    return "tight" if need > TIGHT * capacity else "fits"


def smallest_card(need: int) -> dict | None:
    """The smallest GPU that has that many bytes, or None where the largest is too small."""
    return next((card for card in cards() if verdict(need, card["bytes"]) != "no"), None)


def is_zero_gpu() -> bool:
    """Whether this program runs on a ZeroGPU Space, whose GPU is there only while a job runs."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
