"""A real browser on the real app: Chromium, app.py, the engine, and a toy model on disk."""

import shutil
from pathlib import Path

import pytest
import toys
from actions import open_page
from playwright.sync_api import expect, sync_playwright
from served_app import ServedApp

expect.set_options(timeout=60_000)  # ms; a busy machine is no defect of the page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-quic",
    "--disable-component-update",
    "--disable-sync",
]


class App(ServedApp):
    """The running playground, and the toy model's folder."""

    def __init__(self, folder: Path, model: Path) -> None:
        cache = str(folder / "cache")
        several = {"PLAYGROUND_CPU_PROCESSES": "2"}  # the form has all that it has with several GPUs
        super().__init__(folder, {"PLAYGROUND_CACHE": cache, "HF_HUB_OFFLINE": "1", **several})
        self.model = model


@pytest.fixture(scope="session")
def toy_chat_model(tmp_path_factory):
    return toys.save(tmp_path_factory.mktemp("model") / "toy-llama", chat=True)


@pytest.fixture(scope="session")
def app(tmp_path_factory, toy_chat_model):
    running = App(tmp_path_factory.mktemp("ui"), toy_chat_model)
    running.wait_until_served()
    yield running
    running.close()


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser, app):
    with open_page(browser, app) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_page(browser, app):
    """One page for the tests of a file, for those that need no fresh one: opening a page takes 8 s of a processor."""
    with open_page(browser, app) as opened:
        yield opened
