"""A page over a folder of runs without an engine, for tests of what it reads and refuses."""

from pathlib import Path
from typing import Any

from playground.settings import Settings
from playground.settings.limits import Limits
from playground.ui.page import Page
from playground.ui.workspaces import Workspace


def page_over(root: Path, lang: str = "en", private: bool = False, planner: Any = None, visitor: str = "") -> Page:
    """A page of that visitor, with the limits of a shared page unless it is private."""
    workspace = Workspace(visitor, root, None, planner)  # type: ignore[arg-type]
    return Page(lang, lambda: workspace, Settings(), private, None if private else Limits())
