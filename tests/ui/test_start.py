"""The Start tab and the status strip: the demo from one button to Compare, the recording, Stop and Unload."""

import pytest
from actions import (
    LONG,
    TABS,
    load_toy,
    open_page,
    open_tab,
    press,
    unfold,
    visible_field,
    wait_until_idle,
)
from playwright.sync_api import expect
from served_app import ServedApp

from playground.catalog import presets
from playground.i18n import LANGUAGES, translate
from playground.planning.client import read_stored_answers
from playground.runs.recordings import read_recording


@pytest.fixture(scope="module")
def untouched_app(tmp_path_factory):
    """An app in which nothing has run."""
    running = ServedApp(folder := tmp_path_factory.mktemp("start"), {"PLAYGROUND_CACHE": str(folder / "cache")})
    running.wait_until_served()
    yield running
    running.close()


@pytest.fixture
def page(shared_page):
    open_tab(shared_page, "tab.start")
    return shared_page


@pytest.mark.parametrize("lang", LANGUAGES)
def test_before_anything_has_run_a_recorded_run_plays(browser, untouched_app, lang):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(untouched_app.url + ("" if lang == "en" else f"/{lang}"))
    first = read_recording(f"demo-{lang}")[0]
    badge = translate(lang, "chart.recorded", date=first["recorded"], hardware=first["hardware"]["name"])
    expect(page.locator(".live .recorded")).to_contain_text(badge, timeout=LONG)
    expect(page.locator(".live .facts")).to_contain_text(translate(lang, "chart.fact.loss"), timeout=LONG)
    strip = page.locator(".strip .run")
    expect(strip).to_contain_text(translate(lang, "strip.idle"))  # a recording isn't a run of this machine
    page.close()


def test_after_unloading_nothing_says_that_a_model_is_loaded(page, app):
    wait_until_idle(page)
    load_toy(page, app)
    wait_until_idle(page)
    expect(page.locator(".strip .model")).to_contain_text("toy-llama", timeout=LONG)
    page.locator("#unload").click()
    expect(page.locator(".strip .model")).to_contain_text(translate("en", "strip.nothing"), timeout=LONG)
    expect(page.locator(".notice", has_text="toy-llama").locator("visible=true")).to_have_count(0)
    expect(page.locator("#unload")).to_be_disabled()


def test_own_data_goes_to_the_data_tab(page, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"instruction": "Who?", "output": "Me."}\n' * 3, encoding="utf-8")
    page.locator("input[type=file]").first.set_input_files(path)
    expect(page.get_by_role("tab", name=translate("en", "tab.data"))).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text("Who?").locator("visible=true").first).to_be_visible(timeout=LONG)


def test_the_plan_is_one_click_away(page):
    press(page, "start.plan.go")
    expect(page.get_by_role("tab", name=translate("en", "tab.plan"))).to_have_attribute("aria-selected", "true")


SMALL_TEXTS = """() => {
  const found = {};
  const note = (node, text) => {
    const box = node.getBoundingClientRect(), matrix = node.getScreenCTM?.(); // a figure's texts grow with it
    const size = parseFloat(getComputedStyle(node).fontSize) * (matrix ? Math.hypot(matrix.a, matrix.b) : 1);
    if (text && box.width > 3 && box.height > 3 && size < 18 && node.checkVisibility({ visibilityProperty: true }))
      found[text.slice(0, 40)] = size;
  };
  for (const node of document.querySelectorAll("body *:not(style, script, template, title, footer, footer *)")) {
    if (["INPUT", "TEXTAREA"].includes(node.tagName)) note(node, node.value || node.placeholder);
    for (const child of node.childNodes) if (child.nodeType === Node.TEXT_NODE) note(node, child.textContent.trim());
  }
  return found;
}"""


def drawn_tabs(page, lang):
    """Open each tab again once all were opened and have had time to draw their pictures; its name."""
    for tab in TABS:
        open_tab(page, f"tab.{tab}", lang)
    page.wait_for_timeout(5_000)
    for tab in TABS:
        open_tab(page, f"tab.{tab}", lang)
        page.wait_for_timeout(300)
        yield tab


