"""Make a PNG of a result card with a browser that is on this machine: Chrome, Chromium or Edge, without a window."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from playground.errors import problem
from playground.share.files import named_failure, partial_of

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge")
PLACES = (  # where the installers of macOS and Windows put them
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
SECONDS = 90  # until a browser that hangs is ended
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # in a container it holds 64 MB, too little for a page
    "--disable-background-networking",  # nothing is asked of a network for a card
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
)
PNG_START = b"\x89PNG\r\n"


def find_browser() -> str | None:
    """The path of a browser that can draw without a window, or None."""
    found = (shutil.which(name) for name in NAMES)
    return next((path for path in found if path), None) or next((p for p in PLACES if Path(p).is_file()), None)


def write_png(page: str, path: Path, width: int, height: int) -> None:
    """Draw an HTML page of this size into a PNG file, which is whole or absent.

    Raises PlaygroundError where there is no browser, or it draws nothing.
    """
    browser = find_browser()
    if browser is None:
        raise problem("card.error.browser")
    with tempfile.TemporaryDirectory(prefix="playground-card-", ignore_cleanup_errors=True) as folder:
        source, drawn = Path(folder) / "card.html", Path(folder) / "card.png"
        source.write_text(page, encoding="utf-8")
        flags = [*FLAGS, f"--user-data-dir={folder}/p"]
        flags += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # as root it won't start
        command = [browser, *flags, f"--window-size={width},{height}", f"--screenshot={drawn}", source.as_uri()]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=SECONDS)
            detail = ended.stderr.decode(errors="replace").strip().split("\n")[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            detail = str(error)
        if not drawn.is_file() or not drawn.read_bytes().startswith(PNG_START):
            raise problem("card.error.png", browser=Path(browser).name, detail=detail[:200])
        with named_failure(path), partial_of(path) as partial:
            shutil.copyfile(drawn, partial)
