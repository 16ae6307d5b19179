"""Memory snapshots for PyTorch's viewer: a plan's predicted step, the shown run's measured and predicted one."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from playground import catalog, runs
from playground.errors import PlaygroundError
from playground.i18n import format_bytes
from playground.planning.client import this_machine
from playground.ui import downloads
from playground.ui.live_view import shown_run
from playground.ui.page import QUIET, UNQUEUED, Page, Update, message, message_box

MAX_KEPT = 20  # predictions; Gradio has copied a file before the next one is written

Question = dict[str, Any]  # what is predicted: {"settings" (as a dict), "capacity" (bytes), "device"}


@dataclass(frozen=True)
class PredictedSnapshot:
    """What writes a predicted step and offers its file."""

    write: gr.Button
    file: gr.DownloadButton
    message: gr.HTML

    @property
    def outputs(self) -> list:
        """What a written file, or a change of what is to be predicted, updates."""
        return [self.file, self.message]


@dataclass(frozen=True)
class RunSnapshots:
    """The shown run's measured snapshot and its predicted one. state: whether the run has a measured one, and why."""

    accordion: gr.Accordion
    state: gr.Markdown
    measured: gr.DownloadButton
    predicted: PredictedSnapshot


def records_snapshots() -> bool:
    """Whether a fine-tune on this machine can record one."""
    return this_machine()["device"] == "cuda"


def build_for_plan(page: Page) -> PredictedSnapshot:
    """The Plan tab's components, folded."""
    with gr.Accordion(page.translate("snapshot.title"), open=False):
        how = page.translate("snapshot.how" if records_snapshots() else "snapshot.cpu")
        gr.Markdown(f"{page.translate('snapshot.lead')}\n\n{how}", elem_classes="quiet")
        with gr.Row():
            predicted = _build_predicted(page)
    return predicted


def build_for_run(page: Page) -> RunSnapshots:
    """The Runs tab's components, folded."""
    with gr.Accordion(page.translate("snapshot.title"), open=False) as accordion:
        gr.Markdown(page.translate("snapshot.lead"), elem_classes="quiet")
        state = gr.Markdown(elem_classes="quiet")
        with gr.Row():
            measured = gr.DownloadButton(page.translate("snapshot.measured"), interactive=False, size="sm")
            predicted = _build_predicted(page)
    return RunSnapshots(accordion, state, measured, predicted)


def connect_plan(page: Page, view: PredictedSnapshot, question: Callable[..., Question], inputs: Sequence) -> None:
    """Attach the Plan tab's listeners. question: from the values of `inputs`; raises PlaygroundError."""
    _connect_predicted(page, view, question, inputs)
    gr.on([component.change for component in inputs], lambda: _no_file(), None, view.outputs, **UNQUEUED)


def connect_run(page: Page, view: RunSnapshots, live_view: gr.HTML) -> None:
    """Attach the Runs tab's listeners. live_view: its value tells which run is shown.

    The measured file, of up to gigabytes, is offered while the accordion is open alone: the live view changes at every
    start and end of a job, and what a button gets then is Gradio's work in the page's event loop.
    """
    outputs = [view.state, view.measured, view.predicted.write, *view.predicted.outputs]
    is_open = gr.State(False)

    def unfold(value: str) -> tuple[Update, ...]:
        return True, *_run_updates(page, shown_run(value))

    def follow(value: str, unfolded: bool) -> tuple[Update, ...]:
        return _run_updates(page, shown_run(value), unfolded)

    view.accordion.expand(unfold, live_view, [is_open, *outputs], **UNQUEUED)
    view.accordion.collapse(lambda: (False, _no_measured()), None, [is_open, view.measured], **UNQUEUED)
    live_view.change(follow, [live_view, is_open], outputs, **UNQUEUED)
    _connect_predicted(page, view.predicted, lambda value: run_question(page, shown_run(value)), [live_view])


