"""Describe an adapter from elsewhere, and whether it fits a base model, before anything but the adapter is fetched."""

import threading

from playground.errors import PlaygroundError
from playground.model.adapter_check import base_name, check_fit
from playground.model.adapter_file import read_adapter
from playground.model.adapter_folder import base_model
from playground.model.adapter_source import fetch_adapter
from playground.model.source import config_available
from playground.predict import meta_model


def describe_adapter(adapter: str, model: str) -> dict:
    """What an adapter is and whether it fits a model. adapter: a folder or hub id; model: as settings name it.

    Returns {"base" (the model that it names, as settings name it; "" where that isn't on this machine), "trained_on"
    (its name to show), "r", "layers" (how many), "notes" (as events), "misfit" (a PlaygroundError as a dict, or None)}.
    Raises PlaygroundError for an adapter that can't be read.
    """
    steps = fetch_adapter(adapter, threading.Event())
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = read_adapter(end.value)
            break
    try:
        base = base_model(found.folder)
    except PlaygroundError:
        base = ""
    notes, misfit = list(found.notes), None
    try:
        if config_available(model):
            notes += check_fit(found, meta_model.config_of(model), model)
    except PlaygroundError as error:
        misfit = error.to_dict()
    facts = {"base": base, "trained_on": base_name(found.trained_on), "r": found.config.r, "layers": len(found.layers)}
    return facts | {"notes": notes, "misfit": misfit}
