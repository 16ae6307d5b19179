"""Write a text file so that an interrupted or failed write leaves nothing under its name."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> str:
    """Write a file that is either whole or absent; returns its path."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return str(path)
