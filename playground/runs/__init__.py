"""Runs: one folder a run, its events and files, and how predictions compared with measurements over all runs.

May import: settings, errors, i18n. Imports no torch.
"""

from playground.runs.store import (
    RUN_ID,
    SCHEMA,
    NullRun,
    Run,
    RunSummary,
    create,
    find,
    history,
    is_resumable,
    is_written_to,
    last_result,
    measured_speed,
    seconds_besides_training,
    summary,
)
from playground.runs.trash import delete, deleted, empty_trash, restore

__all__ = [
    "RUN_ID",
    "SCHEMA",
    "NullRun",
    "Run",
    "RunSummary",
    "create",
    "delete",
    "deleted",
    "empty_trash",
    "find",
    "history",
    "is_resumable",
    "is_written_to",
    "last_result",
    "measured_speed",
    "restore",
    "seconds_besides_training",
    "summary",
]
