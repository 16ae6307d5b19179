"""Time a move of the picture "What a weight becomes", from the slider to the new picture on the screen.

    python tests/bench/weight_picture.py        # twelve arms of 14 moves on two pages, about two minutes

The app with SmolLM2's first layer (fetched before: `python -m playground fetch smollm2-135m-instruct`) in Chromium. An
arm is a data type and a block size; a move sets the bits, from 8 down to 2 and up again.
tab_s: seconds on the Bit widths tab, from the slider's event to the second frame after the picture changed; talk_s: the
same on the Talk tab, whose picture has blocks of 64 and int; server_s: of these, quantizing and drawing, measured in a
process by itself; load_average: of the machine, so that one sees whether it was busy.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import arms

MODEL = "smollm2-135m-instruct"
KINDS, BLOCKS = ("int", "float", "quantile"), (32, 64, 256, 4096)
MOVES = (7, 6, 5, 4, 3, 2, 3, 4, 5, 6, 7, 8, 5, 8)  # bits, one after another, beginning at 8
LIBRARIES = ("torch", "gradio", "playwright")
# Set a slider and wait until another picture was painted; its seconds. The picture's own text says its bits.
MOVE = """async ([slider, figure, value]) => {
  const input = [...document.querySelectorAll(slider)].find((one) => one.checkVisibility());
  const drawn = () => [...document.querySelectorAll(figure)].find((one) => one.checkVisibility())?.outerHTML;
  const before = drawn(), began = performance.now();
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, value);
  input.dispatchEvent(new Event("input", { bubbles: true }));
  input.dispatchEvent(new Event("change", { bubbles: true }));
  await new Promise((done, fail) => {
    const late = setTimeout(() => fail(new Error("no new picture within 20 s")), 20000);
    const watch = new MutationObserver(() => {
      if (drawn() === undefined || drawn() === before) return;
      watch.disconnect(); clearTimeout(late);
      requestAnimationFrame(() => requestAnimationFrame(done));
    });
    watch.observe(document.body, { childList: true, subtree: true, characterData: true });
  });
  return (performance.now() - began) / 1000;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/weight_picture.json")
    options = parser.parse_args()
    from playground.memory.meter import hardware

    rounds = _talk_moves_and_tab_moves()
    report = arms.report("seconds a move of a weight's picture", LIBRARIES, rounds, hardware=hardware("cpu"))
    arms.write(options.out, report)
    columns = dict.fromkeys(("tab_s", "talk_s", "server_s", "load_average"), "{:.3f}")
    print(arms.table(report["medians"], columns))


def _talk_moves_and_tab_moves() -> list[dict]:
    """A measured move a line."""
    sys.path.insert(0, str(arms.PROJECT / "tests" / "ui"))
    from actions import choose, open_page, open_tab, unfold, wait_until_idle
    from playwright.sync_api import sync_playwright
    from served_app import ServedApp

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        app = ServedApp(Path(folder), {"HF_HUB_OFFLINE": "1"})
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            app.wait_until_served()
            rounds = []
            with open_page(browser, app) as page:
                wait_until_idle(page)
                open_tab(page, "tab.lab")
                unfold(page, "weight.title")
                page.locator("figure.lab.weight:visible").first.wait_for(timeout=120_000)
                for kind in KINDS:
                    for block in BLOCKS:
                        choose(page, _word("weight.kind"), _word(f"weight.kind.{kind}"))
                        choose(page, _word("weight.size"), str(block))
                        slider = f'input[type="range"][aria-label*="{_word("weight.bits")}"]'
                        rounds += _moves(page, f"{kind}, blocks of {block}", "tab_s", slider, ".weight")
                        for one, bits in zip(rounds[-len(MOVES) :], MOVES):
                            one["server_s"] = round(_server_seconds(f"{kind}{bits}:{block}"), 4)
                        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            with open_page(browser, app, "", 1920, 1080) as page:
                open_tab(page, "tab.talk")
                page.locator(".talk").focus()
                while not page.locator(".talk .of-weight").is_visible():
                    page.keyboard.press("PageDown")
                rounds += _moves(
                    page, "talk: int, blocks of 64", "talk_s", ".of-weight .live input", ".of-weight figure"
                )
        finally:
            browser.close()
            app.close()
    return rounds


def _moves(page: Any, arm: str, name: str, slider: str, figure: str) -> list[dict]:
    """The moves of an arm; two before them aren't counted, and between two the page comes to rest."""
    measured = []
    for number, bits in enumerate((3, 8, *MOVES)):
        seconds = page.evaluate(MOVE, [slider, figure, str(bits)])
        page.wait_for_timeout(150)
        if number >= 2:
            load = round(os.getloadavg()[0], 2)
            measured.append(
                {"round": number - 1, "arm": arm, "bits": bits, name: round(seconds, 4), "load_average": load}
            )
    return measured


def _server_seconds(format: str) -> float:
    """Seconds to quantize the layer and draw it, which the planning process and the page do; the layer is in memory."""
    from playground.planning.weight import weight_picture
    from playground.ui.weight_figure import weight_figure

    weight_picture(MODEL, "", "int4")
    began = time.perf_counter()
    weight_figure(partial(_translate, "en"), weight_picture(MODEL, "", format))
    return time.perf_counter() - began


def _word(key: str) -> str:
    return _translate("en", key)


def _translate(lang: str, key: str, **values: Any) -> str:
    from playground.i18n import translate

    return translate(lang, key, **values)


if __name__ == "__main__":
    main()
