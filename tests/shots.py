"""Take a picture of every tab of the page in both languages: `python tests/shots.py [--runs DIR] [--out DIR]`.

Shows the newest run of `--runs` (a folder of runs, such as the app's own), if there is one. Needs a chromium.
"""

import argparse
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))  # the package, also where it is not installed

TABS = ("start", "plan", "load", "data", "tune", "chat", "lab", "talk", "runs", "take")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (runs)")
    parser.add_argument("--out", type=Path, default=Path("shots"), help="folder for the pictures (shots)")
    parser.add_argument("--port", type=int, default=7869)
    options = parser.parse_args()
    command = [sys.executable, "app.py", "--port", str(options.port), "--runs", str(options.runs.resolve())]
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"}
    app = subprocess.Popen(command, cwd=PROJECT, env=environment)
    try:
        url = f"http://127.0.0.1:{options.port}"
        wait_for(url, app)
        options.out.mkdir(parents=True, exist_ok=True)
        take_pictures(url, options.out)
    finally:
        app.terminate()
        app.wait(30)


def wait_for(url: str, app: subprocess.Popen, seconds: int = 120) -> None:
    """Wait until the page answers. Raises RuntimeError if it ends or takes longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and app.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} didn't answer within {seconds} s")


def take_pictures(url: str, out: Path) -> None:
    """Save <tab>.<language>.png of every tab of the page at `url`."""
    import shutil

    from playwright.sync_api import sync_playwright

    from playground.i18n import LANGUAGES, translate

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for lang in LANGUAGES:
            page = browser.new_page(viewport={"width": 1440, "height": 900}, locale=lang)
            page.goto(url if lang == "en" else f"{url}/{lang}")
            for tab in TABS:
                page.get_by_role("tab", name=translate(lang, f"tab.{tab}")).click()
                page.wait_for_timeout(3000)  # figures are drawn once their answers have come
                page.screenshot(path=out / f"{tab}.{lang}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
