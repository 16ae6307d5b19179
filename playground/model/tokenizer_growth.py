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
LONG = 20_000  # bytes
LONG_TEXT = re.compile(rb'(?<!"precompiled_charsmap":")(?<!"precompiled_charsmap": ")(?<=")[^"]{%d,}' % LONG)
MAX_ADDED = 1_000  # tokens or characters that are added to every text
GROWING = re.compile(rb'"type"\s*:\s*"(?:Replace|Prepend|TemplateProcessing)"')
ESCAPED = re.compile(rb"\\u00[2-7]")  # a letter, with which such a type can be written in another way
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
    if long := _long_text(data):
        raise problem("error.tokenizer_text", path=folder.name, characters=len(long))
    if not _may_grow(data):
        return
    try:
        written = _parse(data)
    except (ValueError, RecursionError):  # the library says what is wrong with it
        return
    for part in PARTS if isinstance(written, dict) else ():
        growth = max(_growth(written.get(part)), 10**12 if _added(written.get(part)) > MAX_ADDED else 0)
        if growth > MAX_GROWTH:
            raise problem("error.tokenizer_grows", path=folder.name, part=part, times=min(growth, 10**9))


def _long_text(data: bytes) -> bytes:
    """The first text that is too long, or b"": `LONG` bytes after a quote without another quote."""
    at = 0
    while at < len(data):
        quote = data.rfind(b'"', at, at + LONG)
        if quote < 0:
            if long := LONG_TEXT.match(data, at):
                return long[0]
            quote = data.find(b'"', at)
        if quote < 0:
            break
        at = quote + 1
    return b""


def _may_grow(data: bytes, start: int = 0) -> bool:
    """Whether JSON may have a step that makes texts grow, from a byte on."""
    return bool(GROWING.search(data, start) or ESCAPED.search(data, start))


def _parse(data: bytes) -> Any:
    """The file, or what stands before the model with its vocabulary, which is most of it, if nothing grows from there.

    Raises ValueError or RecursionError where it can't be parsed.
    """
    model = data.find(b'"model"')
    if model > 0 and not _may_grow(data, model):
        try:
            return json.loads(data[:model].rstrip().rstrip(b",") + b"}")
        except ValueError:  # another "model", within a part
            pass
    return json.loads(data)


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
