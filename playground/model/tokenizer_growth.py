"""Check how much a tokenizer can make a text grow, from its file alone: replacements multiply.

A few hundred bytes of tokenizer.json can turn one character into gigabytes, within a library that can't be
stopped. Those of real models replace a blank by one mark, or quotes by others.
"""

import json
import re
from pathlib import Path
from typing import Any

from playground.errors import problem

FILE = "tokenizer.json"
MAX_FILE_BYTES = 256 * 2**20
MAX_GROWTH = 64  # characters that one may become
# Tokens of real models have up to some hundred characters, such as blanks. One text is longer, a normalizer's table.
LONG_TEXT = re.compile(rb'(?<!"precompiled_charsmap":")(?<!"precompiled_charsmap": ")(?<=")[^"]{20000,}')
MAX_ADDED = 1_000  # tokens or characters that are added to every text
GROWING = (b'"Replace"', b'"Prepend"', b'"TemplateProcessing"')
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def check_growth(folder: Path) -> None:
    """Raise PlaygroundError for a tokenizer that makes texts grow beyond reason, or whose file is too large."""
    file = folder / FILE
    if not file.is_file():
        return
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise problem("error.tokenizer_large", path=folder.name, size_bytes=size, most_bytes=MAX_FILE_BYTES)
    data = file.read_bytes()
    if long := LONG_TEXT.search(data):
        raise problem("error.tokenizer_text", path=folder.name, characters=len(long[0]))
    if not any(mark in data for mark in GROWING):
        return
    try:
        written = json.loads(data)
    except (ValueError, RecursionError):  # the library says what is wrong with it
        return
    for part in PARTS if isinstance(written, dict) else ():
        growth = max(_growth(written.get(part)), 10**12 if _added(written.get(part)) > MAX_ADDED else 0)
        if growth > MAX_GROWTH:
            raise problem("error.tokenizer_grows", path=folder.name, part=part, times=min(growth, 10**9))


def _steps_in(step: dict) -> list[Any]:
    """The steps within a step."""
    names = ("normalizers", "pretokenizers", "processors", "decoders")
    return [inner for name in names if isinstance(step.get(name), list) for inner in step[name]]


def _added(step: Any) -> int:
    """How many characters a step, with all steps within it, puts before every text, or before every word of it."""
    if not isinstance(step, dict):
        return 0
    own = len(str(step.get("prepend", ""))) if step.get("type") == "Prepend" else 0
    return own + sum(map(_added, _steps_in(step)))


def _growth(step: Any) -> int:
    """How many characters or tokens one character can become in a step, with all steps within it."""
    if not isinstance(step, dict):
        return 1
    growth = 1
    for inner in _steps_in(step):
        growth = min(growth * _growth(inner), 10**12)
    if step.get("type") == "Replace":
        content, pattern = step.get("content"), step.get("pattern")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        matched = len(found) if isinstance(found, str) and found else 1  # a regular expression may match one, or none
        growth *= max(1, -(-len(content) // matched)) if isinstance(content, str) else 1
    elif step.get("type") == "TemplateProcessing" and len(str(step.get("single", ""))) > 100 * MAX_ADDED:
        growth *= MAX_GROWTH + 1
    return growth
