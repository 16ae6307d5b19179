"""Which adapter Compare uses: every run that has one, and a new fine-tune selected by itself, once."""

from functools import partial
from typing import Any

import gradio as gr

from playground import runs
from playground.data.allowed_names import forbidden_adapter
from playground.ui.foreign_adapter import foreign_name, is_foreign
from playground.ui.kept_state import with_kept
from playground.ui.page import LAST_INPUT, UNQUEUED, Page, Update
from playground.ui.run_names import adapter_name

KEPT = "chat.adapter"  # the name under which the browser keeps the choice


def adapter_choices(page: Page) -> list[tuple[str, str]]:
    """Every run that has an adapter, newest first, and "none"."""
    choices = [(adapter_name(page.lang, run), run.id) for run in runs.history(page.root) if run.has_adapter]
    return [*choices, (page.translate("chat.none"), "")]


def choices_with(page: Page, adapter: str) -> list[tuple[str, str]]:
    """The choices, with an adapter from elsewhere first if that is the selected one."""
    if not is_foreign(adapter):
        return adapter_choices(page)
    return [(page.translate("chat.elsewhere.choice", name=foreign_name(adapter)), adapter), *adapter_choices(page)]


def latest_tuned_run(page: Page) -> str:
    """The run of the last fine-tune of this program, once it has ended with an adapter; else ""."""
    job = page.engine.last_tune
    ids = [run_id for _, run_id in adapter_choices(page)]
    return job.run if job and job.ended and job.run and job.run in ids else ""


def adapter_update(page: Page, kept: str, adapter: str | None, seen: dict[str, Any]) -> Update:
    """An update of the choices, and of what is selected only where it has to change.

    A person may choose while this is on its way, so that a value which is sent without need could undo that. Selected
    are: as the page opens `kept`, what was selected on the page before this one (or ""); then a fine-tune that was not
    `seen`; and the first choice where nothing is selected yet, or what was is gone. seen: "run", the newest fine-tune
    that this page has selected or the person has turned down, and "begun", whether anything was selected. It is
    changed in place, since other updates can be under way.
    """
    if is_foreign(kept) and not page.private and forbidden_adapter(kept):
        kept = ""
    choices, tuned = choices_with(page, kept or adapter or ""), latest_tuned_run(page)
    ids = [run_id for _, run_id in choices]
    selected = None
    if kept and kept in ids:
        selected = kept
    elif tuned not in ("", seen.get("run")):
        selected = tuned
    elif adapter not in ids and (adapter is not None or not seen.get("begun")):
        selected = ids[0]
    seen |= {"run": tuned, "begun": True}
    return gr.update(choices=choices) if selected is None else gr.update(choices=choices, value=selected)


def connect(page: Page, adapter: gr.Dropdown, seen: gr.State, header: gr.Tab) -> None:
    """Keep the choices current as the tab opens, and remember which fine-tune was selected or turned down.

    Gradio (6.31) forgets the choices of a list that is updated before its tab was opened.
    """
    inputs = [gr.Textbox(visible=False), adapter, seen]
    header.select(partial(adapter_update, page), inputs, adapter, js=with_kept(KEPT), **UNQUEUED)

    def turned_down(seen: dict[str, Any]) -> None:
        seen["run"] = latest_tuned_run(page)

    adapter.input(turned_down, seen, None, **LAST_INPUT)
