"""A real browser on the real app: chromium, app.py, the engine, and a toy model on disk."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import toys
from playwright.sync_api import expect, sync_playwright
from toys import PROJECT

expect.set_options(timeout=20_000)  # a busy machine is no defect of the page

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


class App:
    """The running playground: its address, its runs folder, and the toy model's folder."""

    def __init__(self, folder: Path, model: Path):
        self.runs, self.model = folder / "runs", model
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = open(folder / "app.log", "w")
        environment = os.environ | {
            "PLAYGROUND_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        command = [sys.executable, "app.py", "--port", str(self.port), "--runs", str(self.runs)]
        self.process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=self.log, stderr=self.log)

    def wait(self) -> None:
        for _ in range(300):
            try:
                urllib.request.urlopen(self.url, timeout=2)
                return
            except OSError:
                assert self.process.poll() is None, Path(self.log.name).read_text()
                time.sleep(0.2)
        raise AssertionError("the page never answered")


@pytest.fixture(scope="session")
def toy_chat_model(tmp_path_factory):
    return toys.save(tmp_path_factory.mktemp("model") / "toy-llama", chat=True)


@pytest.fixture(scope="session")
def app(tmp_path_factory, toy_chat_model):
    running = App(tmp_path_factory.mktemp("ui"), toy_chat_model)
    running.wait()
    yield running
    running.process.terminate()
    running.process.wait(10)
    running.log.close()


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
    """A fresh page whose console errors fail the test."""
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    troubles = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.set_default_timeout(30_000)
    opened.goto(app.url)
    opened.get_by_role("tab").first.wait_for()
    yield opened
    opened.close()
    assert not troubles, troubles
