"""What a person does and reads on the page, for the browser tests of this folder."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect

from playground.i18n import translate

TABS = (
    "start",
    "plan",
    "load",
    "data",
    "tune",
    "chat",
    "lab",
    "talk",
    "runs",
    "take",
)  # by their ids, as in playground/ui/build.py
LONG = 120_000  # ms, for what the engine or the planner does on a busy machine: their processes start first
DRAWN_POINTS = """
() => Math.max(0, ...[...document.querySelectorAll('.live .memory .plot')]
  .flatMap(plot => (plot.data ?? []).map(line => (line.y ?? []).length)))
"""
# Gradio writes a field's value again in the frame after it was mounted, over anything that was typed by then.
RENDERED = """
() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => requestIdleCallback(done))))
"""


@contextmanager
def open_page(
    browser: Browser, app: Any, path: str = "", width: int = 1440, height: int = 900, offline: bool = False
) -> Iterator[Page]:
    """A page of its own, closed at the end. Raises AssertionError if a script of it failed.

    offline: it reaches nothing but the app.
    """
    opened = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_default_timeout(90_000)  # ms; a busy machine is no defect of the page
    if offline:
        opened.route(lambda url: not url.startswith(app.url), lambda route: route.abort())
    opened.goto(app.url + path)
    opened.get_by_role("tab").first.wait_for()
    try:
        yield opened
    finally:
        opened.close()  # a page that stays open keeps drawing beside all tests after it
    assert not errors, errors


def keep_brackets_whole(page: Page) -> None:
    """Draw full-width brackets at their full width: Chromium trims their blank half at a line's end, yet counts it in
    `scrollWidth`, so that text which fits seems too wide."""
    page.add_style_tag(content="* { text-spacing-trim: space-all !important; }")


def visible_field(page: Page, label: str) -> Locator:
    """The field of that label in the open tab: other tabs have some of the same."""
    return page.get_by_label(label, exact=True).locator("visible=true").first


def fill(page: Page, label: str, value: str) -> None:
    """Write into a field and leave it: Gradio reads a value when its field is left."""
    field = visible_field(page, label)
    field.wait_for()
    page.evaluate(RENDERED)
    field.fill(value)
    field.blur()  # the Tab key would open the list of a dropdown that comes next, over what is clicked then


def choose(page: Page, label: str, value: str) -> None:
    """Write into a dropdown and take the text; again where it took another, its choices having come only then."""
    field = visible_field(page, label)
    field.wait_for()
    for attempt in range(4):
        page.evaluate(RENDERED)
        field.fill(value)
        field.press("Enter")  # which leaves the field too
        try:
            shown = re.compile(f"^{re.escape(value)}")  # a value with a label is shown by it, which begins with it
            expect(field).to_have_value(shown, timeout=1_000 if attempt < 3 else 20_000)
            return
        except AssertionError:
            if attempt == 3:
                raise


def choose_several(page: Page, selector: str, values: list[str]) -> None:
    """Replace what a list with several choices has."""
    field = page.locator(f"{selector} input").first
    field.wait_for()
    for remove in reversed(page.locator(f"{selector} .token-remove").all()[:-1]):  # the last one clears the whole list
        remove.click()
    for value in values:
        field.fill(value)
        field.press("Enter")
    page.keyboard.press("Escape")


def open_tab(page: Page, key: str, lang: str = "en") -> None:
    page.get_by_role("tab", name=translate(lang, key)).click()


def press(page: Page, key: str, lang: str = "en") -> None:
    page.get_by_role("button", name=translate(lang, key), exact=True).locator("visible=true").first.click()


def unfold(page: Page, key: str, lang: str = "en") -> Locator:
    """Open an accordion of the open tab unless it is open; returns its header."""
    label = page.get_by_text(translate(lang, key), exact=True)
    header = page.locator("button.label-wrap").filter(has=label).locator("visible=true").first
    header.wait_for()
    if "open" not in (header.get_attribute("class") or "").split():
        header.click()
    return header


def expand(page: Page, key: str) -> None:
    """Open an accordion of the form and wait for its fields, which Gradio makes only then."""
    header = unfold(page, key)
    header.locator("xpath=..").locator("input, textarea").locator("visible=true").first.wait_for()
    page.evaluate(RENDERED)


def check_radio(page: Page, label: str) -> None:
    page.get_by_role("radio", name=label, exact=True).locator("visible=true").first.check()


def run_row(page: Page, run_id: str) -> Locator:
    """The row of a run in the Runs tab, unfolded where it is among the loads and chats."""
    row = page.locator(f'.runs tr[data-run="{run_id}"]')
    row.wait_for(state="attached")
    row.evaluate("row => { const fold = row.closest('details'); if (fold) fold.open = true; }")
    return row


def row_button(page: Page, run_id: str, key: str, lang: str = "en") -> Locator:
    """The button of that text in a run's row."""
    return run_row(page, run_id).get_by_role("button", name=f"{translate(lang, key)}:")


