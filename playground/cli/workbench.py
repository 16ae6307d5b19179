"""The workbench of a command, whose libraries are imported first and fast."""

from pathlib import Path
from typing import TYPE_CHECKING

from playground import catalog, compat

if TYPE_CHECKING:
    from playground.engine.workbench import Workbench


def open_workbench(root: Path) -> "Workbench":
    """A workbench on the folder of the runs, which takes seconds the first time: it imports torch."""
    compat.import_libraries(catalog.cache_folder())
    from playground.engine.workbench import Workbench

    return Workbench(root)
