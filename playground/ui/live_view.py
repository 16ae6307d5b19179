"""The live view of a run: a gr.HTML that asks for the run's new events and draws them itself (assets/live_view.js, live_chart.js).

The browser polls `since` with a byte cursor, so a reload, a hidden tab and a run of yesterday are the same case.
`since` bypasses Gradio's queue and anyone who can open the page can call it: it checks all that it is given.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from playground import ASSETS, runs
from playground.errors import PlaygroundError
from playground.i18n import table, translate

BLOCK = 4_000_000  # bytes of events an answer; the browser asks again at once while there are more
FRESH = 3.0  # a run written to within so many seconds goes on, even if another process writes it
MOST_MEMORY = 2000  # memory events an answer

PLOTLY = Path(find_spec("plotly").submodule_search_locations[0]) / "package_data" / "plotly.min.js"
STATIC = [PLOTLY]
HEAD = f'<script defer src="gradio_api/file={quote(PLOTLY.as_posix())}"></script>'

# Static on purpose: Gradio leaves the page alone when the rendered template stays the same text.
TEMPLATE = """
<section class="live">
  <p class="empty" hidden></p>
  <div class="filled" hidden>
    <header><strong class="what"></strong> <span class="where"></span></header>
    <p class="state"><strong class="phase"></strong> <span class="amount"></span> <span class="engine"></span></p>
    <div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></div>
    <dl class="facts"></dl>
    <p class="error" role="alert" hidden></p>
    <ul class="notes" hidden></ul>
    <div class="memory" hidden>
      <h4><span></span> <small></small></h4><ul class="legend"></ul><div class="plot" role="img"></div>
    </div>
    <div class="loss" hidden>
      <h4><span></span> <small></small></h4><ul class="legend"></ul><div class="plot" role="img"></div>
    </div>
    <div class="measures" hidden>
      <h4><span></span> <small></small></h4>
      <table><thead><tr><td></td><th scope="col"></th><th scope="col"></th><th scope="col"></th></tr></thead><tbody></tbody></table>
      <p class="how"></p>
      <h5></h5><ul class="rows"></ul><h5></h5><ul class="rows"></ul>
    </div>
    <div class="samples" hidden>
      <h4><span></span> <small></small></h4>
      <input type="range" min="0" step="1" value="0"><dl></dl>
    </div>
    <div class="beside" hidden>
      <h4><span></span></h4>
      <table><thead><tr><td></td><th scope="col"></th><th scope="col"></th><th scope="col"></th></tr></thead><tbody></tbody></table>
    </div>
    <div class="parts" hidden>
      <h4><span></span></h4>
      <p class="now"></p><div class="stack" role="img"></div><ul class="legend"></ul>
      <p class="then"></p><div class="stack" role="img"></div><ul class="legend"></ul>
    </div>
    <p class="spoken" aria-live="polite"></p>
  </div>
</section>
"""


def live_chart(lang: str, root: Path, current: Callable[[], dict]) -> gr.HTML:
    """The view of the run that `current` names, or of the run whose id is put into the prop `follow`.

    `current()` returns {"run": id or None, "busy": bool, "engine": "starting" | "ready" | "busy" | "dead"}. The value
    becomes {"run", "engine", "ended"} whenever one of them changes, which fires `change`.
    """
    last = None

    def since(request: dict) -> dict:
        nonlocal last
        now = current()
        last = now["run"] or last  # what was current stays on the screen after its end, also over a reload
        empty = {
            "run": "",
            "cursor": 0,
            "events": [],
            "more": False,
            "live": False,
            "busy": now["busy"],
            "engine": now["engine"],
        }
        asked = _checked(request)
        wanted = asked and (asked["follow"] or last or asked["run"])
        if not wanted:
            return empty
        try:
            run = runs.find(root, wanted)
            start = asked["cursor"] if wanted == asked["run"] else 0
            events, cursor = run.since(start, BLOCK)
            fresh = time.time() - (run.folder / "events.jsonl").stat().st_mtime < FRESH
        except (PlaygroundError, OSError):
            return empty
        return empty | {
            "run": run.id,
            "cursor": cursor,
            "events": [_with_text(event, lang) for event in _lighter(events)],
            "more": cursor - start > BLOCK // 2,
            "live": fresh or (now["busy"] and now["run"] == run.id),
        }

    words = {
        key.removeprefix("chart."): text for key, text in table(lang).items() if key.startswith(("chart.", "phase."))
    }
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "live_chart.css").read_text(encoding="utf-8"),
        js_on_load="\n".join((ASSETS / name).read_text(encoding="utf-8") for name in ("live_view.js", "live_chart.js")),
        apply_default_css=False,
        container=True,
        server_functions=[since],
        follow="",
        words=words,
        lang=lang,
    )


def _checked(request) -> dict | None:
    """The browser's {"follow", "run", "cursor"}, or None if anything in it is of a wrong type."""
    if not isinstance(request, dict):
        return None
    follow, run, cursor = request.get("follow", ""), request.get("run", ""), request.get("cursor", 0)
    right = isinstance(follow, str) and isinstance(run, str) and type(cursor) is int and 0 <= cursor < 2**53
    return {"follow": follow, "run": run, "cursor": cursor} if right else None


def _with_text(event: dict, lang: str) -> dict:
    """Notes and failures with their `text` in the page's language; a key that this version doesn't know stands for itself."""
    if event["kind"] not in ("note", "error"):
        return event
    told = event.get("problems", []) if event["kind"] == "error" else [event]
    lines = [_line(item, lang) for item in told if isinstance(item, dict)] if isinstance(told, list) else []
    return event | {"text": "\n".join(lines)}


def _line(item: dict, lang: str) -> str:
    try:
        return translate(lang, item["key"], **item.get("values", {}))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return str(item.get("key", ""))


def _lighter(events: list[dict]) -> list[dict]:
    """The events with memory thinned to the fullest of each few neighbours, so that catching up on hours stays quick."""
    memory = [event for event in events if event["kind"] == "memory"]
    few = -(-len(memory) // MOST_MEMORY)
    if few <= 1:
        return events
    kept = {id(max(memory[i : i + few], key=_fullness)) for i in range(0, len(memory), few)}
    kept |= {id(event) for event in [e for e in memory if "parts" in e][-1:]}
    return [event for event in events if event["kind"] != "memory" or id(event) in kept]


def _fullness(event: dict) -> float:
    return sum(size for kind, size in event.items() if kind != "t" and isinstance(size, (int, float)))
