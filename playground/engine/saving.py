"""Save what a fine-tune has learned, in its run's folder or else its spare one, and settle what it is resumed from."""

import contextlib
import errno
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError

from playground.engine.job import JobContext
from playground.errors import as_playground_error, naming_file
from playground.model import saved_adapter
from playground.model.load import LoadedModel
from playground.replacement import replace_path
from playground.train import best_weights, checkpoint
from playground.train.trainer import Trainer

# Raised where a disk is full, read-only or gone. `naming_file` makes an OSError of what safetensors and tokenizers say
# with the system's number; safetensors' own error is left where the file that was written can't be read back. A
# RuntimeError is never one of these: torch raises it for a full disk in torch.save alone, which writes no adapter and
# no model here, but also where memory runs out.
UNWRITABLE = (OSError, SafetensorError)


def save_trained(
    context: JobContext, trainer: Trainer, loaded: LoadedModel, is_full: bool
) -> Generator[dict, None, Path | None]:
    """Save the adapter or, after a full fine-tune, the model in the run's folder; None in all but the main process.

    Where that can't be written, it is saved in the run's spare folder, with a note; else it stays in memory, with one.
    """
    run = context.run
    if not context.team.main:
        return None
    name = (run.model if is_full else run.adapter).name
    with trainer.changing:  # the end of the process waits for it
        try:
            return _save_to(run.folder, name, loaded)
        except UNWRITABLE as error:
            detail = str(as_playground_error(error)) if isinstance(error, OSError) else str(error).split("\n")[0][:200]
        try:
            spare = run.spare()
            saved = _save_to(spare, name, loaded) if spare else None
        except UNWRITABLE:
            saved = None
    key = "note.saved_elsewhere" if saved else "note.not_saved"
    yield {"kind": "note", "key": key, "values": {"path": str(run.folder / name), "kept": str(saved), "detail": detail}}
    return saved


def settle_checkpoints(context: JobContext, finished: bool, is_saved: bool) -> None:
    """At the end of the job, keep what the run is resumed from, or remove it where nothing is left to do.

    finished: whether training came to its end. is_saved: whether what was learned was saved; if not, the checkpoint is
    all that is left of it once the model is unloaded.
    """
    is_complete = finished and is_saved and not context.stop.is_set()
    step = None if is_complete else context.keep()  # where training is finished, it has only to be saved and evaluated
    context.keep = lambda: step  # before they are removed: the end of the process would write one again
    if is_complete:
        remove_checkpoints(context)


def remove_checkpoints(context: JobContext) -> None:
    """Remove what a run is resumed from, with what a killed process may have left half-written."""
    for name in (checkpoint.NAME, best_weights.NAME) if context.team.main else ():
        path = context.run.folder / name
        for left in (path, path.with_suffix(".partial"), context.run.spare_file(name)):
            if left:
                with contextlib.suppress(OSError):  # the folder is read-only by now: it stays
                    left.unlink(missing_ok=True)


def _save_to(folder: Path, name: str, loaded: LoadedModel) -> Path:
    """Save the adapter, or a model without one, in a folder that exists: wholly, or the one before stays."""
    final = folder / name
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    with naming_file(final):
        if isinstance(loaded.model, PeftModel):
            saved_adapter.save_lora(loaded.model, final)
        else:
            _save_model(loaded, final)
    return final


def _save_model(loaded: LoadedModel, final: Path) -> None:
    partial, old = final.with_name(f"{final.name}.partial"), final.with_name(f"{final.name}.old")
    try:
        for left in (partial, old):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        loaded.model.save_pretrained(partial)
        loaded.tokenizer.save_pretrained(partial)
        replace_path(partial, final, old)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
