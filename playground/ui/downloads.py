"""The folder of files that the page offers for download: Gradio serves files of the temporary folder alone.

Each visitor's lie in a folder of their own, which goes with their runs; all of them go with this program.
"""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import gradio as gr
from gradio.data_classes import _StaticFiles

MAX_DOWNLOAD_BYTES = 2 * 2**30  # what a browser loads well; a larger file is named by its path
OWNER = "owner"  # the folder of a private page's files, where nobody is a visitor


@cache
def folder() -> Path:
    """This process's folder of downloads, removed when it ends."""
    made = Path(tempfile.mkdtemp(prefix="playground-downloads-"))
    atexit.register(remove_all)
    return made


def remove_all() -> None:
    """Remove the folder, if there is one: at the end of the process, which after a signal calls no atexit."""
    if folder.cache_info().currsize:
        shutil.rmtree(folder(), ignore_errors=True)


def place(visitor: str, *parts: str) -> Path:
    """A folder for a visitor's files, made where it lacks. parts: the names of folders within their own."""
    made = folder().joinpath(visitor or OWNER, *parts)
    made.mkdir(parents=True, exist_ok=True)
    return made


def remove(visitor: str) -> None:
    """Remove a visitor's files."""
    own = folder() / (visitor or OWNER)
    for linked in {file.resolve() for file in own.glob("files/*/*")} & {*_StaticFiles.all_paths}:
        _StaticFiles.all_paths.remove(linked)
    shutil.rmtree(own, ignore_errors=True)


def link(path: Path, visitor: str, run_id: str) -> Path:
    """A link in a visitor's folder to a file of a run, which Gradio serves from where it lies.

    Any other file Gradio (6.31) hashes and copies in its event loop once it is offered: 2 s a GiB, in which nobody's
    page moves. On a shared page, visitor_files.py lets only those fetch it to whom it was sent.
    """
    made = place(visitor, "files", run_id) / path.name
    made.unlink(missing_ok=True)
    os.symlink(path.resolve(), made)
    if path.resolve() not in _StaticFiles.all_paths:
        gr.set_static_paths(path)
    return made
