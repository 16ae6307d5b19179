"""The disk space that runs take."""

import os
from contextlib import suppress
from pathlib import Path


def bytes_in(folder: Path) -> int:
    """The size of all files under a folder; of those that go meanwhile nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
