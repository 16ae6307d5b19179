"""Every private or fragile API of Trackio that this program relies on; Trackio is optional and imported on use.

Trackio has no public call that writes a run of the past with its own times, so its storage is called. Tested with 0.43:
tests/unit/test_trackio.py fails with the library's name where that changes.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

Row = tuple[int, str, dict[str, float]]  # a step, its time in ISO 8601, the metrics
Sample = tuple[str, dict[str, float]]  # a time in ISO 8601, the metrics


def is_installed() -> bool:
    """Whether Trackio can be imported; doesn't import it."""
    return importlib.util.find_spec("trackio") is not None


def folder() -> str:
    """The folder of Trackio's databases: TRACKIO_DIR, else in the Hugging Face cache."""
    from trackio import utils

    return str(utils.TRACKIO_DIR)


def run_config(project: str, run_id: str) -> dict[str, Any] | None:
    """The config of a run, or None where the project has no run of that id."""
    return _local_storage().get_run_config(project, run_id=run_id)


def replace_run(
    project: str, run_id: str, name: str, config: dict[str, Any], rows: Sequence[Row], samples: Sequence[Sample]
) -> None:
    """Write a run, in place of an earlier one of the same id.

    Raises ValueError for a project name that Trackio reserves, OSError or sqlite3.Error where it can't be written.
    """
    storage = _local_storage()
    storage.validate_project_name(project)
    if storage.get_run_config(project, run_id=run_id) is not None and not storage.delete_run(project, name, run_id):
        raise OSError(f"Trackio couldn't remove the run {run_id} from its database")
    times, memory = [time for time, _ in samples], [values for _, values in samples]
    storage.bulk_log_system(project, name, memory, times, run_id=run_id)
    steps, times = [step for step, _, _ in rows], [time for _, time, _ in rows]
    metrics = [values for _, _, values in rows]
    storage.bulk_log(project, name, metrics, steps, times, config, run_id=run_id)


def _local_storage() -> Any:
    """Trackio's storage, kept to this machine: a project whose home is a bucket of the Hub isn't loaded from there."""
    from trackio.sqlite_storage import SQLiteStorage

    SQLiteStorage._dataset_import_attempted = True
    return SQLiteStorage
