"""The job `export`: write a run's adapter, merged model or GGUF file, read it back, or push it to a hub."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from playground import catalog, runs
from playground.background import Stopped, run_in_background
from playground.data.template import Turn
from playground.data.template_choice import choose_template_for
from playground.engine.chat import switch_adapter
from playground.engine.export_check import check_before_loading
from playground.engine.job import JobContext, JobResult
from playground.engine.load import ensure_loaded, resolve_bits
from playground.engine.model_slot import ModelSlot, adapter_of
from playground.engine.visitor_room import raise_if_no_room
from playground.errors import problem
from playground.export import adapter_files, gguf_file, hub, logits
from playground.export.destination import check_free, check_space, destination, working_folder
from playground.export.model_card import hub_id, loaded_from, model_card
from playground.export.order import ExportOrder, differs_much, usual_name
from playground.model.load import LoadedModel
from playground.model.merged_weights import MergedModel, merged_model, save_merged
from playground.runs.answers import read_answers
from playground.settings import Settings

FOLDER = "export"  # in the run's own
CHECK_PROMPTS = 4  # whose logits are compared


@dataclass
class ExportResult(JobResult):
    """What was exported: its path, or the repo's address; bytes of it; difference: of logits (logits.Difference).

    stopped: never, since there is a result only of an export that came to its end, though Stop was pressed then.
    """

    source: str
    to: str
    bytes: int
    path: str | None = None
    url: str | None = None
    difference: dict | None = None
    stopped: bool = False


@dataclass
class _Export:
    """An export under way: from which run, as ordered, into which folder and name."""

    context: JobContext
    slot: ModelSlot
    run: runs.Run
    order: ExportOrder
    folder: Path
    name: str

    @property
    def settings(self) -> Settings:
        settings = self.run.settings()
        return settings if settings.load.bits else resolve_bits(settings)  # an edited file


def export(
    context: JobContext, slot: ModelSlot, run: runs.Run, order: ExportOrder, token: str = ""
) -> Generator[dict, None, ExportResult]:
    """Export from a run. token: of the hub, only where something is pushed.

    Raises PlaygroundError for a run without an adapter or model, a taken name, too little space, and what the model's
    loading raises; Stopped where it was stopped. Nothing is left under the final name then.
    """
    if not run.adapter.is_dir() and not run.model.is_dir():
        raise problem("error.no_adapter", run=run.id)
    folder = Path(order.out).expanduser() if order.out else run.folder / FOLDER
    name = order.name or usual_name(order, run.settings().load.model)
    job = _Export(context, slot, run, order, folder, name)
    content = order.content if order.to == "hub" else order.to
    if content == "adapter" and not run.adapter.is_dir():
        raise problem("error.export_full", run=run.id)
    if order.to == "hub":
        if not token:
            raise problem("error.export_token", variable=hub.TOKEN_VARIABLE)
        return (yield from _push(job, content, token))
    check_free(folder, name, order.force)  # before a model is loaded for it
    if content == "adapter":
        return (yield from _write_adapter(job))
    return (yield from _write_model(job))


def _write_adapter(job: _Export) -> Generator[dict, None, ExportResult]:
    """The adapter's folder as a zip."""
    files = _adapter_files(job)
    size = adapter_files.total_bytes(files)
    yield from _announce(job, size)
    with destination(job.folder, job.name, job.order.force, job.context.stop) as path:
        yield from run_in_background(
            lambda on_progress: adapter_files.write_zip(files, path, job.run.id, on_progress), job.context.stop
        )
    return _result(job)


def _write_model(job: _Export) -> Generator[dict, None, ExportResult]:
    """The merged model as a folder of safetensors, or as a GGUF file."""
    loaded, prompts, texts = yield from _load_tuned(job)
    with torch.no_grad():
        merged = merged_model(loaded.model, _file_dtype(loaded))
    is_gguf = job.order.to == "gguf"
    size = sum(t.nbytes for t in gguf_file.gguf_tensors(merged, job.order.type)) if is_gguf else merged.nbytes
    yield from _announce(job, size)
    trained = yield from run_in_background(
        lambda on_progress: logits.logits_of(loaded.model, prompts, on_progress), job.context.stop
    )
    if not all(bool(torch.isfinite(found).all()) for found in trained):
        raise problem("error.export_not_finite", run=job.run.id)
    with destination(job.folder, job.name, job.order.force, job.context.stop) as path:
        write = _gguf_writer(job, merged, loaded, path) if is_gguf else _folder_writer(merged, loaded, path)
        yield from run_in_background(write, job.context.stop)
        if is_gguf:
            logits.check_tokenizer(path, loaded.tokenizer, texts)
        difference = yield from _check(job, path, merged, loaded, trained, prompts)
        if not is_gguf:
            card = model_card(job.run, "merged", job.order.lang, {"difference": difference})
            (path / adapter_files.CARD).write_text(card, encoding="utf-8")
    return _result(job, difference)


def _push(job: _Export, content: str, token: str) -> Generator[dict, None, ExportResult]:
    """Write what is pushed into a folder that is removed afterwards, and upload it."""
    with working_folder(job.folder, f"hub-{job.context.run.id}") as staging:
        inner = replace(job, order=replace(job.order, to=content), folder=staging, name=content)
        difference = None
        if content == "merged":
            difference = (yield from _write_model(inner)).difference
        else:
            files = _adapter_files(job)
            yield from _announce(job, adapter_files.total_bytes(files))
            adapter_files.write_folder(files, staging / content)
        yield {"kind": "phase", "name": "upload"}
        url = yield from _upload(job, staging / content, content, token)
        return ExportResult(job.run.id, "hub", _bytes_of(staging / content), url=url, difference=difference)


