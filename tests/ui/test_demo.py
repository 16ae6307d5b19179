"""The guided demo from its button to both answers, by keyboard alone, in both languages."""

import os

import pytest
from actions import LONG, open_page, open_tab
from playwright.sync_api import expect
from served_app import ServedApp
from toys import PROJECT

from playground import runs
from playground.i18n import translate
from playground.ui.run_names import adapter_name


@pytest.fixture(scope="module")
def demo_app(tmp_path_factory, toy_chat_model):
    folder = tmp_path_factory.mktemp("demo")
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    values = {"PLAYGROUND_CACHE": str(folder / "cache"), "TOY_MODEL": str(toy_chat_model), "PYTHONPATH": path}
    running = ServedApp(folder, values, "tests/ui/demo_app.py")
    running.wait_until_served()
    yield running
    running.close()


@pytest.mark.parametrize("lang", ["en", pytest.param("ja", marks=pytest.mark.exhaustive)])
def test_the_demo_ends_in_compare_with_the_adapter_that_it_trained(browser, demo_app, lang):
    with open_page(browser, demo_app, "" if lang == "en" else f"/{lang}") as page:
        page.locator("#teach").wait_for()
        page.locator("#teach").focus()
        page.keyboard.press("Enter")
        steps = page.locator(".story li")
        expect(steps).to_have_count(4, timeout=LONG)
        compare = page.get_by_role("tab", name=translate(lang, "tab.chat"))
        expect(compare).to_have_attribute("aria-selected", "true", timeout=LONG)
        expect(page.locator(".answer.side-tuned").first).to_be_visible()
        adapter = page.get_by_label(translate(lang, "chat.adapter"), exact=True)
        newest = next(run for run in runs.history(demo_app.runs) if run.has_adapter)
        expect(adapter).to_have_value(adapter_name(lang, newest), timeout=LONG)
        expect(page.get_by_text(translate(lang, "chat.no_adapter", tab=translate(lang, "tab.tune")))).to_be_hidden()
        open_tab(page, "tab.start", lang)
        for step in range(4):
            expect(steps.nth(step)).to_have_attribute("data-state", "done")
