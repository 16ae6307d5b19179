"""The table of runs: a gr.HTML that draws a page of them and fires one event for each button of a row.

Fine-tunes stand first; loads, chats and bit widths are folded below them. Script and style: assets/runs_table.js and
.css. Its value is the first page; for other pages, searches and orders the browser calls the server function `listed`,
so that thousands of runs never travel at once. Events, each with {"run": id} as its data: show_run, use_settings,
resume_run, delete_run, restore_run, label_run (with "name" and "note"); choose_runs with {"runs": the ids of all ticked
ones}; without a run: show_live, empty_trash. All of that comes from the browser: whoever listens looks ids up with
`runs.find`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from playground import ASSETS, runs
from playground.errors import stored_text
from playground.i18n import format_bytes, format_duration, table, translate
from playground.runs import RunSummary, damaged
from playground.runs.query import PAGE, STATES, Query, changed_settings, find_runs, parse_query, setting_text
from playground.ui.page import Page
from playground.ui.run_names import automatic_name, display_name, recorded_mark

TICK_WORDS = ("overlay.choose", "overlay.chosen", "overlay.show", "overlay.clear")
GROUPS = ("tunes", "others")
SORTED_BY = ("began", "name", "model", "bits", "data", "loss", "recall", "predicted", "peak", "speed", "time", "state")
LIST = """
  <div class="scroll" tabindex="0" role="region"><table role="table">
    <thead role="rowgroup"><tr role="row"></tr></thead><tbody role="rowgroup"></tbody></table></div>
  <p class="pages" hidden><button type="button" data-move="-1"></button> <span></span>
    <button type="button" data-move="1"></button></p>
"""
TEMPLATE = f"""
<section class="runs">
  <p class="none" hidden></p>
  <button type="button" class="back" hidden></button>
  <form class="query" role="search" hidden><input type="search" maxlength="200"><select class="state"></select>
    <select class="sort"></select><button type="button" class="reverse" aria-pressed="false">↑↓</button></form>
  <div class="tunes" hidden><h4></h4>{LIST}</div>
  <details class="others" hidden><summary></summary>{LIST}</details>
  <p class="chosen" aria-live="polite" hidden><span></span> <button type="button" class="go"></button>
    <button type="button" class="clear"></button></p>
  <p class="trash" hidden><span></span> <button type="button"></button></p>
