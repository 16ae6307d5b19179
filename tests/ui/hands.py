"""What a person's hands and eyes do on the page, for the tests beside this file."""

from playwright.sync_api import expect

from playground.i18n import translate

LONG = 60_000


def fill(page, label: str, value: str) -> None:
    """Write into a field and leave it, as Gradio takes a value over when the field is left."""
    field = shown(page, label)
    field.fill(value)
    field.press("Tab")


def shown(page, label: str):
    """The field of that label in the tab that is open: the plan has some of the same."""
    return page.get_by_label(label, exact=True).locator("visible=true").first


def tab(page, key: str, lang: str = "en") -> None:
    page.get_by_role("tab", name=translate(lang, key)).click()


def press(page, key: str, lang: str = "en") -> None:
    page.get_by_role("button", name=translate(lang, key), exact=True).locator("visible=true").first.click()


def choose(page, label: str, value: str) -> None:
    """Write into a field that offers choices, and take what is written: again, if the choices weren't drawn yet when Enter was pressed."""
    field = shown(page, label)
    for _ in range(3):
        field.fill(value)
        field.press("Enter")
        field.press("Tab")
        if field.input_value() == value:
            break
        page.wait_for_timeout(500)
    expect(field).to_have_value(value)


def unfold(page, key: str) -> None:
    """Open a folded part of the form.

    Gradio makes its fields only then and writes their values a moment later, over what a hand as quick as this one has typed by then.
    """
    page.get_by_role("button", name=translate("en", key)).locator("visible=true").first.click()
    page.wait_for_timeout(1000)


def choose_toy(page, app, model=None) -> None:
    tab(page, "tab.load")
    choose(page, translate("en", "load.model"), str(model or app.model))


def start_tuning(page, app, epochs: str) -> None:
    choose_toy(page, app)
    tab(page, "tab.tune")
    fill(page, translate("en", "train.epochs"), epochs)
    press(page, "tune.go")


def training(page) -> None:
    """Wait until the chart says that steps are being taken."""
    expect(page.locator(".live .phase")).to_have_text(translate("en", "phase.train"), timeout=LONG)
    expect(page.locator(".live .facts")).to_contain_text("tokens/s", timeout=LONG)


def idle(page) -> None:
    """Wait until nothing runs: the Load button can be pressed again."""
    tab(page, "tab.load")
    expect(page.get_by_role("button", name=translate("en", "load.go"))).to_be_enabled(timeout=LONG)


def answered(page) -> None:
    """Wait until an answer is there in full and the engine can be asked again."""
    expect(page.locator(".quiet", has_text="tokens/s together (measured)").locator("visible=true").first).to_be_visible(
        timeout=LONG
    )
    idle(page)


def newest_run(app):
    return max((f for f in app.runs.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime)


def points(page) -> int:
    """Points of the memory line that is drawn now."""
    return page.evaluate(
        "() => Math.max(0, ...[...document.querySelectorAll('.live .memory .plot')].flatMap(p => (p.data ?? []).map(t => (t.y ?? []).length)))"
    )


def grown(page, more_than: int) -> int:
    """Wait until the line has more points than that and gains some more; how many it has then."""
    last = points(page)
    for _ in range(40):
        page.wait_for_timeout(500)
        now = points(page)
        if now > last > more_than:
            return now
        last = now
    raise AssertionError(f"the chart stood still at {last} points")


def take(page, label: str) -> None:
    """Press a radio button of the plan."""
    page.get_by_role("radio", name=label, exact=True).locator("visible=true").first.check()
