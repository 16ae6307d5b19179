"""What is on offer: models, data sets and presets, read from `assets/catalog/`."""

import json
import os
from functools import cache
from pathlib import Path

from playground import ASSETS


def cache_folder() -> Path:
    """Where fetched wheels and converted models are kept: $PLAYGROUND_CACHE, else a folder in the user's cache."""
    return Path(os.environ.get("PLAYGROUND_CACHE") or Path.home() / ".cache" / "lora-playground")


@cache
def models() -> dict[str, dict]:
    """Every model on offer by its id, with the "name", "family" and "parameters" of its "shape" (its own id, unless it says another).

    `sources` are tried in order: {"hub"}, {"folder"}, {"wheels"}; without any, its id is a hub's. "languages": "ja", "en",
    "many" (others beside them). "template": what it was trained with (chat, alpaca, text: the question alone) or the talk
    asked it with; a base model may have none. "talk": it is one of the talk's. "for": the words key of who it is for.
    """
    found = {}
    for id, entry in read_entries("models").items():
        shape = shapes()[entry.get("shape", id)]
        known = {key: shape[key] for key in ("name", "family", "parameters")}
        found[id] = (
            {"shape": shape["id"], "gated": False, "talk": False, "template": None, "sources": [{"hub": id}]}
            | known
            | entry
        )
    return found


@cache
def shapes() -> dict[str, dict]:
    """Models that can be planned with no file of theirs at hand, by id: {"name", "family", "parameters", "config", "source"}."""
    return read_entries("shapes")


@cache
def requirements() -> dict[str, dict]:
    """What each shape of a model on offer takes at 4 bits, by shape: see memory/needs.py, which writes it."""
    return read_entries("needs")


@cache
def data_sets() -> dict[str, dict]:
    """Every data set entry by its id, each with a bundled "file" or a "hub" id."""
    return read_entries("data")


@cache
def column_names() -> dict[str, dict]:
    """The usual names of a data set's columns by what they hold: {"names": [...]}, in lower case."""
    return read_entries("columns")


@cache
def presets() -> dict[str, dict]:
    """Named settings by id: {group: {field: value}} laid over the defaults."""
    return read_entries("presets")


@cache
def prompts() -> dict[str, dict]:
    """Questions on offer by id: {"prompts": [...]}."""
    return read_entries("prompts")


def display_name(model: str) -> str:
    """What people call a model: its name in the catalog, or the end of its id or folder."""
    entry = models().get(model) or shapes().get(model)
    return entry["name"] if entry else model.rstrip("/").rsplit("/", 1)[-1]


def shape_of(model: str) -> dict | None:
    """The bundled shape of a model on offer, or of that id; None where there is none."""
    entry = models().get(model)
    return shapes().get(entry["shape"] if entry else model)


def source_of(entry: dict, kind: str):
    """The value of an entry's first source of that kind ("hub", "folder", "wheels"), or None."""
    return next((source[kind] for source in entry["sources"] if kind in source), None)


def offline_models() -> list[str]:
    """The ids of the models that need no model hub."""
    return [name for name, entry in models().items() if source_of(entry, "wheels")]


def read_entries(name: str) -> dict[str, dict]:
    entries = json.loads((ASSETS / "catalog" / f"{name}.json").read_text(encoding="utf-8"))
    return {entry["id"]: entry for entry in entries}
