"""A browser that reloads the page again and again while a fine-tune runs: it shows the run, and nothing stays open."""

import psutil
from actions import LONG, open_page, open_tab, start_fine_tune, wait_until_idle
from playwright.sync_api import expect

from playground.i18n import translate

RELOADS = 12
PAUSE = 1000  # ms


def test_a_page_that_is_reloaded_every_second_follows_the_run_and_leaves_nothing_open(browser, app):
    with open_page(browser, app) as page:
        wait_until_idle(page)
        run = start_fine_tune(page, app, "1000")
        process = psutil.Process(app.process.pid)
        page.reload()
        expect(page.locator(".live .step, .live .amount").first).not_to_be_empty(timeout=LONG)
        before = process.num_fds(), process.num_threads()
        for _ in range(RELOADS):
            page.reload(wait_until="commit")
            page.wait_for_timeout(PAUSE)
        open_tab(page, "tab.tune")
        expect(page.locator(".live .phase")).to_have_text(translate("en", "phase.train"), timeout=LONG)
        after = process.num_fds(), process.num_threads()  # of memory, Gradio keeps 1.5 MiB a session, 256 at most
        assert all(now - then < RELOADS for now, then in zip(after, before)), (before, after)
        page.locator("#stop").click()
        wait_until_idle(page)
        assert (run / "adapter" / "adapter_config.json").is_file()
