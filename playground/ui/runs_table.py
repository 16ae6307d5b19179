"""The table of runs: a gr.HTML that draws its value and fires one event for each button of a row.

Fine-tunes stand first; loads and chats are folded below them. Script and style: assets/runs_table.js and .css.
Events, each with {"run": id} as its data: show_run, use_settings, resume_run, delete_run, restore_run; without a run:
show_live, empty_trash. The ids come from the browser: whoever listens looks them up with `runs.find`.
"""

import json
from typing import Any

import gradio as gr

from playground import ASSETS, runs
from playground.i18n import table, translate
from playground.runs import RunSummary
from playground.ui.page import Page
from playground.ui.run_names import short_display_name

CHECKPOINT = "checkpoint.pt"  # as train/checkpoint.py names it, which imports torch
TEMPLATE = """
<section class="runs">
  <p class="none" hidden></p>
  <button type="button" class="back" hidden></button>
  <div class="tunes" hidden><h4></h4><div class="scroll" tabindex="0" role="region"><table role="table">
    <thead role="rowgroup"><tr role="row"></tr></thead><tbody role="rowgroup"></tbody></table></div></div>
  <details class="others" hidden><summary></summary><div class="scroll" tabindex="0" role="region"><table role="table">
    <thead role="rowgroup"><tr role="row"></tr></thead><tbody role="rowgroup"></tbody></table></div></details>
  <p class="trash" hidden><span></span> <button type="button"></button></p>
</section>
"""


def runs_table(lang: str) -> gr.HTML:
    """The table, empty until it gets a value from `table_value`.

    Its words stand in the script rather than in properties, which Gradio (6.31) loses where a component is updated
    before the tab that it is in was first opened.
    """
    words = {key.removeprefix("runs."): text for key, text in table(lang).items() if key.startswith("runs.")}
    constants = f"const WORDS = {json.dumps(words)}, LANG = {json.dumps(lang)};\n"
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "runs_table.css").read_text(encoding="utf-8"),
        js_on_load=constants + (ASSETS / "runs_table.js").read_text(encoding="utf-8"),
        apply_default_css=False,
    )


def table_value(page: Page, shown: str) -> str:
    """The table's value as JSON text. shown: the id of the run in the live view, or "".

    {"shown", "live" (whether another run is live: the way back to it is offered), "runs"}; runs, newest first and also
    those in the trash: {"id", "tune", "deleted", "name", "began" (Unix time), "loss" and "facts" ([before, after] or
    None), "time", "state", "status" (its text), "resume" ("", "ready", "busy")}.
    """
    rows = [_row(page, run, deleted=False) for run in runs.history(page.root)]
    rows += [_row(page, run, deleted=True) for run in runs.deleted(page.root)]
    rows.sort(key=lambda row: row["id"], reverse=True)
    live = page.engine.run is not None and shown != page.engine.run
    return json.dumps({"shown": shown, "live": live, "runs": rows}, ensure_ascii=False)


def _row(page: Page, run: RunSummary, deleted: bool) -> dict[str, Any]:
    state = "running" if page.engine.state == "busy" and page.engine.run == run.id else run.state
    resumable = not deleted and runs.is_resumable(run, (page.root / run.id / CHECKPOINT).is_file())
    return {
        "id": run.id,
        "tune": run.job == "tune",
        "deleted": deleted,
        "name": short_display_name(run, page.lang),
        "began": run.began,
        "loss": _change(run.result.get("loss"), "before", "after", "{:.3f}"),
        "facts": _change(run.result.get("recall"), "base", "tuned", "{:.0%}"),
        "time": format_duration(run.seconds) if run.seconds else "",
        "state": state,
        "status": translate(page.lang, f"state.{state}"),
        "resume": "" if not resumable else "busy" if page.engine.state == "busy" else "ready",
    }


def _change(figures: Any, first: str, second: str, form: str) -> list[str] | None:
    """Two figures of a result as text; None unless both are numbers, which a run of another version may lack."""
    pair = [figures.get(name) for name in (first, second)] if isinstance(figures, dict) else []
    if len(pair) != 2 or not all(isinstance(figure, (int, float)) for figure in pair):
        return None
    return [form.format(figure) for figure in pair]


def format_duration(seconds: float) -> str:
    """Seconds as m:ss, from an hour on as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
