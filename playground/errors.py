"""Errors that a person can read: what happened, the value that caused it, what to try.

A `Problem` is a key of the words table with its values, so that one error can be shown in either language, sent between
processes, and stored in a run. `PlaygroundError` carries all problems of a request at once.
"""

import contextlib
import errno
import os
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.i18n import translate

PACKAGE = Path(__file__).parent
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_FILE_NAME = re.compile("embedded null|surrogates not allowed")  # how Python says that no file can be named so
SYSTEM_CODE = re.compile(r"\(os error (\d{1,5})\)")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `key` in the words table and the values of its {names} (JSON types only)."""

    key: str
    values: dict = field(default_factory=dict)

    def text(self, lang: str = "en") -> str:
        """The problem as a sentence."""
        return translate(lang, self.key, **self.values)


class PlaygroundError(Exception):
    """An error that the person can fix; its text has one line a problem."""

    def __init__(self, *problems: Problem):
        self.problems = problems
        super().__init__(self.text())

    def text(self, lang: str = "en") -> str:
        """All problems, one a line."""
        return "\n".join(problem.text(lang) for problem in self.problems)

    def to_dict(self) -> dict:
        """The problems in JSON types: {"problems": [{"key", "values"}]}."""
        return {"problems": [{"key": p.key, "values": p.values} for p in self.problems]}

    @classmethod
    def from_dict(cls, data: dict) -> "PlaygroundError":
        """The error that `to_dict` wrote."""
        return cls(*(Problem(p["key"], p["values"]) for p in data["problems"]))


def problem(key: str, **values: Any) -> PlaygroundError:
    """An error of one problem, to be raised."""
    return PlaygroundError(Problem(key, values))


def stored_text(item: dict, lang: str) -> str:
    """The text of {"key", "values"} from a run; a key of another version of the program stands for itself."""
    try:
        return translate(lang, item["key"], **item.get("values", {}))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError):
        return str(item.get("key", ""))


def is_disk_full(error: BaseException) -> bool:
    """Whether there is no room: on the disk, in a person's share of it, or in a file."""
    return _system_code(error) in DISK_FULL


def _system_code(error: BaseException) -> int | None:
    """The system's number of an error, which safetensors and tokenizers (Rust) say in their own errors' text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = SYSTEM_CODE.search(str(error))
    return int(found[1]) if found else None


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Have what the system says of a write name that file, where it names none: it does so of opening one alone."""
    try:
        yield
    except Exception as error:
        code = _system_code(error)
        if code is None or getattr(error, "filename", None):
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def as_playground_error(error: BaseException) -> PlaygroundError:
    """Any exception as one that a person can read: a full disk and a missing right by name, others as a defect here."""
    if isinstance(error, PlaygroundError):
        return error
    if is_disk_full(error):
        path = getattr(error, "filename", None)
        return problem("error.disk_full", path=str(path)) if path else problem("error.disk_full_somewhere")
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return problem("error.permission", path=str(error.filename or ""))
    if isinstance(error, OSError) and error.filename and error.strerror:
        return problem("error.file", path=str(error.filename), detail=error.strerror)
    if isinstance(error, ValueError) and NO_FILE_NAME.search(str(error)):
        return problem("error.file_name")
    if isinstance(error, MemoryError):
        return problem("error.memory")
    kind, detail = type(error).__name__, str(error).split("\n")[0][:300]
    family = _failing_family(error)
    if family:
        return problem("error.model_code", family=family, kind=kind, detail=detail)
    return problem("error.unexpected", kind=kind, detail=detail)


def _failing_family(error: BaseException) -> str | None:
    """The model family of transformers whose code raised an error, or called what raised it; None for other code."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(PACKAGE):
            if frame.name == "forward":  # a layer swapped in, which hands its input on
                continue
            return None
        parts = file.parts
        if parts[-1].startswith("modeling_") and parts[-3:-2] == ("models",):
            return parts[-2]
    return None
