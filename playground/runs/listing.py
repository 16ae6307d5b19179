"""List the runs of a folder, newest first, and find what was measured in them."""

import os
import re
import stat
import time
from functools import lru_cache
from pathlib import Path

from playground.errors import PlaygroundError
from playground.runs.index import MANY, SETTLED_SECONDS, State, damaged, index_of, with_folder
from playground.runs.label import FILE as LABEL
from playground.runs.label import Label, read_label
from playground.runs.store import RUN_ID, TRASH, find
from playground.runs.summary import RunSummary

EVENTS, SETTINGS = "events.jsonl", "settings.json"
TUNE_ID = re.compile(r"\d{8}-\d{6}-tune(-|$)")  # of a fine-tune, as `create` in store.py names it

Folders = dict[str, tuple[State | Exception, list[str]]]  # by id: the state of a run's events, the names in its folder


def history(root: Path) -> list[RunSummary]:
    """Every run under `root`, newest first; of one whose events can't be read, that it is damaged.

    A folder that is being deleted, or is no run's, is left out.
    """
    return _all_summaries(root, _folders(root))


def _all_summaries(root: Path, folders: Folders) -> list[RunSummary]:
    summaries = index_of(root).summaries(_states(folders), kept=root.name != TRASH)
    return [_summary(root, run_id, folders, summaries) for run_id in sorted(folders, reverse=True)]


def newest(root: Path, rows: int) -> tuple[list[RunSummary], dict[str, int] | None]:
    """What a list's first page shows within a second, however many runs were never read: the newest, and how many more.

    Every run as from `history` and None, where nearly all of them are in the index. Else only the newest `rows` of the
    fine-tunes and of the other runs, and the count of both, {"tunes", "others"}, all by the folders' names. A folder
    that was renamed by hand stands in another place until `history` has read its run.
    """
    folders = _folders(root)
    states, index = _states(folders), index_of(root)
    if index.count_unread(states) <= MANY:
        return _all_summaries(root, folders), None
    groups: dict[str, list[str]] = {"tunes": [], "others": []}
    for run_id in sorted(folders, reverse=True):
        groups["tunes" if TUNE_ID.match(run_id) else "others"].append(run_id)
    shown = sorted((run_id for ids in groups.values() for run_id in ids[:rows]), reverse=True)
    summaries = {run_id: index.summary(run_id, states[run_id]) for run_id in shown if run_id in states}
    return [_summary(root, run_id, folders, summaries) for run_id in shown], {g: len(ids) for g, ids in groups.items()}


def _folders(root: Path) -> Folders:
    try:
        ids = [entry.name for entry in os.scandir(root) if RUN_ID.fullmatch(entry.name)]
    except OSError:
        return {}
    return {run_id: found for run_id in ids if (found := _look_into(os.path.join(root, run_id)))}


def _states(folders: Folders) -> dict[str, State]:
    """The states of the runs whose events can be read."""
    return {run_id: state for run_id, (state, _) in folders.items() if isinstance(state, tuple)}


def _summary(root: Path, run_id: str, folders: Folders, summaries: dict[str, RunSummary]) -> RunSummary:
    """A run's summary with what lies in its folder; of one whose events can't be read, that it is damaged."""
    state, names = folders[run_id]
    known = damaged(run_id, state) if isinstance(state, Exception) else summaries[run_id]
    return with_folder(known, names, _label(os.path.join(root, run_id), names))


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
    """{"run", "tokens_per_s", "streamed" (layers)} of the last completed fine-tune of this model at these bits there.

    hardware: its name. Not of one in several processes.
    """
    for run in measured_here(root):
        is_same = (run.job, run.state, run.model, run.bits) == ("tune", "done", model, bits)
        is_same = is_same and run.hardware.get("name") == hardware
        if is_same and run.result.get("tokens_per_s") and _was_alone(root, run):
            predicted = (run.memory.get("tune") or {}).get("predicted") or {}
            streamed = predicted.get("streamed_layers", 0)
            return {"run": run.id, "tokens_per_s": run.result["tokens_per_s"], "streamed": streamed}
    return None


def _was_alone(root: Path, run: RunSummary) -> bool:
    """Whether a run was one process, as far as its settings can be read."""
    try:
        return find(root, run.id).settings().train.num_processes == 1
    except PlaygroundError:
        return False


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
    """Seconds since something was made or removed in a folder, or until then where a clock was set back meanwhile."""
    try:
        return abs(time.time() - os.stat(folder).st_mtime)
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
