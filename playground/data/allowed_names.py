"""Models, data sets and adapters that a page which strangers open may name: of the catalog or a hub, and uploads.

The page checks what a form holds, and its processes check the settings of each job and question again: those of a run
come from a file, which may have been written anywhere.
"""

import re
from dataclasses import replace
from typing import Any

from playground import catalog
from playground.catalog.machine_paths import is_machine_path
from playground.data.uploads import belongs_to, is_upload
from playground.errors import Problem
from playground.settings import Settings, raise_all
from playground.settings.limits import beyond_limits, current_limits


def forbidden_sources(model: str, source: str, visitor: str | None = None) -> list[Problem]:
    """A Problem for the model and for the data set, where it names a path of this machine, or another one's upload.

    visitor: whose uploads are allowed; None: anyone's, of a run that was started by the right one.
    """
    listed = {
        "load.model": (model, catalog.models()),
        "data.source": (source, catalog.data_sets()),
    }
    return [
        Problem("problem.not_here", {"field": field, "value": name[:120]})
        for field, (name, entries) in listed.items()
        if name not in entries and not _is_allowed(name, visitor)
    ]


def forbidden_adapter(name: str) -> list[Problem]:
    """A Problem for an adapter from elsewhere that isn't a hub id, or that a folder of this machine has the name of."""
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) and not is_machine_path(name):
        return []
    return [Problem("problem.adapter_not_here", {"value": name[:120]})]


def checked_settings(settings: Settings, fine_tunes: bool = False) -> Settings:
    """The settings as a process may use them: on a shared page, without `force`.

    fine_tunes: whether the limits of a fine-tune hold too. Raises PlaygroundError with all that a shared page forbids;
    elsewhere nothing is forbidden.
    """
    limits = current_limits()
    if limits is None:
        return settings
    settings = replace(settings, load=replace(settings.load, force=False))
    raise_all(
        [
            *forbidden_sources(settings.load.model.strip(), settings.data.source.strip()),
            *_forbidden_start(settings.lora.start_from),
            *(beyond_limits(settings, limits) if fine_tunes else []),
        ]
    )
    return settings


def raise_if_names_forbidden(arguments: dict[str, Any]) -> None:
    """Raise PlaygroundError where a question's "model" or "adapter" is none that a shared page may name."""
    if current_limits() is None:
        return
    if model := str(arguments.get("model") or "").strip():
        raise_all(forbidden_sources(model, next(iter(catalog.data_sets()))))
    if adapter := str(arguments.get("adapter") or ""):
        raise_all(forbidden_adapter(adapter))


def _forbidden_start(start_from: str) -> list[Problem]:
    """A Problem where the adapter to continue is named by a path: the id of a run has no separators."""
    if re.fullmatch(r"[\w.-]*", start_from, re.ASCII) and not start_from.startswith("."):
        return []
    return [Problem("problem.not_here", {"field": "lora.start_from", "value": start_from[:120]})]


def _is_allowed(name: str, visitor: str | None) -> bool:
    """Whether a name is an upload of this visitor, or no path."""
    if name.startswith("upload:"):
        return is_upload(name) and (visitor is None or belongs_to(name, visitor))
    return not is_machine_path(name)
