"""Errors that a person can read: what happened, the value that caused it, what to try.

A `Problem` is a key of the words table with its values, so that one error can be shown in either language, sent between
processes, and stored in a run. `PlaygroundError` carries all problems of a request at once.
"""

import errno
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.i18n import translate

PACKAGE = Path(__file__).parent


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


def as_playground_error(error: BaseException) -> PlaygroundError:
    """Any exception as one that a person can read: a full disk and a missing right by name, others as a defect here."""
    if isinstance(error, PlaygroundError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return problem("error.disk_full", path=str(error.filename or ""))
    if "os error 28" in str(error):  # ENOSPC from safetensors, which raises its own error type
        return problem("error.disk_full", path="")
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return problem("error.permission", path=str(error.filename or ""))
    if isinstance(error, OSError) and error.filename and error.strerror:
        return problem("error.file", path=str(error.filename), detail=error.strerror)
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
