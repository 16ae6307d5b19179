"""The table of runs: a gr.HTML that draws its property `runs` and fires one event for each button of a row.

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
  <button type="button" class="live" hidden></button>
  <div class="tunes" hidden><h4></h4><div class="scroll" tabindex="0" role="region"><table role="table">
    <thead role="rowgroup"><tr role="row"></tr></thead><tbody role="rowgroup"></tbody></table></div></div>
  <details class="others" hidden><summary></summary><div class="scroll" tabindex="0" role="region"><table role="table">
    <thead role="rowgroup"><tr role="row"></tr></thead><tbody role="rowgroup"></tbody></table></div></details>
  <p class="trash" hidden><span></span> <button type="button"></button></p>
</section>
"""


def runs_table(lang: str) -> gr.HTML:
    """The table, empty. Properties: `runs`, JSON text as `listing` makes it; `shown`, the id of the run to mark;
    `live`, whether "Back to the live run" is offered.
    """
    words = {key.removeprefix("runs."): text for key, text in table(lang).items() if key.startswith("runs.")}
    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "runs_table.css").read_text(encoding="utf-8"),
        js_on_load=(ASSETS / "runs_table.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        runs="[]",
        shown="",
        live=False,
        words=words,
        lang=lang,
    )


def listing(page: Page) -> str:
    """Every run, also those in the trash, newest first, as JSON text.

    Each {"id", "tune", "deleted", "name", "began" (Unix time), "loss" and "facts" ([before, after] or None), "time",
    "state", "status" (its text), "resume" ("", "ready", "busy")}; everything but ids, times and states is text to read.
    """
    entries = [_row(page, run, deleted=False) for run in runs.history(page.root)]
    entries += [_row(page, run, deleted=True) for run in runs.deleted(page.root)]
    return json.dumps(sorted(entries, key=lambda entry: entry["id"], reverse=True), ensure_ascii=False)


def _row(page: Page, run: RunSummary, deleted: bool) -> dict[str, Any]:
    state = "running" if page.engine.state == "busy" and page.engine.run == run.id else run.state
    resumable = not deleted and (page.root / run.id / CHECKPOINT).is_file()
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
