"""The part of the Runs tab on recordings: play one that ships, open a file, save the shown run as one."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr

from playground import catalog, runs
from playground.errors import PlaygroundError
from playground.i18n import format_bytes, translate
from playground.runs import recordings
from playground.settings import parse
from playground.share.files import write_whole
from playground.ui import downloads
from playground.ui.live_view import SHIPPED, shown_run
from playground.ui.page import UNQUEUED, Page, Update, message, message_box
from playground.ui.run_names import data_name

DAMAGED = (ValueError, AttributeError, KeyError, TypeError)  # what reading a damaged run raises


@dataclass(frozen=True)
class RecordingsView:
    """Its components."""

    accordion: gr.Accordion
    choice: gr.Dropdown
    play: gr.Button
    upload: gr.UploadButton
    save: gr.DownloadButton
    message: gr.HTML


def build(page: Page) -> RecordingsView:
    """The components, folded."""
    word = page.translate
    with gr.Accordion(word("recordings.title"), open=False) as accordion:
        gr.Markdown(word("recordings.lead"), elem_classes="quiet")
        with gr.Row(elem_classes="inline"):
            listed = [(describe(page.lang, name), name) for name in recordings.names()]
            choice = gr.Dropdown(label=word("recordings.choice"), choices=listed, scale=3, min_width=300)
            play = gr.Button(word("recordings.play"), scale=1, min_width=110)
        with gr.Row():
            upload = gr.UploadButton(word("recordings.open"), file_types=[".jsonl"], visible=page.private)
            save = gr.DownloadButton(word("recordings.save"), interactive=False)
        box = message_box()
    return RecordingsView(accordion, choice, play, upload, save, box)


def connect(page: Page, view: RecordingsView, live_view: gr.HTML) -> None:
    """Attach the listeners. live_view: plays what is chosen; its value tells which run is shown."""

    def open_file(path: str) -> tuple:
        try:
            return gr.update(follow=recordings.replay(Path(path), page.root).id), message()
        except Exception as error:
            return gr.skip(), page.error_message(error)

    view.play.click(lambda name: gr.update(follow=SHIPPED + (name or "")), view.choice, live_view, **UNQUEUED)
    if page.private:  # what a hidden button is listened to by could be called by anyone
        view.upload.upload(open_file, view.upload, [live_view, view.message], **UNQUEUED)
    for event in (view.accordion.expand, live_view.change):
        event(lambda value: _save_button(page, value), live_view, [view.save, view.message], **UNQUEUED)


def describe(lang: str, name: str) -> str:
    """A recording in one line: the job, model, bits, what is trained and on what, the hardware, and how it ended."""
    word = partial(translate, lang)
    first, last = recordings.first_and_last(name)
    settings = parse(first["settings"])
    title = word(
        "chart.title",
        job=word(f"chart.job.{first['job']}"),
        model=catalog.display_name(settings.load.model),
        bits=settings.load.bits,
    )
    parts = [title, *([data_name(settings.data.source, lang)] if first["job"] == "tune" else [])]
    if first["job"] == "tune" and settings.train.method == "full":
        parts.append(word("recordings.full"))
    if last["kind"] == "error":
        parts.append(word("recordings.failed", gib=settings.load.simulate_gpu_gib))
    else:
        peak = last["result"]["peak"]
        parts.append(format_bytes(peak.get("device_used", peak.get("rss"))))
    return " · ".join([*parts, first["hardware"]["name"]])


def _save_button(page: Page, value: str | None) -> tuple[Update, Update]:
    """The button that saves the shown run as a recording, and why it can't be pressed where that run makes none."""
    run_id = shown_run(value)
    try:
        text = recordings.record(list(runs.find(page.root, run_id).events()))
        path = write_whole(downloads.place(page.visitor, "recordings") / f"{run_id}.jsonl", text)
    except PlaygroundError as error:
        shows_a_run = error.problems[0].key != "error.no_run"
        return gr.update(value=None, interactive=False), message(error.text(page.lang) if shows_a_run else "")
    except OSError as error:
        return gr.update(value=None, interactive=False), page.error_message(error)
    except DAMAGED:
        return gr.update(value=None, interactive=False), message()
    return gr.update(value=path, interactive=True), message()
