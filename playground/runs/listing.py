"""List the runs of a folder, newest first, and find what was measured in them."""

import os
import stat
import time
from functools import lru_cache
from pathlib import Path

from playground.runs.index import SETTLED_SECONDS, State, damaged, index_of, with_folder
from playground.runs.label import FILE as LABEL
from playground.runs.label import Label, read_label
from playground.runs.store import RUN_ID, TRASH, find
from playground.runs.summary import RunSummary

EVENTS, SETTINGS = "events.jsonl", "settings.json"


def history(root: Path) -> list[RunSummary]:
    """Every run under `root`, newest first; of one whose events can't be read, that it is damaged.

    A folder that is being deleted, or is no run's, is left out.
    """
    try:
        ids = [entry.name for entry in os.scandir(root) if RUN_ID.fullmatch(entry.name)]
    except OSError:
        return []
    folders = {run_id: found for run_id in ids if (found := _look_into(os.path.join(root, run_id)))}
    states = {run_id: state for run_id, (state, _) in folders.items() if isinstance(state, tuple)}
    summaries = index_of(root).summaries(states, kept=root.name != TRASH)
    return [
        with_folder(
            damaged(run_id, state) if isinstance(state, Exception) else summaries[run_id],
            names,
            _label(os.path.join(root, run_id), names),
        )
        for run_id, (state, names) in sorted(folders.items(), reverse=True)
    ]


def measured_here(root: Path) -> list[RunSummary]:
    """Every run under `root` that this machine did, newest first: not the recordings that were replayed."""
    return [run for run in history(root) if not run.recorded]


def summary(root: Path, run_id: str | None) -> RunSummary:
    """The run of that id at a glance. Raises PlaygroundError as `find` does."""
    run = find(root, run_id)
    found = _look_into(str(run.folder))
    state, names = found or ((0, 0), [])
    known = damaged(run.id, state) if isinstance(state, Exception) else index_of(root).summary(run.id, state)
    return with_folder(known, names, _label(str(run.folder), names))


def measured_speed(root: Path, model: str, bits: int, hardware: str) -> dict | None:
    """{"run", "tokens_per_s"} of the last completed fine-tune of this model at these bits on hardware of that name."""
    for run in measured_here(root):
        is_same = (run.job, run.state, run.model, run.bits) == ("tune", "done", model, bits)
        if is_same and run.result.get("tokens_per_s") and run.hardware.get("name") == hardware:
            return {"run": run.id, "tokens_per_s": run.result["tokens_per_s"]}
    return None


def _look_into(folder: str) -> tuple[State | Exception, list[str]] | None:
    """The state of a run's events, or why they can't be read, and the names in its folder; None where there is no run.

    A run that begins has its settings for an instant before it has events: only what is older counts as damaged.
    """
    names: list[str] = []
    try:
        names = os.listdir(folder)
        events = os.stat(os.path.join(folder, EVENTS))
        if stat.S_ISREG(events.st_mode):
            return (events.st_size, events.st_mtime_ns), names
        return OSError(f"{EVENTS} is no file"), names
    except (FileNotFoundError, NotADirectoryError) as error:
        is_run = EVENTS in names or (SETTINGS in names and _age(folder) > SETTLED_SECONDS)
        return (OSError(f"{EVENTS}: {error.strerror}"), names) if is_run else None
    except OSError as error:
        return OSError(str(error.strerror)), names


def _age(folder: str) -> float:
    """Seconds since something was made or removed in a folder."""
    try:
        return time.time() - os.stat(folder).st_mtime
    except OSError:
        return 0.0


def _label(folder: str, names: list[str]) -> Label:
    if LABEL not in names:
        return Label()
    try:
        file = os.stat(os.path.join(folder, LABEL))
    except OSError:
        return Label()
    if not stat.S_ISREG(file.st_mode):  # opening a pipe would wait for ever
        return Label()
    return _read_label(folder, file.st_mtime_ns, file.st_size, file.st_ino)


@lru_cache(maxsize=20_000)
def _read_label(folder: str, modified: int, size: int, inode: int) -> Label:
    """A label, read once for each state of its file."""
    return read_label(folder)
