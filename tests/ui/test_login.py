"""A page with `--auth` in a browser: its form can be seen and filled in, and the page opens after it."""

import pytest
from playwright.sync_api import expect
from served_app import ServedApp

from playground.i18n import translate


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("login")
    running = ServedApp(folder, {"PLAYGROUND_CACHE": str(folder / "cache")}, flags=["--auth", "ada:secret"])
    running.wait_until_served()
    yield running.url
    running.close()


def _log_in(page, password: str) -> None:
    name, secret = page.locator("input").all()
    name.fill("ada")
    secret.fill(password)
    page.get_by_role("button").first.click()  # it must not be covered


def test_who_logs_in_sees_the_page_and_who_cannot_sees_the_form(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/ja")
    expect(page.locator("input")).to_have_count(2)
    assert page.get_by_text(translate("ja", "opening.wait")).count() == 0
    _log_in(page, "wrong")
    expect(page.get_by_role("tab")).to_have_count(0)
    expect(page.locator("input").first).to_have_value("")  # Gradio empties the form
    _log_in(page, "secret")
    expect(page.get_by_role("tab", name=translate("ja", "tab.plan"))).to_be_visible()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_stands_on_the_pages_background(browser, address, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)
    expect(page.locator("input")).to_have_count(2)
    around = page.locator(".wrap.min-h-screen")
    expect(around).to_have_css("background-color", "rgba(0, 0, 0, 0)")
    assert around.locator("input").count() == 2
    page.close()
