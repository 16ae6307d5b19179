"""Which adapter Compare uses: every run that has one, and a new fine-tune selected by itself, once."""

from functools import partial

import gradio as gr

from playground import runs
from playground.data.allowed_names import forbidden_adapter
from playground.ui.foreign_adapter import foreign_name, is_foreign
from playground.ui.kept_state import with_kept
from playground.ui.page import UNQUEUED, Page, Update
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


def restored_update(page: Page, kept: str, adapter: str | None, seen_run: str) -> tuple[Update, str]:
    """As `adapter_update`, with seen_run; kept: what was selected on the page before this one, or ""."""
    if kept and (not is_foreign(kept) or page.private or not forbidden_adapter(kept)):
        adapter, seen_run = kept, latest_tuned_run(page)
    return adapter_update(page, adapter, seen_run), seen_run


def adapter_update(page: Page, adapter: str | None, seen_run: str) -> Update:
    """An update of the choices. A fine-tune that isn't `seen_run` is selected, else the choice stays while it exists.

    seen_run: the newest fine-tune that this page has selected already, or the person has turned down.
    """
    choices, tuned = choices_with(page, adapter or ""), latest_tuned_run(page)
    ids = [run_id for _, run_id in choices]
    selected = tuned if tuned not in ("", seen_run) else adapter if adapter in ids else ids[0]
    return gr.update(choices=choices, value=selected)


def connect(page: Page, adapter: gr.Dropdown, seen_run: gr.State, header: gr.Tab) -> None:
    """Keep the choices current as the tab opens, and remember which fine-tune was selected or turned down.

    Gradio (6.31) forgets the choices of a list that is updated before its tab was opened.
    """
    listed, kept = [adapter, seen_run], gr.Textbox(visible=False)
    header.select(partial(restored_update, page), [kept, *listed], listed, js=with_kept(KEPT), **UNQUEUED)
    adapter.input(lambda: latest_tuned_run(page), None, seen_run, **UNQUEUED)
    adapter.change(partial(_seen_after, page), [adapter, seen_run], seen_run, **UNQUEUED)


def _seen_after(page: Page, adapter: str, seen_run: str) -> str:
    """The newest fine-tune, once it is selected; until then the one before."""
    tuned = latest_tuned_run(page)
    return tuned if adapter == tuned else seen_run
