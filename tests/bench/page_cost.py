"""What the page's scripts compute in the browser, with Gradio's own and with those that the program serves instead.

    python tests/bench/page_cost.py        # two arms, in turn, about three minutes a round

One arm serves Gradio's scripts as they are, the other those of playground/ui/quick_scripts.py. Each opens the page in
Chromium, visits ten tabs, fine-tunes a toy model for a few steps and lets it answer with 200 tokens. Seconds of a
processor that the page's main thread took (Chromium's `TaskDuration` in thread time, which other programs barely
change): open_s, tabs_s, tune_s, chat_s. load_average: of the machine.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import arms

LIBRARIES = ("gradio", "playwright", "torch")
SERVED = "PAGE_COST_ARM"  # the arm, in the process that serves its page
PLAIN, QUICK = "Gradio's scripts", "this program's"
TOKENS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/page_cost.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    rounds = []
    for number in range(1, options.rounds + 1):
        for arm in (PLAIN, QUICK):
            rounds.append({"round": number, "arm": arm, **_measure(arm)})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    report = arms.report("processor seconds of the page in a browser", LIBRARIES, rounds, hardware=hardware("cpu"))
    arms.write(options.out, report)
    print(arms.table(report["medians"], dict.fromkeys(("open_s", "tabs_s", "tune_s", "chat_s"), "{:.1f}")))


def _measure(arm: str) -> dict[str, float]:
    """The figures of one arm, on a page of its own with an engine of its own."""
    sys.path[:0] = [str(arms.PROJECT / "tests"), str(arms.PROJECT / "tests" / "ui")]
    import toys
    from actions import (
        TABS,
        choose_toy,
        limit_answers,
        open_tab,
        start_fine_tune,
        wait_until_answered,
        wait_until_tuned,
    )
    from playwright.sync_api import sync_playwright
    from served_app import ServedApp

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        model = toys.save(Path(folder) / "toy-llama", chat=True)
        app = ServedApp(Path(folder), {"HF_HUB_OFFLINE": "1", SERVED: arm}, script=str(Path(__file__).resolve()))
        app.model = model
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            app.wait_until_served()
            page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
            page.set_default_timeout(180_000)
            spent = _Spent(page)
            page.goto(app.url)
            page.get_by_role("tab").first.wait_for()
            spent.until("open_s")
            for name in TABS:
                open_tab(page, f"tab.{name}")
                page.wait_for_timeout(2_000)
            spent.until("tabs_s")
            start_fine_tune(page, app, "0.1")
            wait_until_tuned(page)
            spent.until("tune_s")
            choose_toy(page, app)
            open_tab(page, "tab.chat")
            limit_answers(page, TOKENS)
            spent.until("")
            page.locator("#question textarea").fill("Tell me everything.")
            page.locator("#question textarea").press("Enter")
            wait_until_answered(page)
            spent.until("chat_s")
            return {**spent.seconds, "load_average": round(os.getloadavg()[0], 1)}
        finally:
            browser.close()
            app.close()


class _Spent:
    """Processor seconds of a page's main thread between moments, by name."""

    def __init__(self, page: Any) -> None:
        self.seconds: dict[str, float] = {}
        self._page = page
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._before = 0.0

    def until(self, name: str) -> None:
        """Note what was spent since the last moment, once the page has come to rest; "" isn't kept."""
        self._page.wait_for_timeout(5_000)
        metrics = {one["name"]: one["value"] for one in self._session.send("Performance.getMetrics")["metrics"]}
        if name:
            self.seconds[name] = round(metrics["TaskDuration"] - self._before, 2)
        self._before = metrics["TaskDuration"]


def _serve() -> None:
    """`app.py`, which in the first arm leaves Gradio's scripts as they are."""
    sys.path.insert(0, str(arms.PROJECT))
    import app
    from playground.ui import quick_scripts

    if os.environ[SERVED] == PLAIN:
        quick_scripts.CHANGES = ()
    app.main()


if __name__ == "__main__":
    _serve() if SERVED in os.environ else main()
