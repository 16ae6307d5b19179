"""The part of the Take home tab that repeats a run elsewhere: command lines, settings file, script and notebook."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from playground import runs, settings
from playground.share.card import shareable
from playground.share.command_lines import (
    SETTINGS_FILE,
    accelerate_command,
    needs_settings_file,
    settings_text,
    tune_command,
)
from playground.share.files import write_whole
from playground.ui import downloads
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box


@dataclass(frozen=True)
class RepeatView:
    """Its components."""

    accordion: gr.Accordion
    command: gr.Textbox
    accelerate: gr.Textbox
    settings: gr.DownloadButton
    upload: gr.UploadButton
    make: gr.Button
    files: gr.File
    preview: gr.Textbox
    message: gr.HTML


def build(page: Page, accordion: gr.Accordion) -> RepeatView:
    """The components, in the accordion that is open for them."""
    word = page.translate
    gr.Markdown(word("repeat.lead"), elem_classes="quiet")
    command = _line(page, "repeat.command", word("repeat.command.info"))
    accelerate = _line(page, "repeat.accelerate", None)
    with gr.Row():
        saved = gr.DownloadButton(word("repeat.settings"), interactive=False)
        upload = gr.UploadButton(word("repeat.upload"), file_types=[".json"])
        make = gr.Button(word("repeat.make"), variant="primary")
    box = message_box()
    files = gr.File(visible=False, interactive=False, show_label=False, file_count="multiple")
    preview = gr.Textbox(
        label=word("repeat.preview"), lines=16, max_lines=16, visible=False, buttons=["copy"], elem_classes="source"
    )
    return RepeatView(accordion, command, accelerate, saved, upload, make, files, preview, box)


def connect(page: Page, view: RepeatView, run: gr.Dropdown) -> None:
    """Write the lines of the chosen run; script and notebook on a click; an opened settings file into the form."""

    def show(run_id: str | None) -> tuple:
        return _lines(page, run_id)

    def make(run_id: str | None) -> Iterator[tuple]:
        yield gr.skip(), gr.skip(), message(page.translate("repeat.busy"))
        yield _files(page, run_id)

    def open_file(path: str) -> list:
        try:
            name = Path(path).name
            chosen = settings.read_file(Path(path), name)
            page.raise_if_forbidden(chosen)
            return [*page.values(chosen), message(page.translate("repeat.opened", file=name))]
        except Exception as error:
            return [*(gr.skip() for _ in page.fields), page.error_message(error)]

    lines = [view.command, view.accelerate, view.settings, view.files, view.preview, view.message]
    for event in (view.accordion.expand, run.change):
        event(show, run, lines, **UNQUEUED)
    view.make.click(make, run, [view.files, view.preview, view.message], **QUIET)
    view.upload.upload(open_file, view.upload, [*page.inputs(), view.message], **UNQUEUED)


def _line(page: Page, key: str, info: str | None) -> gr.Textbox:
    return gr.Textbox(label=page.translate(key), info=info, interactive=False, max_lines=4, buttons=["copy"])


def _lines(page: Page, run_id: str | None) -> tuple[Update, ...]:
    """Updates for a newly chosen run; files that were made for another one disappear."""
    hidden = gr.update(visible=False)
    try:
        run = runs.find(page.root, run_id)
        chosen = page.run_settings(run_id)
        chosen = chosen if page.private else shareable(chosen)
        device = next(run.events(), {}).get("hardware", {}).get("device", "cpu")
        path = write_whole(_folder(page, run.id) / SETTINGS_FILE, settings_text(chosen))
    except Exception as error:
        shown = page.error_message(error) if run_id else message(page.translate("card.none"))
        return "", "", gr.update(interactive=False), hidden, hidden, shown
    note = page.translate("repeat.command.file") if needs_settings_file(chosen) else ""
    download = gr.update(value=path, interactive=True)
    return tune_command(chosen), accelerate_command(chosen, device), download, hidden, hidden, message(note)


def _files(page: Page, run_id: str | None) -> tuple[Update, ...]:
    """Updates once script and notebook are written, with what differs from the run."""
    try:
        run = runs.find(page.root, run_id)
        page.run_settings(run.id)
        made = page.planner.ask("repeat_files", root=str(page.root), run=run.id, folder=str(_folder(page, run.id)))
        script = Path(made["script"]).read_text(encoding="utf-8")
    except Exception as error:
        return gr.update(visible=False), gr.update(visible=False), page.error_message(error)
    notes = [page.translate(note["key"], **note["values"]) for note in made["notes"]]
    text = [page.translate("repeat.made"), *([page.translate("repeat.differs"), *notes] if notes else [])]
    paths = [made[name] for name in ("script", "notebook", "rows") if made[name]]
    return gr.update(value=paths, visible=True), gr.update(value=script, visible=True), message("\n".join(text))


def _folder(page: Page, run_id: str) -> Path:
    """Where the files of a run that are downloaded are written."""
    return downloads.place(page.visitor, "repeat", run_id)
