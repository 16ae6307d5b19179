"""Runs: one folder a run, its events and files, and how predictions compared with measurements over all runs.

May import: settings, errors, i18n. Imports no torch.
"""

from playground.runs.index import damaged
from playground.runs.interrupted import interrupted, put_back_all_spares, put_back_spares, record_death
from playground.runs.label import Label, read_label, write_label
from playground.runs.listing import history, measured_speed, newest, summary
from playground.runs.lock import held_problem, is_held, is_written_to, locked
from playground.runs.store import (
    RUN_ID,
    SCHEMA,
    NullRun,
    Run,
    create,
    find,
    last_result,
    seconds_besides_training,
)
from playground.runs.summary import RunSummary
from playground.runs.trash import delete, deleted, empty_trash, restore, with_deleted

__all__ = [
    "RUN_ID",
    "SCHEMA",
    "Label",
    "NullRun",
    "Run",
    "RunSummary",
    "create",
    "damaged",
    "delete",
    "deleted",
    "empty_trash",
    "find",
    "held_problem",
    "history",
    "interrupted",
    "is_held",
    "is_written_to",
    "last_result",
    "locked",
    "measured_speed",
    "newest",
    "put_back_all_spares",
    "put_back_spares",
    "read_label",
    "record_death",
    "restore",
    "seconds_besides_training",
    "summary",
    "with_deleted",
    "write_label",
]