def _upload(job: _Export, folder: Path, content: str, token: str) -> Generator[dict, None, str]:
    """Upload a folder; return the repo's address. Stopped, it says that an empty repo may be there now."""
    message = f"{catalog.display_name(job.settings.load.model)}, {content}"
    try:
        pushed = yield from run_in_background(
            lambda on_progress: hub.push_folder(folder, job.order.repo, token, job.order.private, message, on_progress),
            job.context.stop,
        )
    except Stopped:
        yield {"kind": "note", "key": "note.export_repo_empty", "values": {"repo": job.order.repo}}
        raise
    return pushed["url"]


def _adapter_files(job: _Export) -> dict[str, Path | bytes]:
    card = model_card(job.run, "adapter", job.order.lang)
    return adapter_files.adapter_files(job.run.adapter, hub_id(job.settings.load.model, loaded_from(job.run)), card)


def _announce(job: _Export, size: int) -> Generator[dict, None, None]:
    """Say what will be written and what is free. Raises PlaygroundError where it doesn't fit."""
    raise_if_no_room(job.context.run.folder.parent, size)
    free = check_space(job.folder, size)
    values = {"name": job.name, "need_bytes": size, "free_bytes": free}
    yield {"kind": "note", "key": "note.export_size", "values": values}
    yield {"kind": "phase", "name": "export"}


def _load_tuned(job: _Export) -> Generator[dict, None, tuple[LoadedModel, list[list[int]], list[str]]]:
    """The tuned model as it was trained, prompts to compare it on, and these as text."""
    load = job.settings.load
    is_full = job.run.model.is_dir()
    if is_full:
        load = replace(load, model=str(job.run.model))
    if not (job.slot.loaded and job.slot.is_loaded_as(load)):
        check_before_loading(job.order, load.model, job.folder)
    loaded = yield from ensure_loaded(job.context, job.slot, load)
    yield from switch_adapter(job.slot, None if is_full else job.run)
    texts = _check_texts(job.run)
    adapter = adapter_of(job.run)
    template, _ = choose_template_for(loaded, adapter.template, texts, adapter.custom_format)
    prompts = [template.ids([Turn(text, None)]) for text in texts]
    return loaded, prompts, texts


def _check_texts(run: runs.Run) -> list[str]:
    """Questions of the run's held-out rows, else the talk's prompts in both languages."""
    questions = [row.get("question") for row in read_answers(run.folder)]
    texts = [question for question in questions if isinstance(question, str)][:CHECK_PROMPTS]
    bundled = [text for both in zip(*catalog.prompts()["talk"]["prompts"].values()) for text in both]
    return texts or bundled[:CHECK_PROMPTS]


def _check(
    job: _Export, path: Path, merged: MergedModel, loaded: LoadedModel, trained: list[Tensor], prompts: list[list[int]]
) -> Generator[dict, None, dict | None]:
    """Read the export back and compare its logits with those of the model as trained; None where memory is short."""
    dtype = torch.bfloat16 if loaded.dtype == torch.bfloat16 else torch.float32
    is_gguf = job.order.to == "gguf"
    need = logits.read_back_bytes(merged.parameters, dtype, is_gguf)
    if not logits.fits_main_memory(need):
        yield {"kind": "note", "key": "note.export_unchecked", "values": {"need_bytes": need}}
        return None
    yield {"kind": "phase", "name": "check"}

    def read_back(on_progress: Callable[..., None]) -> dict[str, Any]:
        read = logits.read_back_gguf if is_gguf else logits.read_back_folder
        model = read(path, dtype, on_progress)
        return logits.difference(trained, logits.logits_of(model, prompts, on_progress)).to_json()

    difference = yield from run_in_background(read_back, job.context.stop)
    yield {"kind": "note", "key": "note.export_difference", "values": difference}
    if differs_much(difference):
        yield {"kind": "note", "key": "note.export_differs", "values": {}}
    return difference


def _folder_writer(merged: MergedModel, loaded: LoadedModel, path: Path) -> Callable[[Callable[..., None]], None]:
    def write(on_progress: Callable[..., None]) -> None:
        path.mkdir()
        save_merged(merged, path, on_progress)
        loaded.tokenizer.save_pretrained(path)

    return write


def _gguf_writer(
    job: _Export, merged: MergedModel, loaded: LoadedModel, path: Path
) -> Callable[[Callable[..., None]], None]:
    name = catalog.display_name(job.settings.load.model)
    return lambda on_progress: gguf_file.write_gguf(merged, loaded.tokenizer, path, job.order.type, name, on_progress)


def _file_dtype(loaded: LoadedModel) -> torch.dtype:
    """The type of the exported numbers: float16 where the model computes in it, else bfloat16."""
    return torch.float16 if loaded.dtype == torch.float16 else torch.bfloat16


def _result(job: _Export, difference: dict | None = None) -> ExportResult:
    path = job.folder / job.name
    return ExportResult(job.run.id, job.order.to, _bytes_of(path), str(path), difference=difference)


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