def notices(page: Page, kind: str = "bad") -> Locator:
    """The messages on the open tab: "bad" for errors, "good" for the rest."""
    return page.locator(f".notice.{kind}").locator("visible=true")


def choose_toy(page: Page, app: Any, model: Path | None = None) -> None:
    open_tab(page, "tab.load")
    choose(page, translate("en", "load.model"), str(model or app.model))


def start_fine_tune(page: Page, app: Any, epochs: str, model: Path | None = None) -> Path:
    """Start a fine-tune of a toy model; returns the run's folder, once there is one."""
    choose_toy(page, app, model)
    open_tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), epochs)
    run = press_for_run(page, app, "tune.go")
    expect(_tuned_notice(page)).to_be_hidden()  # that of an earlier one
    return run


def load_toy(page: Page, app: Any) -> None:
    """Load the toy model, and wait until that is done: it may have been loaded before."""
    choose_toy(page, app)
    run = press_for_run(page, app, "load.go")
    until = time.monotonic() + LONG / 1000
    while '"done"' not in (run / "events.jsonl").read_text():
        assert time.monotonic() < until, notices(page).all_inner_texts()
        page.wait_for_timeout(100)
    expect(notices(page, "good").filter(has_text="toy-llama")).to_be_visible(timeout=LONG)


def press_for_run(page: Page, app: Any, key: str) -> Path:
    """Press the button of a job; returns the folder of its run, once there is one."""
    before = set(app.runs.glob("*/events.jsonl"))
    press(page, key)
    until = time.monotonic() + LONG / 1000
    while not (new := set(app.runs.glob("*/events.jsonl")) - before):
        assert time.monotonic() < until, notices(page).all_inner_texts()
        page.wait_for_timeout(100)
    return max(new).parent


def wait_until_tuned(page: Page) -> None:
    expect(_tuned_notice(page)).to_be_visible(timeout=LONG)


def _tuned_notice(page: Page) -> Locator:
    return page.locator(".notice.good", has_text=translate("en", "tune.done")[:20]).first


def wait_until_training(page: Page) -> None:
    """Wait until the live view shows the speed of training steps."""
    expect(page.locator(".live .phase")).to_have_text(translate("en", "phase.train"), timeout=LONG)
    expect(page.locator(".live .facts")).to_contain_text("tokens/s", timeout=LONG)


def wait_until_idle(page: Page) -> None:
    """Wait until no job runs: the Load button is enabled."""
    open_tab(page, "tab.load")
    expect(page.get_by_role("button", name=translate("en", "load.go"))).to_be_enabled(timeout=LONG)


def limit_answers(page: Page, tokens: int) -> None:
    """Set how long answers may get: the toy's seldom end by themselves."""
    unfold(page, "chat.generation")
    fill(page, translate("en", "generation.max_new_tokens"), str(tokens))


def wait_until_answered(page: Page) -> None:
    """Wait until the last question is answered and the engine is free."""
    expect(page.locator(".turn").last.locator(".status")).to_contain_text("measured", timeout=LONG)
    wait_until_idle(page)


def newest_run(app: Any) -> Path:
    return max((f for f in app.runs.iterdir() if (f / "events.jsonl").is_file()), key=lambda f: f.stat().st_mtime)


def drawn_points(page: Page) -> int:
    """Points of the memory line as it is drawn."""
    return page.evaluate(DRAWN_POINTS)


def wait_for_new_points(page: Page, more_than: int) -> int:
    """Wait until the memory line has more points than that, and then gains another; returns how many it has then."""
    grown = f"than => ({DRAWN_POINTS.strip()})() > than"
    page.wait_for_function(grown, arg=more_than, timeout=LONG)
    page.wait_for_function(grown, arg=drawn_points(page), timeout=LONG)
    return drawn_points(page)


def download(page: Page, text: str, file: Path) -> Path:
    """Press what downloads a file, and save it; again where the page was just making another button of it."""
    for attempt in range(3):
        try:
            with page.expect_download(timeout=LONG if attempt == 2 else 15_000) as started:
                page.get_by_text(text, exact=True).locator("visible=true").first.click(timeout=LONG)
            started.value.save_as(file)
            return file
        except TimeoutError:
            if attempt == 2:
                raise
    raise AssertionError


def upload(page: Page, path: Path) -> None:
    """Choose a file for the Data tab's upload button."""
    page.locator(".data-tab .source input[type=file]").first.set_input_files(path)


def expect_counts(page: Page, **counts: int) -> None:
    """Wait until the Data tab shows these numbers of rows: train, held_out, left_out, total."""
    for name, count in counts.items():
        expect(page.locator(f".rows .counts .{name} dd")).to_have_text(f"{count:,}", timeout=LONG)
