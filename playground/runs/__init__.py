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
    delete,
    find,
    history,
    last_result,
    measured_speed,
    seconds_besides_training,
    summary,
)

__all__ = [
    "RUN_ID",
    "SCHEMA",
    "NullRun",
    "Run",
    "RunSummary",
    "create",
    "delete",
    "find",
    "history",
    "last_result",
    "measured_speed",
    "seconds_besides_training",
    "summary",
]
