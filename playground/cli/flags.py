"""Settings as flags: one for every field, and the settings that the given ones make."""

import argparse
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from playground import catalog, settings
from playground.i18n import translate
from playground.settings.flags import flag_name

GROUPS = {"load": settings.Load, "data": settings.Data, "lora": settings.Lora, "train": settings.Train}
METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}  # of a flag's value, by its type


def settings_of(options: argparse.Namespace) -> settings.Settings:
    """A preset or the settings file, under the flags; with neither, the demo's preset."""
    base = settings.Settings()
    if options.preset or options.settings is None:
        base = base.with_values(catalog.presets()[options.preset or "demo-en"]["settings"])
    if options.settings is not None:
        base = settings.read_file(Path(options.settings), options.settings, base)
    return settings.parse(flags_by_group(options), base)


def flags_by_group(options: argparse.Namespace) -> dict[str, dict]:
    """The values of all settings' flags that were given, by group."""
    return {group: flag_values(options, group, kind) for group, kind in GROUPS.items()}


def flag_values(options: argparse.Namespace, group: str, kind: type) -> dict[str, Any]:
    """{field: value} of the flags of a settings group that were given."""
    flags = {field.name: getattr(options, f"{group}__{field.name}", None) for field in fields(kind)}
    return {name: value for name, value in flags.items() if value is not None}


def add_settings_flags(command: argparse.ArgumentParser) -> None:
    """Flags for all settings."""
    for group, kind in GROUPS.items():
        add_flags(command.add_argument_group(group), group, kind)


def add_flags(command: Any, group: str, kind: type, without: Collection[str] = ()) -> None:
    """A flag for every field of a settings group but those in `without`, its help from the words table."""
    for field in fields(kind):
        if field.name in without:
            continue
        options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if field.type is not bool:
            options = {"type": field.type, "metavar": METAVARS[field.type]}
        info = translate("en", f"{group}.{field.name}.info").replace("%", "%%")
        command.add_argument(flag_name(group, field.name), dest=f"{group}__{field.name}", help=info, **options)
