"""Read the catalog in `assets/catalog/`: models, data sets, presets, prompts and memory requirements."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from playground import ASSETS


def cache_folder() -> Path:
    """The folder of fetched wheels and converted models: $PLAYGROUND_CACHE, else one in the user's cache."""
    return Path(os.environ.get("PLAYGROUND_CACHE") or Path.home() / ".cache" / "lora-playground")


@cache
def models() -> dict[str, dict]:
    """Every model of the catalog by its id, with the "name", "family" and "parameters" of its shape.

    "shape": an id of `shapes`, by default the model's own. "sources": tried in order, each {"hub"}, {"folder"} or
    {"wheels"}; by default the model's id is a hub's. "languages": "ja", "en", "many" (other languages as well).
    "template": the prompt format that it was trained with, or that the talk used with it (chat, alpaca, talk, text);
    None for a base model without one. "talk": whether it is one of the talk's models. "for": the words key of who it
    is for.
    """
    models = {}
    for id, entry in read_entries("models").items():
        shape = shapes()[entry.get("shape", id)]
        defaults = {"shape": shape["id"], "gated": False, "talk": False, "template": None, "sources": [{"hub": id}]}
        models[id] = defaults | {key: shape[key] for key in ("name", "family", "parameters")} | entry
    return models


@cache
def shapes() -> dict[str, dict]:
    """Architectures that can be predicted without the model's files, by id.

    {"name", "family", "parameters", "config" (transformers'), "source" (where the config is from)}.
    """
    return read_entries("shapes")


@cache
def requirements() -> dict[str, dict]:
    """Bytes that a catalog model needs at 4 bits, by shape; planning/build_requirements.py writes them."""
    return read_entries("requirements")


@cache
def data_sets() -> dict[str, dict]:
    """Every data set of the catalog by its id, each with a bundled "file" or a "hub" id."""
    return read_entries("data")


@cache
def column_names() -> dict[str, dict]:
    """Usual names of a data set's columns and of a message's keys, by what they hold: {"names": [...]}."""
    return read_entries("columns")


@cache
def role_names() -> dict[str, dict]:
    """Usual names of who speaks in a conversation, by role (system, user, assistant, call, result): {"names": [...]}.

    call: an answer that calls a tool; result: what the tool returned. user also has "questions", assistant "answers":
    those of the names that stand in lists of questions and answers rather than in conversations.
    """
    return read_entries("roles")


@cache
def verdicts() -> dict[str, dict]:
    """Usual values of a column that judges an answer, by "true" and "false": {"names": [...]}."""
    return read_entries("verdicts")


@cache
def split_values() -> dict[str, dict]:
    """Usual values of a column that splits a data set, by "train" and "held_out": {"names": [...]}."""
    return read_entries("splits")


@cache
def encodings() -> dict[str, dict]:
    """Encodings that are known by the characters most common in their language: {"common": the characters}."""
    return read_entries("encodings")


@cache
def option_labels() -> dict[str, dict]:
    """Series of labels of a question's options, in order: {"names": [...]}."""
    return read_entries("option_labels")


@cache
def presets() -> dict[str, dict]:
    """Presets by id: {"settings": {group: {field: value}}} over the defaults."""
    return read_entries("presets")


def first_plan() -> dict:
    """What the Plan tab opens with: {"card", "context" (tokens), "settings": {group: {field: value}}}."""
    return read_entries("plans")["first"]


@cache
def setups() -> dict[str, dict]:
    """GPUs of which a paper says what runs on them, by id.

    {"name", "count" (GPUs), "gib" (of each), "paper" ({bits: the largest models that run there}), "source"}.
    """
    return read_entries("setups")


@cache
def prompts() -> dict[str, dict]:
    """Example prompts by id: {"prompts": {language: [...]}}."""
    return read_entries("prompts")


def display_name(model: str) -> str:
    """A model's name in the catalog, or else the last part of its id or folder."""
    entry = models().get(model) or shapes().get(model)
    return entry["name"] if entry else model.rstrip("/").rsplit("/", 1)[-1]


def shape_of(model: str) -> dict | None:
    """The shape of a catalog model, or the shape of that id; None if there is neither."""
    entry = models().get(model)
    return shapes().get(entry["shape"] if entry else model)


def source_of(entry: dict, kind: str) -> Any:
    """The value of an entry's first source of that kind ("hub", "folder", "wheels"), or None."""
    return next((source[kind] for source in entry["sources"] if kind in source), None)


def offline_models() -> list[str]:
    """The ids of the models that need no model hub."""
    return [name for name, entry in models().items() if source_of(entry, "wheels")]


def read_entries(name: str) -> dict[str, dict]:
    """The entries of `assets/catalog/<name>.json` by their "id"."""
    entries = json.loads((ASSETS / "catalog" / f"{name}.json").read_text(encoding="utf-8"))
    return {entry["id"]: entry for entry in entries}
