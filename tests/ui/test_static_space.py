"""The static Space: plain files that play recordings and show stored predictions, opened from a disk by a browser."""

import json
import subprocess
import sys

import pytest
from playwright.sync_api import expect
from toys import PROJECT

from playground import catalog
from playground.i18n import table, translate
from playground.runs import recordings

FIRST_PAGE = {"en": "index.html", "ja": "ja.html"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files, written by the command that a person gives."""
    folder = tmp_path_factory.mktemp("static") / "space"
    command = [sys.executable, "app.py", "--static-space", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert str(folder / "index.html") in done.stdout
    return folder


@pytest.fixture(params=list(FIRST_PAGE))
def opened(request, folder, browser):
    """(language, page, what the browser asked for or complained of)."""
    page = browser.new_page(viewport={"width": 390, "height": 900})
    seen: list[str] = []
    page.on("request", lambda one: seen.append(one.url))
    page.on("pageerror", lambda error: seen.append(f"error {error}"))
    page.goto((folder / FIRST_PAGE[request.param]).as_uri())
    yield request.param, page, seen
    page.close()


def test_a_recording_plays_and_the_models_are_filtered_without_a_server(opened, folder):
    lang, page, seen = opened
    expect(page.locator(".live .recorded")).to_contain_text("AMD EPYC")
    expect(page.locator(".live .loss .plot .main-svg").first).to_be_visible(timeout=60_000)
    page.locator(".recordings").select_option("calm-7b-lora-4")
    expect(page.locator(".live .run-title")).to_contain_text("OpenCALM 7B")
    rows = page.locator(".models tbody tr")
    assert rows.count() == len(catalog.models())
    page.locator(".room").select_option(str(8 * 2**30))
    needs = [catalog.requirements()[entry["shape"]]["cuda"] for entry in catalog.models().values()]
    fitting = sum(max(need.values()) <= 8 * 2**30 for need in needs)
    expect(page.locator(".filter output")).to_have_text(f"{fitting} / {len(needs)}")
    assert rows.locator("visible=true").count() == fitting
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert seen and all(url.startswith((folder.as_uri(), "data:")) for url in seen), seen
    page.locator(".top a").click()
    expect(page.locator("h1")).to_have_text(translate("en" if lang == "ja" else "ja", "app.title"))


def test_every_recording_and_every_file_of_the_pages_is_there(folder):
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert "sdk: static\n" in (folder / "README.md").read_text(encoding="utf-8")
    for lang in FIRST_PAGE:
        text = (folder / f"data.{lang}.js").read_text(encoding="utf-8")
        data = json.loads(text.removeprefix("window.playgroundData = ").rstrip(";\n").replace("<\\/", "</"))
        assert sorted(data["recordings"]) == recordings.names() and all(data["recordings"].values())
        assert data["words"]["title"] == table(lang)["chart.title"]
