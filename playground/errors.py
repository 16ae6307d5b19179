"""What goes wrong, told to the person: what happened, the number seen, what to try.

A `Problem` is a key of the words table with its values, so the same trouble can be told in either language,
sent between processes, and kept in a run. `PlaygroundError` carries all problems of a request at once.
"""

import errno
from dataclasses import dataclass, field

from playground.i18n import translate


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `key` in the words table and the values of its {names} (JSON types only)."""

    key: str
    values: dict = field(default_factory=dict)

    def text(self, lang: str = "en") -> str:
        return translate(lang, self.key, **self.values)


class PlaygroundError(Exception):
    """Raised for everything that a person can mend; `text(lang)` is what they read, one line a problem."""

    def __init__(self, *problems: Problem):
        self.problems = problems
        super().__init__(self.text())

    def text(self, lang: str = "en") -> str:
        return "\n".join(problem.text(lang) for problem in self.problems)

    def to_dict(self) -> dict:
        return {"problems": [{"key": p.key, "values": p.values} for p in self.problems]}

    @classmethod
    def from_dict(cls, data: dict) -> "PlaygroundError":
        return cls(*(Problem(p["key"], p["values"]) for p in data["problems"]))


def problem(key: str, **values) -> PlaygroundError:
    """The error of a single problem, ready to be raised."""
    return PlaygroundError(Problem(key, values))


def as_playground_error(error: BaseException) -> PlaygroundError:
    """Any exception as one that can be shown: a full disk and a missing right by name, the rest as a defect of ours."""
    if isinstance(error, PlaygroundError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return problem("error.disk_full", path=str(error.filename or ""))
    if "os error 28" in str(error):  # the same from safetensors, whose errors are its own
        return problem("error.disk_full", path="")
    if isinstance(error, PermissionError):
        return problem("error.permission", path=str(error.filename or ""))
    if isinstance(error, MemoryError):
        return problem("error.memory")
    return problem("error.unexpected", kind=type(error).__name__, detail=str(error).split("\n")[0][:300])
