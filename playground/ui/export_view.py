"""The part of the Take home tab that exports: format, size and free disk before, progress, and the files as downloads.

The engine writes into the run's own folder, `export/`; whoever opens the page names no other place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from playground import runs
from playground.errors import PlaygroundError, problem
from playground.export.destination import free_bytes
from playground.export.hub import machine_token
from playground.export.order import CONTENTS, GGUF_BITS, KINDS, ExportOrder, differs_much, estimated_bytes, parse_order
from playground.i18n import format_bytes
from playground.job import Job
from playground.ui import rows_view, sign_in
from playground.ui.downloads import MAX_DOWNLOAD_BYTES, link
from playground.ui.page import LATEST_ONLY, QUIET, UNQUEUED, Page, Update, message, message_box

FOLDER = "export"  # in a run's own, as engine/export.py has it
FIELDS = ("to", "type", "content", "repo", "name", "force")  # of an ExportOrder, as the form has them


@dataclass(frozen=True)
class ExportView:
    """Its components. kept: a file of a run's exports: the run's id, and a path under FOLDER."""

    to: gr.Radio
    type: gr.Dropdown
    content: gr.Radio
    repo: gr.Textbox
    token: gr.Textbox
    login: gr.LoginButton | None
    name: gr.Textbox
    force: gr.Checkbox
    size: gr.HTML
    start: gr.Button
    stop: gr.Button
    message: gr.HTML
    kept: gr.Dropdown
    download: gr.DownloadButton

    @property
    def order(self) -> list[Any]:
        """The components of FIELDS."""
        return [getattr(self, name) for name in FIELDS]


def build(page: Page) -> ExportView:
    """The components."""
    word = page.translate
    gr.Markdown(f"### {word('export.title')}")
    to = gr.Radio([(word(f"export.to.{kind}"), kind) for kind in KINDS], value=KINDS[0], label=word("export.to"))
    with gr.Row():
        types = [(name.upper(), name) for name in GGUF_BITS]
        kind = gr.Dropdown(types, value="q8_0", label=word("export.type"), info=word("export.type.info"), visible=False)
        content = gr.Radio(
            [(word(f"export.content.{name}"), name) for name in CONTENTS],
            value=CONTENTS[0],
            label=word("export.content"),
            visible=False,
        )
        repo = gr.Textbox(label=word("export.repo"), info=word("export.repo.info"), visible=False, max_lines=1)
        about = word(f"export.token.{_token_source(page)}")
        token = gr.Textbox(label=word("export.token"), info=about, type="password", visible=False, max_lines=1)
    login = sign_in.build(page)
    with gr.Row():
        name = gr.Textbox(label=word("export.name"), info=word("export.name.info"), max_lines=1, scale=2)
        force = gr.Checkbox(label=word("export.force"), scale=1)
    size = gr.HTML(elem_classes="export-size")
    with gr.Row(elem_classes="actions"):
        start = gr.Button(word("export.start"), variant="primary", elem_id="export-start")
        stop = gr.Button(word("export.stop"), elem_id="export-stop")
    box = message_box()
    with gr.Row():
        kept = gr.Dropdown([], label=word("export.kept"), info=word("export.kept.info"), value=None, scale=3)
        download = gr.DownloadButton(word("export.download"), interactive=False, scale=1, min_width=110)
    return ExportView(to, kind, content, repo, token, login, name, force, size, start, stop, box, kept, download)


def connect(page: Page, view: ExportView, run: gr.Dropdown) -> None:
    """Attach the listeners. run: the chosen run's id."""
    outputs = [view.message, view.start]

    def start(run_id: str | None, token: str, *values: Any) -> Iterator[list]:
        try:
            order, used = _order(page, run_id, values), _token(page, values, token)
            job = page.engine.export(order, used)
        except PlaygroundError as error:
            yield [page.error_message(error), gr.skip()]
            return
        yield from _follow(page, job)

    def describe(run_id: str | None, *values: Any) -> list:
        login = [gr.update(visible=values[0] == "hub")] if view.login else []
        return [_size(page, run_id, values), *_visible(values[0]), *login]

    fields: list[Any] = [view.size, view.type, view.content, view.repo, view.token, view.name, view.force]
    fields += [view.login] if view.login else []
    exported = view.start.click(start, [run, view.token, *view.order], outputs, **QUIET)
    # Of the run that is chosen by then: another one than that of the export, where somebody looked at it meanwhile.
    exported.then(lambda run_id: _kept_update(page, run_id), run, view.kept, **UNQUEUED)
    view.stop.click(page.stop("export"), None, None, **UNQUEUED)
    changes = [component.change for component in (run, view.to, view.type, view.content)]
    gr.on(changes, describe, [run, *view.order], fields, **LATEST_ONLY, queue=False)
    run.change(lambda run_id: _kept_update(page, run_id), run, view.kept, **UNQUEUED)
    view.kept.change(lambda kept: _download(page, kept), view.kept, [view.download, view.message], **QUIET)


def _order(page: Page, run_id: str | None, values: Any) -> dict[str, Any]:
    """The form's order, checked. Raises PlaygroundError for what is wrong with it, and for a run that isn't there."""
    if not run_id:
        raise problem("export.no_run")
    page.run_settings(run_id)
    order = dict(zip(FIELDS, values)) | {"run": runs.find(page.root, run_id).id, "lang": page.lang}
    order |= {name: str(order[name] or "").strip() for name in ("repo", "name")}
    parse_order(order)
    return order


