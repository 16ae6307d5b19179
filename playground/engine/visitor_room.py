"""The disk space that a visitor of a shared page has left: asked before a job writes a file that may be large."""

import math
from pathlib import Path

from playground.data import uploads
from playground.errors import problem
from playground.runs.disk import bytes_in
from playground.settings.limits import current_limits


def room_left(root: Path) -> float:
    """Bytes that may still be written under a visitor's folder of runs; infinite on a private page."""
    limits = current_limits()
    return max(0, limits.disk - _used(root)) if limits else math.inf


def raise_if_no_room(root: Path, size: int) -> None:
    """Raise PlaygroundError where a file of that many bytes is more than a visitor may still write."""
    limits = current_limits()
    if limits and size > room_left(root):
        raise problem("shared.disk", size_bytes=_used(root) + size, most_bytes=limits.disk)


def _used(root: Path) -> int:
    return bytes_in(root) + uploads.bytes_of(root.name)