def run_question(page: Page, run_id: str) -> Question:
    """What predicts a run's step on the run's own hardware. Raises PlaygroundError."""
    run = runs.find(page.root, run_id)
    settings, hardware = run.settings(), next(run.events(), {}).get("hardware") or {}
    page.raise_if_forbidden(settings, of_run=True)
    device = hardware.get("device", "cpu")
    return {"settings": settings.to_dict(), "capacity": hardware.get("capacity", 0), "device": device}


def write_predicted(page: Page, question: Question) -> Path:
    """Write the predicted step into the folder of downloads, under a name of its own. Raises PlaygroundError."""
    load = question["settings"]["load"]
    model = re.sub(r"\W+", "-", catalog.display_name(load["model"]), flags=re.ASCII).strip("-").lower()[-60:]
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:8]
    bits = f"{load['bits']}-bit" if load["bits"] else "auto"
    place = downloads.folder() / "predicted"
    place.mkdir(exist_ok=True)
    path = place / f"predicted-{model}-{bits}-{digest}.pickle"
    page.planner.ask("write_tune_snapshot", path=str(path), **question)
    for old in sorted(place.glob("*.pickle"), key=lambda file: file.stat().st_mtime)[:-MAX_KEPT]:
        old.unlink(missing_ok=True)
    return path


def _build_predicted(page: Page) -> PredictedSnapshot:
    write = gr.Button(page.translate("snapshot.write"), size="sm")
    file = gr.DownloadButton(page.translate("snapshot.predicted"), visible=False, variant="primary", size="sm")
    return PredictedSnapshot(write, file, message_box())


def _connect_predicted(
    page: Page, view: PredictedSnapshot, question: Callable[..., Question], inputs: Sequence
) -> None:
    """Write the predicted step on a click."""

    def write(*values: Any) -> Iterator[tuple]:
        yield gr.skip(), message(page.translate("snapshot.busy"))
        try:
            path = write_predicted(page, question(*values))
        except Exception as error:
            yield gr.update(visible=False), page.error_message(error)
            return
        yield _download(page, "snapshot.predicted", path), message()

    view.write.click(write, list(inputs), view.outputs, **QUIET, preprocess=False)


def _run_updates(page: Page, run_id: str, unfolded: bool = True) -> tuple[Update, ...]:
    """Updates for the run that is shown now; its measured file only where the accordion is unfolded."""
    try:
        run = runs.find(page.root, run_id)
        first = next(run.events(), {})
    except PlaygroundError:
        first = {}
    if first.get("job") != "tune":
        state, measured = page.translate("snapshot.no_tune"), None
    else:
        state, measured = _measured(page, run, first) if unfolded else ("", None)
    button = _download(page, "snapshot.measured", measured) if measured else _no_measured()
    return state, button, gr.update(interactive=first.get("job") == "tune"), *_no_file()


def _measured(page: Page, run: runs.Run, first: dict) -> tuple[str, Path | None]:
    """Whether a fine-tune has a measured snapshot, in a sentence, and its file for download."""
    if run.snapshot.is_file():
        size = run.snapshot.stat().st_size
        if size <= downloads.MAX_DOWNLOAD_BYTES:
            return page.translate("snapshot.recorded"), downloads.link(run.snapshot, page.visitor, run.id)
        path = str(run.snapshot) if page.private else f"{run.id}/{run.snapshot.name}"
        return page.translate("snapshot.too_large", size_bytes=size, path=path), None
    if (first.get("hardware") or {}).get("device") == "cpu":
        return page.translate("snapshot.run_cpu"), None
    asked = ((first.get("settings") or {}).get("train") or {}).get("memory_snapshot")
    return page.translate("snapshot.at_the_end" if asked else "snapshot.not_recorded"), None


def _download(page: Page, key: str, path: Path) -> Update:
    label = f"{page.translate(key)} · {format_bytes(path.stat().st_size)}"
    return gr.update(value=str(path), label=label, interactive=True, visible=True)


def _no_measured() -> Update:
    return gr.update(value=None, interactive=False)


def _no_file() -> tuple[Update, Update]:
    """Updates once a written file is no longer the prediction of what is chosen."""
    return gr.update(value=None, visible=False), message()
