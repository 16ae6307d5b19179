"""Runs laid over each other on the Runs tab: two to four that are ticked in its table, in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError
from playground.runs.overlay import FEWEST, check_count, overlay
from playground.share.overlay_figures import overlay_figures
from playground.ui.page import LATEST_ONLY, QUIET, UNQUEUED, Page, Update
from playground.ui.run_names import display_name

MOST_SENT = 50  # ids of runs that are looked up, of those that the browser sends


@dataclass(frozen=True)
class OverlayView:
    """Its components. chosen_runs: the ids of the ticked runs that exist, in the order in which they were ticked.

    There can be less than two or more than four of them.
    """

    chosen_runs: gr.State
    picture: gr.HTML


def build(page: Page) -> OverlayView:
    """The components, empty until runs are chosen."""
    lead = f'<p class="quiet">{escape(page.translate("overlay.lead"))}</p>'
    return OverlayView(gr.State([]), gr.HTML(lead, elem_id="runs-overlay"))


def connect(page: Page, view: OverlayView, table: gr.HTML, live_view: gr.HTML) -> None:
    """Draw the picture when runs are ticked, and again when a job begins or ends: one of them may be its run."""

    def choose(event: gr.EventData) -> list[str]:
        return existing(page, getattr(event, "runs", None))

    def redraw(chosen: list[str]) -> Update:
        return picture(page, chosen) if len(chosen) >= FEWEST else gr.skip()

    # Queued, since a gr.State (6.31) calls its listeners after a queued handler only; one by one, to keep their order.
    table.choose_runs(choose, None, view.chosen_runs, trigger_mode="multiple", concurrency_limit=1, **QUIET)
    view.chosen_runs.change(lambda chosen: picture(page, chosen), view.chosen_runs, view.picture, **LATEST_ONLY)
    live_view.change(redraw, view.chosen_runs, view.picture, **UNQUEUED)


def existing(page: Page, sent: Any) -> list[str]:
    """The runs among the ids that the browser sent, which can be anything."""
    ids = [item for item in sent[:MOST_SENT] if isinstance(item, str)] if isinstance(sent, list) else []
    found = []
    for run_id in dict.fromkeys(ids):
        try:
            found.append(runs.find(page.root, run_id).id)
        except PlaygroundError:  # deleted meanwhile
            continue
    return found


def picture(page: Page, chosen: Sequence[str]) -> str:
    """The chosen runs laid over each other; a sentence where they are too few or too many, or one is gone."""
    if not chosen:
        return f'<p class="quiet">{escape(page.translate("overlay.lead"))}</p>'
    try:
        check_count(chosen)
        found = overlay(page.root, chosen)
    except (PlaygroundError, OSError) as error:
        text = error.text(page.lang) if isinstance(error, PlaygroundError) else page.translate("overlay.gone")
        look = "good" if len(chosen) < FEWEST else "bad"
        return f'<div class="notice {look}" role="status"><p>{escape(text)}</p></div>'
    return overlay_figures(found, [display_name(run, page.lang) for run in found.runs], page.lang)