def _token(page: Page, values: Any, token: str) -> str:
    """The hub's token, where something is pushed: the field's, else that of the visitor's login, or on the owner's own
    page the machine's.
    """
    if values[0] != "hub":
        return ""
    used = (token or "").strip() or (machine_token() if page.private else sign_in.token_of_visitor())
    if not used:
        raise problem("error.export_token", variable="HF_TOKEN")
    return used


def _token_source(page: Page) -> str:
    """Where a token comes from that the field doesn't have, as the words table names it; "info": from nowhere."""
    return "machine" if page.private else "sign_in" if sign_in.is_offered(page) else "info"


def _follow(page: Page, job: Job) -> Iterator[list]:
    """The job's progress, then its result; the live view shows the same, and goes on where the page is reloaded."""
    busy = gr.update(interactive=False)
    yield [message(), busy]
    notes = []
    try:
        for event in job.latest():
            if event["kind"] == "progress" and event["total"]:
                yield [_progress(page, event), busy]
            elif event.get("key") == "note.export_repo_empty":
                notes.append(page.translate(event["key"], **event["values"]))
    except PlaygroundError as error:
        yield [page.error_message(error), gr.update(interactive=True)]
        return
    text = "\n".join([_done_text(page, job.result), *notes])
    yield [message(text), gr.update(interactive=True)]


def _progress(page: Page, event: dict) -> Update:
    step = (event["done"], event["total"], event["unit"])
    return gr.update(value=rows_view.progress(page.translate, step), visible=True)


def _done_text(page: Page, result: dict) -> str:
    """What was exported, and how far it is from the trained model."""
    if result.get("stopped"):
        return page.translate("export.stopped")
    if result.get("url"):
        return page.translate("export.pushed", size_bytes=result["bytes"], url=result["url"])
    values = {"name": Path(result["path"]).name, "size_bytes": result["bytes"]}
    if result.get("difference"):
        further = [page.translate("note.export_differs")] if differs_much(result["difference"]) else []
        return "\n".join([page.translate("export.done_checked", **values, **result["difference"]), *further])
    return page.translate("export.done", **values)


def _size(page: Page, run_id: str | None, values: Any) -> str:
    """The predicted size and the free disk."""
    try:
        found = runs.find(page.root, run_id)
        order = ExportOrder(run=found.id, **dict(zip(FIELDS, values)))
        model = page.run_settings(run_id).load.model
    except PlaygroundError:
        return ""
    need = estimated_bytes(order, model, _adapter_bytes(found))
    key = "export.size_unknown" if need is None else "export.size_hub" if order.to == "hub" else "export.size"
    return rows_view.quiet(page.translate(key, need_bytes=need or 0, free_bytes=free_bytes(found.folder)))


def _adapter_bytes(run: runs.Run) -> int:
    return sum(file.stat().st_size for file in run.adapter.glob("*") if file.is_file())


def _visible(to: str) -> list[Update]:
    """The fields that a format has: type; content, repo and token; name and force."""
    hub = to == "hub"
    shown = (to == "gguf", hub, hub, hub, not hub, not hub)
    return [gr.update(visible=visible) for visible in shown]


def _kept_files(page: Page, run_id: str | None) -> list[str]:
    """Every whole exported file of a run, newest export first, as a path under FOLDER."""
    try:
        folder = runs.find(page.root, run_id).folder / FOLDER
        exports = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    except (PlaygroundError, OSError):
        return []
    whole = [path for path in exports if not path.name.endswith(".partial") and not path.is_symlink()]
    files = (file for path in whole for file in _files_of(path))
    return [file.relative_to(folder).as_posix() for file in files if file.is_file() and not file.is_symlink()]


def _files_of(path: Path) -> list[Path]:
    """An exported file, or what lies in an exported folder; nothing of a pipe, or of a folder that can't be read."""
    try:
        return [path] if path.is_file() else sorted(path.iterdir())
    except OSError:
        return []


def _kept_update(page: Page, run_id: str | None) -> Update:
    """The exported files of a run, the newest chosen. Values name the run: two runs' files may have the same name."""
    choices = [(file, f"{run_id}/{file}") for file in _kept_files(page, run_id)]
    return gr.update(choices=choices, value=choices[0][1] if choices else None)


def _download(page: Page, kept: str | None) -> list[Update]:
    """The button for a kept file; a message instead for one too large for it. kept: from the browser."""
    run_id, _, file = str(kept or "").partition("/")
    if file not in _kept_files(page, run_id):
        return [gr.update(value=None, interactive=False), gr.skip()]
    path = runs.find(page.root, run_id).folder / FOLDER / file
    size = path.stat().st_size
    if size > MAX_DOWNLOAD_BYTES:
        where = str(path) if page.private else f"{run_id}/{FOLDER}/{file}"
        text = page.translate("export.too_large", name=path.name, size_bytes=size, path=where)
        return [gr.update(value=None, interactive=False), message(text)]
    label = f"{page.translate('export.download')} · {format_bytes(size)}"
    return [gr.update(value=str(link(path, page.visitor, run_id)), label=label, interactive=True), gr.skip()]
