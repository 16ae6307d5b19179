"""axe-core finds nothing serious or critical on any tab, light and dark; a keyboard reaches the demo."""

import pytest
from actions import TABS, open_tab
from axe_playwright_python.sync_playwright import Axe

BAD = ("serious", "critical")


# In dark, the document is the same but for its colors.
RULES = {"light": {}, "dark": {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}}


# Looking at what other tabs hold takes most of the time, and finds nothing new.
MARK_SHOWN = """() => document.querySelectorAll('[role=tabpanel]').forEach(
    (panel) => panel.toggleAttribute('data-shown', panel.checkVisibility()))"""


def _violations(page, rules, whole):
    page.evaluate(MARK_SHOWN)
    context = None if whole else "[role=tabpanel][data-shown]"
    violations = Axe().run(page, context, {"resultTypes": ["violations"], **rules}).response["violations"]
    return [(v["id"], len(v["nodes"]), v["nodes"][0]["html"][:120]) for v in violations if v["impact"] in BAD]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_tab(browser, app, scheme):
    page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    page.goto(app.url)
    page.get_by_role("tab").first.wait_for()
    found = {}
    for tab in TABS:
        whole = tab == TABS[0]
        open_tab(page, f"tab.{tab}")
        page.wait_for_timeout(500)  # axe measures colors, which fade in
        bad = _violations(page, RULES[scheme], whole)
        looks = 0
        while bad and looks < 8:  # so does more on a busy machine; a plan that is counted again is dimmed meanwhile
            page.wait_for_timeout(5_000)
            bad, looks = _violations(page, RULES[scheme], whole), looks + 1
        if bad:
            found[tab] = bad
    page.close()
    assert not found, found


def test_tab_key_reaches_the_demo_and_enter_presses_it(browser, app):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(app.url)
    page.locator("#teach").wait_for()
    for _ in range(25):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "teach":
            break
    assert page.evaluate("document.activeElement.id") == "teach"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.close()
