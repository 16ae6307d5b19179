"""The live view of a run: a gr.HTML that polls for the run's new events and draws them itself.

Its scripts in assets/: live_reducer.js (events → state), live_figures.js (texts and figures), live_layers.js (where
the layers' weights are), live_recording.js (plays what has ended), live_view.js (the page).
The browser polls `since` with a byte cursor, so a live run, a reload, a hidden tab and a past run are the same case.
The reply says when to poll again (poll_pace.py).
`since` bypasses Gradio's queue and anyone who can open the page can call it, so it validates its argument.
"""

import json
import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from playground import ASSETS, catalog, runs
from playground.errors import PlaygroundError, stored_text
from playground.i18n import table
from playground.runs.recordings import read_recording
from playground.runs.shared_reader import SharedReader
from playground.runs.thinning import thin_events, thin_memory
from playground.ui.poll_pace import PollPace
from playground.ui.quick_polls import QUICK

BLOCK = 4_000_000  # bytes of events in a reply; the browser polls again at once while there are more
NEWS = 250_000  # bytes: so little is read and answered without a thread (quick_polls.py), in some milliseconds
FRESH = 3.0  # seconds: a run written to this recently is still going, even if another process writes it
MAX_MEMORY_EVENTS = 2000  # in a reply
MAX_STEP_EVENTS = 2000  # of a run's beginning; a figure is no wider
RECORDING, SHIPPED = "recording", "recording:"  # as live_recording.js has them: the demo; a recording that ships
SCRIPTS = ("live_reducer.js", "live_figures.js", "live_layers.js", "live_recording.js", "live_view.js")


def _plotly_script() -> Path:
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("plotly is not installed: pip install -r requirements.txt")
    return Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js"


PLOTLY = _plotly_script()
STATIC = [PLOTLY]
HEAD = f'<script defer src="gradio_api/file={quote(PLOTLY.as_posix())}"></script>'

# Static on purpose: Gradio leaves the page alone when the rendered template stays the same text.
TEMPLATE = """
<section class="live" tabindex="0">
  <p class="waiting" role="status" hidden></p>
  <p class="empty" hidden></p>
  <div class="filled" hidden>
    <p class="recorded" hidden></p>
    <p class="player" hidden><button type="button"></button><input type="range" min="0" step="any" value="0"
      ><span class="clock"></span><select></select></p>
    <header><strong class="run-title"></strong> <span class="hardware"></span></header>
    <p class="state"><strong class="phase"></strong> <span class="amount"></span> <span class="engine"></span></p>
    <div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></div>
    <dl class="facts"></dl>
    <div class="layers" hidden>
      <h4><span></span> <small></small></h4><div class="cells" role="img"></div><ul class="legend"></ul>
    </div>
    <p class="failure" role="alert" hidden></p>
    <ul class="notes" hidden></ul>
    <dl class="score" hidden></dl>
    <div class="samples" hidden>
      <h4><span></span> <small></small></h4>
      <input type="range" min="0" step="1" value="0"><dl></dl>
    </div>
    <div class="loss" hidden>
      <h4><span></span> <small></small></h4><ul class="legend"></ul><div class="plot" role="img"></div>
    </div>
    <div class="memory" hidden>
      <h4><span></span> <small></small></h4><ul class="legend"></ul><div class="plot" role="img"></div>
    </div>
    <div class="measures" hidden>
      <h4><span></span> <small></small></h4>
      <table>
        <thead><tr><td></td><th scope="col"></th><th scope="col"></th><th scope="col"></th></tr></thead><tbody></tbody>
      </table>
      <p class="forgotten"></p>
      <p class="how"></p>
      <h5></h5><ul class="rows"></ul><h5></h5><ul class="rows"></ul>
    </div>
    <div class="comparison" hidden>
      <h4><span></span></h4>
      <table>
        <thead><tr><td></td><th scope="col"></th><th scope="col"></th><th scope="col"></th></tr></thead><tbody></tbody>
      </table>
    </div>
    <div class="parts" hidden>
      <h4><span></span></h4>
      <p class="measured-total"></p><div class="stack" role="img"></div><ul class="legend"></ul>
      <p class="predicted-total"></p><div class="stack" role="img"></div><ul class="legend"></ul>
    </div>
    <p class="spoken" aria-live="polite"></p>
  </div>
</section>
"""


