"""The command lines that repeat a run: `python -m playground tune …`, and the same on several devices."""

import json
import shlex
from dataclasses import fields, replace
from typing import Any

from playground import catalog
from playground.settings import SCHEMA, Settings
from playground.settings.flags import flag_name

SETTINGS_FILE = "settings.json"  # what a command reads that can't be written in one line
MODULE = ("-m", "playground", "tune")
MAX_LENGTH = 2000  # characters of a command line: cmd.exe takes 8,191 and a terminal should stay readable


def settings_text(settings: Settings) -> str:
    """Settings as the text of a settings file, which the page and `tune --settings` read."""
    return json.dumps({"schema": SCHEMA, **settings.to_dict()}, ensure_ascii=False, indent=1) + "\n"


def tune_command(settings: Settings) -> str:
    """`python -m playground tune` with the flags whose values aren't the command's own defaults.

    With `--settings settings.json` alone where a value has several lines, or all of them are too long for one.
    """
    return shlex.join(["python", *MODULE, *_arguments(settings)])


def accelerate_command(settings: Settings, device: str) -> str:
    """The same fine-tune on several devices. device: "cuda" or "cpu", of the run."""
    processes, config = _processes(settings), f"assets/accelerate/{settings.train.parallel}.yaml"
    settings = replace(settings, train=replace(settings.train, num_processes=1, parallel="ddp"))  # the launcher's flags
    if device == "cpu" and settings.load.device == "auto":
        settings = replace(settings, load=replace(settings.load, device="cpu"))
    launch = ["accelerate", "launch", "--num_processes", str(processes), "--config_file", config]
    return shlex.join([*launch, *MODULE, *_arguments(settings)])


def needs_settings_file(settings: Settings) -> bool:
    """Whether the command lines read a settings file."""
    flags = _flags(settings)
    return any("\n" in flag or "\r" in flag for flag in flags) or len(shlex.join(flags)) > MAX_LENGTH


def _arguments(settings: Settings) -> list[str]:
    if needs_settings_file(settings):
        return ["--settings", SETTINGS_FILE]
    return _flags(settings)


def _flags(settings: Settings) -> list[str]:
    """The flags that differ from what `tune` does without any, which is the English demo."""
    base = Settings().with_values(catalog.presets()["demo-en"]["settings"])
    flags: list[str] = []
    for group in fields(settings):
        chosen, default = getattr(settings, group.name), getattr(base, group.name)
        for field in fields(chosen):
            value = getattr(chosen, field.name)
            if value != getattr(default, field.name):
                flags += _flag(flag_name(group.name, field.name), value)
    return flags


def _flag(name: str, value: Any) -> list[str]:
    """One flag with its value; joined by "=" where the value itself looks like a flag."""
    if isinstance(value, bool):
        return [name if value else name.replace("--", "--no-", 1)]
    text = str(value)
    return [f"{name}={text}"] if text.startswith("-") else [name, text]


def _processes(settings: Settings) -> int:
    """The processes of the run, else the least devices from 2 on that divide a step's rows; 1 where none do."""
    if settings.train.num_processes > 1:
        return settings.train.num_processes
    rows, micro_batch = settings.train.batch_size, settings.train.micro_batch_size or 1
    return next((count for count in (2, 3, 4, 5, 6, 7, 8) if rows % (micro_batch * count) == 0), 1)
