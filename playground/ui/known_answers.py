"""The questions whose answers are known: those of the rows that a run was trained and evaluated on."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from playground import catalog, runs
from playground.data import source
from playground.data.allowed_names import forbidden_sources
from playground.data.uploads import path_of
from playground.errors import PlaygroundError
from playground.runs.answers import FILE, read_answers
from playground.settings import Data
from playground.ui.learned_words import common_units

MAX_FILE_BYTES = 8 * 2**20  # of a data set that is read for this; a larger one would delay the answer
EXAMPLES = 3
MAX_EXAMPLE_CHARS = 120


@dataclass(frozen=True)
class KnownAnswers:
    """references: the expected answer by normalized question. common: units of most references (learned_words.py).

    held_out: questions that weren't trained on.
    """

    references: dict[str, str] = field(default_factory=dict)
    common: frozenset[str] = frozenset()
    held_out: tuple[str, ...] = ()

    def reference(self, question: str) -> str:
        """The expected answer to a question, whatever its case, width, spaces and last mark; "" if none is known."""
        return self.references.get(_normalized(question), "")

    def examples(self) -> list[str]:
        """A few held-out questions, evenly spread over the set."""
        short = [question for question in self.held_out if len(question) <= MAX_EXAMPLE_CHARS]
        return short[:: max(1, len(short) // EXAMPLES)][:EXAMPLES]


def known_answers(root: Path, run_id: str, private: bool) -> KnownAnswers:
    """What is known about the rows of a run: from its data set where that is read in a moment, else its evaluated rows.

    private: whether the page may read files of this machine. A run or rows that can't be read give nothing.
    """
    try:
        run = runs.find(root, run_id)
        settings = run.settings()
        data = settings.data
        if (private or not forbidden_sources(settings.load.model, data.source)) and _is_quick(data.source):
            return _of_data_set(data, _modified(path_of(data.source)))
        return _of_evaluation(run.folder, _modified(run.folder / FILE))
    except (PlaygroundError, OSError, ValueError):
        return KnownAnswers()


def help_desk_examples(lang: str) -> list[str]:
    """A few held-out questions of the bundled help desk in this language."""
    return _of_data_set(Data(source=f"helpdesk.{lang}"), 0).examples()


def _is_quick(name: str) -> bool:
    """Whether a data set is bundled, or a file small enough to be read while somebody waits."""
    if "file" in catalog.data_sets().get(name, {}):
        return True
    return source.is_file(name) and path_of(name).stat().st_size <= MAX_FILE_BYTES


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=8)
def _of_data_set(data: Data, modified: int) -> KnownAnswers:
    """Read once per state of the file, which `modified` is there to tell."""
    rows = source.read(data)
    alone = [row for row in (*rows.held_out, *rows.train) if row.instruction and not (row.input or row.before)]
    held_out = [row.instruction for row in rows.held_out if row.instruction and not (row.input or row.before)]
    return _known([(row.instruction, row.output) for row in alone], held_out)


@lru_cache(maxsize=8)
def _of_evaluation(folder: Path, modified: int) -> KnownAnswers:
    """Read once per state of the file, which `modified` is there to tell."""
    if not modified:
        return KnownAnswers()
    rows = read_answers(folder)
    pairs = [(str(row["question"]), str(row["reference"])) for row in rows if "question" in row and "reference" in row]
    return _known(pairs, [question for question, _ in pairs])


def _known(pairs: Sequence[tuple[str, str]], held_out: Sequence[str]) -> KnownAnswers:
    references: dict[str, str] = {}
    for question, reference in pairs:
        references.setdefault(_normalized(question), reference)
    return KnownAnswers(references, common_units(reference for _, reference in pairs), tuple(held_out))


def _normalized(question: str) -> str:
    """A question without what doesn't change it: case, width, spaces, its last mark."""
    text = unicodedata.normalize("NFKC", question).casefold()
    return " ".join(text.split()).rstrip("?!.。 ")