def live_view(lang: str, root: Callable[[], Path], current: Callable[[], dict]) -> gr.HTML:
    """The view of the run that `current` returns, or of the run whose id is written into the property `follow`.

    `root()`: the folder of the runs of whoever asks; of nobody else's anything is said.
    `current()` returns {"run": id or None, "busy": bool, "engine": "starting" | "ready" | "busy" | "off", "loaded":
    {"name", "bits"} or None, "memory": bytes of the engine's process or None}. The value becomes {"run", "engine",
    "ended", "loaded"}, as JSON text, whenever one of them changes, which fires `change`. Until there is a run, the
    recording of the language's demo is played.
    """
    last_runs: dict[Path, str] = {}
    pace = PollPace()
    reader = SharedReader(lambda events: [with_text(event, lang) for event in events], _shortened)

    def since(request: Any) -> dict | None:
        """The events of the followed run after the browser's cursor, and when to ask again."""
        return paced(events_since(request, math.inf))

    def paced(reply: dict | None) -> dict | None:
        if reply is None:
            return None
        is_fast = (reply["busy"] and not reply["waiting"]) or reply["live"]
        return reply | {"wait_s": pace.next_wait(is_fast)}

    def events_since(request: Any, most_bytes: float) -> dict | None:
        """The reply; None where more than `most_bytes` of the run would have to be read for it."""
        now, folder = current(), root()
        if now["run"]:
            last_runs[folder] = now["run"]  # a run stays on the screen after its end, also over a reload
        empty = {"run": "", "cursor": 0, "events": [], "more": False, "live": False}
        empty |= {name: now[name] for name in ("busy", "engine", "loaded", "memory")}
        empty |= {name: now.get(name, "") for name in ("waiting", "waits")}
        query = _validated(request)
        if query is None:
            return empty
        run_id = query["follow"] or last_runs.get(folder, "") or query["run"]
        if not run_id:
            return empty
        if run_id.startswith(SHIPPED):
            return empty | _recording_since(run_id, query, lang)
        try:
            run = runs.find(folder, run_id)
            start = query["cursor"] if run_id == query["run"] else 0
            if run.size() - start > most_bytes:
                return None
            events, cursor = reader.since(run, start, BLOCK)
            fresh = abs(time.time() - (run.folder / "events.jsonl").stat().st_mtime) < FRESH
        except (PlaygroundError, OSError):
            return empty
        return empty | {
            "run": run.id,
            "cursor": cursor,
            "events": thin_memory(events, MAX_MEMORY_EVENTS),
            "more": cursor - start > BLOCK // 2,
            "live": fresh or (now["busy"] and now["run"] == run.id),
        }

    def all_events(request: Any) -> list[dict]:
        """All events of a run, to play it: {"run": id}; of the recorded demo; of a recording that ships."""
        run_id = request.get("run") if isinstance(request, dict) else None
        if run_id == RECORDING:
            found = read_recording(f"demo-{lang}") or read_recording("demo-en")
        elif isinstance(run_id, str) and run_id.startswith(SHIPPED):
            found = read_recording(run_id.removeprefix(SHIPPED))
        else:
            try:
                found = list(runs.find(root(), run_id).events())
            except (PlaygroundError, OSError):
                return []
        return [with_text(event, lang) for event in thin_memory(found, MAX_MEMORY_EVENTS)]

    setattr(since, QUICK, lambda request: paced(events_since(request, NEWS)))
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "live_view.css").read_text(encoding="utf-8"),
        js_on_load="\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        apply_default_css=False,
        container=True,
        server_functions=[since, all_events],
        follow="",
        words=view_words(lang),
        lang=lang,
    )


def _shortened(events: list[dict]) -> list[dict]:
    """A run's events as a figure of them needs them: at most about MAX_STEP_EVENTS steps, and the last one."""
    share = -(-sum(event["kind"] == "step" for event in events) // MAX_STEP_EVENTS)
    return thin_events(thin_memory(events, MAX_MEMORY_EVENTS), share) if share > 1 else events


def _recording_since(run_id: str, query: dict, lang: str) -> dict:
    """The reply for a recording that ships with the program: all its events, once."""
    events = read_recording(run_id.removeprefix(SHIPPED))
    if not events:
        return {}
    fresh = events if run_id != query["run"] or not query["cursor"] else []
    return {"run": run_id, "cursor": 1, "events": [with_text(event, lang) for event in fresh]}


def view_words(lang: str) -> dict[str, str]:
    """The texts of the live view, keyed as its scripts name them."""
    texts = table(lang).items()
    return {key.removeprefix("chart."): text for key, text in texts if key.startswith(("chart.", "phase."))}


def _validated(request: Any) -> dict | None:
    """The browser's {"follow", "run", "cursor"}, or None if a value has a wrong type."""
    if not isinstance(request, dict):
        return None
    follow, run, cursor = request.get("follow", ""), request.get("run", ""), request.get("cursor", 0)
    valid = isinstance(follow, str) and isinstance(run, str) and type(cursor) is int and 0 <= cursor < 2**53
    return {"follow": follow, "run": run, "cursor": cursor} if valid else None


def with_text(event: dict, lang: str) -> dict:
    """A note or an error with its `text` in the page's language, a run's beginning with its model's `name`."""
    if event["kind"] == "run_started":
        model = (event.get("settings") or {}).get("load", {}).get("model", "")
        return event | {"name": catalog.display_name(str(model))}
    if event["kind"] not in ("note", "error"):
        return event
    messages = event.get("problems", []) if event["kind"] == "error" else [event]
    lines = (
        [stored_text(item, lang) for item in messages if isinstance(item, dict)] if isinstance(messages, list) else []
    )
    return event | {"text": "\n".join(lines)}


def error_text(event: dict, lang: str) -> str:
    """The text of an `error` event, one line a problem, also of one that another version of the program wrote."""
    return str(with_text(event, lang).get("text", ""))


def shown_run(value: str | None) -> str:
    """The id of the run in the live view, from its value as it came back from the browser; "" if there is none."""
    try:
        return str(json.loads(value or "{}").get("run") or "")
    except (ValueError, TypeError, AttributeError):
        return ""
