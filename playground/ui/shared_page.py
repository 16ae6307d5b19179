"""What a page that strangers open needs besides: who is who, their files, limits, and processes without rights.

The engine and the planner get no token of the owner, and work in an empty folder, so that no name leads to a file of
the machine: "name/set" is the hub's, whatever folders there are.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from starlette.middleware import Middleware

from playground import catalog
from playground.engine.client import Engine
from playground.planning.client import Planner
from playground.runs.store import VISITORS
from playground.settings.limits import SHARED, Limits
from playground.ui import downloads
from playground.ui.live_view import STATIC
from playground.ui.visitor_files import VisitorFiles
from playground.ui.visitor_logins import VisitorLogins
from playground.ui.visitor_pace import VisitorPace
from playground.ui.visitors import Visitors, read_secret
from playground.ui.workspaces import Workspace, Workspaces

NO_TOKEN = {
    "HF_TOKEN": "",
    "HUGGING_FACE_HUB_TOKEN": "",
    "HF_TOKEN_PATH": os.devnull,
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}
FOLDERS = ("PLAYGROUND_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRITON_CACHE_DIR")


class SharedPage:
    """The parts that a page for strangers adds. root: the folder of the owner's runs, in which visitors have theirs."""

    def __init__(self, root: Path) -> None:
        self.limits = Limits.from_environment()
        self.folder = Path(tempfile.mkdtemp(prefix="playground-empty-"))
        atexit.register(self.close)
        absolute = {name: os.path.abspath(os.environ[name]) for name in FOLDERS if os.environ.get(name)}
        absolute.setdefault("PLAYGROUND_CACHE", str(catalog.cache_folder().resolve()))
        self.environment = {SHARED: "1", **NO_TOKEN, **absolute}
        self.spaces: Workspaces | None = None
        self._files = VisitorFiles(STATIC, self.limits.disk)
        self._root = root

    def close(self) -> None:
        """Remove the empty folder: at the end of the process, which after a signal calls no atexit."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def workspaces(self, engine: Engine, planner: Planner) -> Callable[[], Workspace]:
        """Returns what finds the workspace of the visitor whose request is being answered."""
        self.spaces = Workspaces(self._root, engine, planner, self.limits, self._forget)
        return self.spaces.current

    def _forget(self, visitor: str) -> None:
        """Forget a visitor whose runs are gone, and what was made of them for downloads."""
        self._files.forget(visitor)
        downloads.remove(visitor)

    def middleware(self) -> Middleware:
        """The middleware that finds each request's visitor."""
        pace = VisitorPace(self.limits.calls, self.limits.newcomers, self._has_runs)
        secret, logins = read_secret(self._root / VISITORS), VisitorLogins(self._has_runs)
        return Middleware(Visitors, secret=secret, files=self._files, pace=pace, logins=logins)

    def _has_runs(self, visitor: str) -> bool:
        return (self._root / VISITORS / visitor).is_dir()