@pytest.mark.parametrize("lang", [pytest.param("en", marks=pytest.mark.exhaustive), "ja"])
def test_no_text_is_small_while_presenting(browser, app, lang):
    page = browser.new_page(viewport={"width": 1920, "height": 1080}, reduced_motion="reduce")
    page.goto(f"{app.url}{'' if lang == 'en' else '/ja'}?present=1")
    expect(page.locator(".plot .ytick, .plot .y2tick").first).to_be_visible(timeout=LONG)
    small = {tab: found for tab in drawn_tabs(page, lang) if (found := page.evaluate(SMALL_TEXTS))}
    page.close()
    assert not small, small


@pytest.mark.parametrize("tab", ["plan", "load"])  # whose fields have no help, and have some
def test_presenting_hides_help_but_no_field(browser, app, tab):
    page = browser.new_page(viewport={"width": 1920, "height": 1080}, reduced_motion="reduce")
    page.goto(f"{app.url}?present=1&tab={tab}")
    expect(visible_field(page, translate("en", "load.model"))).to_be_visible(timeout=LONG)
    expect(page.get_by_role("radio", name="8", exact=True).locator("visible=true").first).to_be_visible()
    expect(page.get_by_text(translate("en", "load.model.info"))).to_be_hidden()
    page.close()


SUM_SHIFTS = """new PerformanceObserver((list) => {
  for (const { value, hadRecentInput } of list.getEntries())
    if (!hadRecentInput) window.shifts = (window.shifts ?? 0) + value;
}).observe({ type: "layout-shift", buffered: true })"""


def test_the_page_stays_where_it_is_while_it_opens(browser, app):
    """The sum of layout shifts, as Lighthouse counts them: at most 0.05."""
    page = browser.new_page(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page.add_init_script(SUM_SHIFTS)
    page.goto(app.url)
    expect(page.locator(".plot .main-svg").first).to_be_visible(timeout=LONG)
    shifts = page.evaluate("window.shifts ?? 0")
    page.close()
    assert shifts <= 0.05, shifts


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_picture_is_there_before_gradio_and_gone_with_it(browser, app, lang):
    page = browser.new_page(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    page.goto(app.url + ("" if lang == "en" else f"/{lang}"), wait_until="commit")
    picture = page.locator(".opening")
    steps = {entry["id"]: entry["answer"] for entry in read_stored_answers()}["waterfall"]
    expect(picture).to_contain_text(f"{steps[0]['need'] / 2**30:.2f} GiB")
    assert page.locator("#teach").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(picture).to_have_count(0, timeout=LONG)
    expect(page.locator("#teach")).to_be_visible()
    page.close()


def test_each_language_has_its_demo():
    for lang in ("en", "ja"):
        assert presets()[f"demo-{lang}"]["settings"].get("data", {}).get("source", "helpdesk.en") == f"helpdesk.{lang}"


def test_the_live_view_stays_in_view_while_the_form_scrolls(page):
    """Nothing above it may cut off what overflows: that would cancel its place."""
    open_tab(page, "tab.tune")
    for key in ("tune.lora", "tune.train", "tune.memory"):
        unfold(page, key)
    page.mouse.move(300, 500)
    page.mouse.wheel(0, 700)
    page.wait_for_function("scrollY > 300")
    place = page.locator(".watch").bounding_box()
    assert 0 <= place["y"] < 200, place


@pytest.mark.parametrize("lang", ["en", pytest.param("ja", marks=pytest.mark.exhaustive)])  # whose texts are shorter
def test_no_tab_is_longer_than_two_screens(browser, untouched_app, lang):
    with open_page(browser, untouched_app, "" if lang == "en" else f"/{lang}") as page:
        heights = {tab: page.evaluate("document.documentElement.scrollHeight") for tab in drawn_tabs(page, lang)}
        assert all(height <= 2 * 900 for height in heights.values()), heights
