"""The end of the page's process: the engine keeps what a job has learned, and no process is left."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from gradio.tunneling import CURRENT_TUNNELS

from playground.ending import ENDING
from playground.engine.client import END_SECONDS
from playground.ui import downloads


@contextlib.contextmanager
def ending_in_order(app: Any) -> Iterator[threading.Event]:
    """Within it, a signal sets the event. app: of build_app. At its end, all other processes end, and then this one.

    The page's own threads aren't waited for: open pages keep the server's for many seconds.
    """
    ended = threading.Event()
    try:
        with ENDING.work(lambda cause: ended.set(), grace=2 * END_SECONDS, abort=app.engine.kill):
            yield ended
            app.engine.close(ENDING.cause)
            for tunnel in CURRENT_TUNNELS:
                tunnel.kill()
            sys.stdout.flush()
    finally:
        app.planner.close()
        if ENDING.cause:
            _remove_folders(app)
            os._exit(ENDING.status)
        app.engine.close()


def _remove_folders(app: Any) -> None:
    """Remove the temporary folders of the page's process, which atexit would remove at another end."""
    downloads.remove_all()
    if app.shared:
        app.shared.close()