</section>
"""


def runs_table(page: Page) -> gr.HTML:
    """The table, empty until it gets a value from `table_value`.

    Its words stand in the script rather than in properties, which Gradio (6.31) loses where a component is updated
    before the tab that it is in was first opened.
    """
    lang = page.lang
    words = {key.removeprefix("runs."): text for key, text in table(lang).items() if key.startswith("runs.")}
    words |= {key: table(lang)[key] for key in TICK_WORDS}
    words |= {f"state.{state}": translate(lang, f"state.{state}") for state in STATES}
    constants = {"WORDS": words, "LANG": lang, "STATES": STATES, "SORTED_BY": SORTED_BY, "PAGE": PAGE}
    script = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in constants.items())

    def listed(request: Any) -> dict[str, Any]:
        """The runs of {"shown", "query", "first": {group: number of the first row}}; from the browser."""
        values = request if isinstance(request, dict) else {}
        shown, first = values.get("shown"), values.get("first")
        return table_page(
            page,
            shown if isinstance(shown, str) else "",
            parse_query(values.get("query")),
            first if isinstance(first, dict) else {},
        )

    return gr.HTML(
        html_template=TEMPLATE,
        css_template=(ASSETS / "runs_table.css").read_text(encoding="utf-8"),
        js_on_load=script + (ASSETS / "runs_table.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        server_functions=[listed],
    )


def table_value(page: Page, shown: str) -> str:
    """The table's value as JSON text: `table_page` of the newest runs. shown: the id of the live view's run, or "".

    Where thousands were never read, it has "unread": true, and the browser asks for the page again when it is shown.
    """
    (kept, counts), gone = runs.with_deleted(page.root, lambda root: runs.newest(root, PAGE))
    value = table_page(page, shown, Query(), {}, (kept, gone))
    if counts:
        value |= {group: {"count": counts[group], "first": 0} for group in GROUPS}
        value |= {"all": sum(counts.values()), "unread": True}
    return json.dumps(value, ensure_ascii=False)


def table_page(
    page: Page,
    shown: str,
    query: Query,
    first: dict[str, Any],
    found: tuple[Sequence[RunSummary], Sequence[RunSummary]] | None = None,
) -> dict[str, Any]:
    """A page of each group of runs, at most PAGE rows from number first[group] on.

    {"shown", "live" (whether another run is live: the way back to it is offered), "all" (how many runs there are),
    "trash" (whether there are deleted ones), "tunes" and "others": {"count" (that match the query), "first"}, "runs"};
    runs, also those in the trash, in the query's order: {"id", "tune", "deleted", "own" (the name that a person gave
    it, or ""), "name" (the one by itself), "note", "began" (Unix time, 0: not known), "settings" (that it is a
    recording, and texts of those that distinguish it), "loss" and "facts" ([before, after] or None), "peak"
    ([predicted, measured], "" for none), "speed",
    "time", "state", "status" (its text), "why" (it failed), "resume" ("", "ready", "busy")}.
    found: the runs that aren't deleted, and the deleted ones, each newest first (all of them).
    """
    kept, gone = found or runs.with_deleted(page.root, runs.history)
    deleted = {run.id for run in gone} - {run.id for run in kept}
    working = page.engine.run if page.engine.state == "busy" else None
    listed = [replace(run, state="running") if run.id == working else run for run in _merged(kept, gone)]
    matching = find_runs(listed, query, lambda run: display_name(run, page.lang))
    groups = {
        "tunes": [run for run in matching if run.job == "tune"],
        "others": [run for run in matching if run.job != "tune"],
    }
    starts = {group: _start(first.get(group), len(groups[group])) for group in GROUPS}
    return {
        "shown": shown,
        "live": page.engine.run is not None and shown != page.engine.run,
        "all": len(listed),
        "trash": bool(gone),
        **{group: {"count": len(groups[group]), "first": starts[group]} for group in GROUPS},
        "runs": [
            _row_or_why(page, run, run.id in deleted)
            for group in GROUPS
            for run in groups[group][starts[group] : starts[group] + PAGE]
        ],
    }


def _merged(kept: Sequence[RunSummary], gone: Sequence[RunSummary]) -> list[RunSummary]:
    """Runs and deleted runs, newest first; a run that came back by hand is listed once."""
    ids = {run.id for run in kept}
    return sorted([*kept, *(run for run in gone if run.id not in ids)], key=lambda run: run.id, reverse=True)


def _start(wanted: Any, count: int) -> int:
    """The first row of the page that row number `wanted` is on, or of the last page."""
    number = wanted if type(wanted) is int else 0
    return max(0, min(number, count - 1)) // PAGE * PAGE


def _row_or_why(page: Page, run: RunSummary, deleted: bool) -> dict[str, Any]:
    """A run's row; of one with values that can't be shown, why."""
    try:
        return _row(page, run, deleted)
    except Exception as error:
        return _row(page, damaged(run.id, error), deleted)


def _row(page: Page, run: RunSummary, deleted: bool) -> dict[str, Any]:
    resumable = not deleted and run.is_resumable
    mark = [recorded_mark(run.recorded, page.lang)] if run.recorded else []
    return {
        "id": run.id,
        "tune": run.job == "tune",
        "deleted": deleted,
        "own": run.label.name,
        "name": automatic_name(run, page.lang),
        "note": run.label.note,
        "began": 0 if run.recorded else run.began,
        "settings": [*mark, *(setting_text(name, value) for _, name, value in changed_settings(run))],
        "loss": [f"{loss:.3f}" for loss in run.loss] if run.loss else None,
        "forgetting": f"{max(run.forgetting.values()):+.2f}".replace("-", "−") if run.forgetting else "",
        "facts": [f"{share:.0%}" for share in run.recall] if run.recall else None,
        "peak": ["" if size is None else format_bytes(size) for size in run.peak],
        "speed": "" if run.tokens_per_s is None else f"{run.tokens_per_s:,.0f}",
        "time": format_duration(run.seconds) if run.seconds else "",
        "state": run.state,
        "status": translate(page.lang, f"state.{run.state}"),
        "why": stored_text(run.problems[0], page.lang).split("\n")[0] if run.problems else "",
        "resume": "" if not resumable else "busy" if page.engine.state == "busy" else "ready",
    }
