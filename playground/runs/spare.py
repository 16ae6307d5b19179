"""Spare folders: what a run goes on to write where its own folder is full, read-only or gone, until it can be put back.

<temp>/playground-kept-<id>-XXXXXXXX/origin.json    {"root": the folder of the runs, "run": its id}
…/settings.json, events.jsonl                       the run's, with the events that couldn't be written
…/adapter/ or model/, checkpoint.pt                 what it has learned
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playground.json_values import read_small_json

PREFIX = "playground-kept-"
ORIGIN, EVENTS, SETTINGS = "origin.json", "events.jsonl", "settings.json"
LEARNED = ("adapter", "model", "checkpoint.pt")


def make_spare(folder: Path, settings: str) -> Path | None:
    """A new spare folder of the run in `folder`, which nobody else can write; None where there is no room for one."""
    try:
        spare = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{folder.name}-"))
        origin = {"root": str(folder.parent.resolve()), "run": folder.name}
        (spare / ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
        (spare / SETTINGS).write_text(settings, encoding="utf-8")
    except OSError:
        return None
    return spare


def spares(root: Path) -> list[tuple[str, Path]]:
    """(run, spare folder) of the runs in `root` that have one, by this user, the oldest first."""
    found = []
    with contextlib.suppress(OSError):
        for folder in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"), key=os.path.getmtime):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                    continue
                origin = read_small_json(folder / ORIGIN)
                if origin["root"] == str(root.resolve()):
                    found.append((str(origin["run"]), folder))
    return found


def holds_anything(spare: Path) -> bool:
    """Whether events or something learned lie in a spare folder."""
    return any((spare / name).exists() for name in (EVENTS, *LEARNED))


def put_back(root: Path, run: str, spare: Path) -> bool:
    """Move what a spare folder holds back into the run's folder; whether it worked. What doesn't fit yet stays there.

    What was written to the run's folder later, when that had room again, stays there instead. To be called while nobody
    writes to the run.
    """
    folder = root / run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (spare / EVENTS).is_file():
            _append_events(folder / EVENTS, (spare / EVENTS).read_bytes().splitlines(keepends=True))
        if not (folder / SETTINGS).is_file():
            shutil.copyfile(spare / SETTINGS, folder / SETTINGS)
        for name in LEARNED:
            if (spare / name).exists() and not _is_newer(folder / name, spare / name):
                _replace(spare / name, folder / name)
    except OSError:
        return False
    shutil.rmtree(spare, ignore_errors=True)
    return True


def _append_events(events: Path, lines: Sequence[bytes]) -> None:
    """Append the lines that aren't there yet; the first one, of the run's beginning, only to a run without events."""
    there = set(events.read_bytes().splitlines(keepends=True)) if events.is_file() else set()
    text = b"".join(line for number, line in enumerate(lines) if line not in there and (number or not there))
    with open(events, "ab") as file:
        file.write(text)


def _is_newer(path: Path, other: Path) -> bool:
    """Whether a file or folder is there and was written after the other one."""
    return path.exists() and path.stat().st_mtime_ns > other.stat().st_mtime_ns


def _replace(source: Path, target: Path) -> None:
    """Copy a file or folder beside its place first, so that the one before stays whole if the disk is full."""
    partial = target.with_name(f"{target.name}.partial")
    if source.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copyfile(source, partial)
    os.replace(partial, target)
