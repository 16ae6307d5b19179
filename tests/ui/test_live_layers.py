"""The live view's row of layers: which stay on the GPU, wait in RAM, lie in a buffer or are on the way."""

import threading

import pytest
from actions import LONG, open_page, open_tab, row_button
from playwright.sync_api import Page, expect

from playground import runs
from playground.settings import Settings

LAYERS = 80
WAITING = [number for number in range(LAYERS) if number % 4]
STATES = "nodes => nodes.slice(4, 8).map(node => node.dataset.layer)"
SHAPES = "nodes => nodes.slice(4, 8).map(node => getComputedStyle(node).backgroundImage.split('(')[0])"


class Training(threading.Thread):
    """A fine-tune under way whose model has 80 layers, three of four of them streamed. It writes as long as it lives.

    buffers: what its next readings say.
    """

    def __init__(self, root):
        super().__init__(daemon=True)
        hardware = {"device": "cuda", "name": "GPU", "capacity": 24 * 2**30}
        self.run_folder = runs.create(root, "tune", Settings(), hardware=hardware)
        self.run_folder.append("phase", name="train")
        self.run_folder.append("streamed", layers=WAITING, total=LAYERS, bytes=26 * 2**30)
        self.buffers = {"ready": [5], "copying": [6]}
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.3):
            self.run_folder.append("memory", device_used=2**34, buffers=self.buffers)

    def end(self):
        self.over.set()
        self.join()


@pytest.fixture
def training(app):
    started = Training(app.runs)
    started.start()
    yield started
    started.end()
    runs.delete(app.runs, started.run_folder.id)


def shown(page: Page, training: Training, lang: str = "en"):
    """The row of the run that is chosen in the Runs tab."""
    open_tab(page, "tab.runs", lang)
    row_button(page, training.run_folder.id, "runs.show", lang).click()
    layers = page.locator(".live .layers")
    expect(layers.locator(".cells i")).to_have_count(LAYERS, timeout=LONG)
    return layers


def test_the_row_follows_where_the_layers_are_until_the_model_is_gone(training, page):
    layers = shown(page, training)
    cells, label = layers.locator(".cells i"), "stays on the GPU: 20; waiting in RAM: 58; in a buffer on the GPU: "
    expect(layers.locator(".cells")).to_have_attribute("aria-label", f"{label}1 (layer 6); on the way: 1 (layer 7)")
    assert cells.evaluate_all(STATES) == ["resident", "ready", "copying", "waiting"]
    assert cells.evaluate_all(SHAPES) == ["none", "linear-gradient", "repeating-linear-gradient", "none"]
    expect(layers.locator("h4")).to_contain_text("60 of 80 have their weights in RAM: 26.00 GiB")
    training.buffers = {"ready": [6], "copying": [7]}
    expect(cells.nth(7)).to_have_attribute("data-layer", "copying", timeout=LONG)
    expect(cells.nth(5)).to_have_attribute("title", "Layer 6: waiting in RAM")
    training.end()
    training.run_folder.append("done", job="tune", result={})
    expect(cells.nth(7)).to_have_attribute("data-layer", "ready", timeout=LONG)
    assert layers.locator(".legend b").all_inner_texts() == ["20", "58", "2", "0"]
    training.run_folder.append("unloaded")
    expect(layers).to_be_hidden(timeout=LONG)


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_80_layers_fit_a_phone(app, training, browser, lang):
    with open_page(browser, app, "" if lang == "en" else "/ja", width=390, height=800) as page:
        layers = shown(page, training, lang)
        box, last = layers.bounding_box(), layers.locator(".cells i").last.bounding_box()
        assert last["width"] >= 8 and last["x"] + last["width"] <= box["x"] + box["width"] <= 390
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        expect(layers.locator(".legend li")).to_have_count(4)
