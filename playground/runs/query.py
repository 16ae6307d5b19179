"""Find, sort and page runs: what the Runs tab and `python -m playground runs` list."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from playground.runs.summary import RunSummary, dict_of
from playground.settings import Settings

STATES = ("running", "done", "stopped", "failed", "open")
PAGE = 50  # rows of a page
MAX_TEXT = 200  # characters to search for
MAX_VALUE = 40  # characters of a setting's value in a list of settings
# What a run is sorted by; None comes last in either direction.
COLUMNS: dict[str, Callable[[RunSummary], Any]] = {
    "began": lambda run: (run.began, run.id),
    "name": lambda run: run.label.name.casefold() or None,
    "model": lambda run: run.model.casefold() or None,
    "bits": lambda run: run.bits or None,
    "data": lambda run: run.data.casefold() or None,
    "loss": lambda run: run.loss[1] if run.loss else None,
    "recall": lambda run: run.recall[1] if run.recall else None,
    "predicted": lambda run: run.peak[0],
    "peak": lambda run: run.peak[1],
    "speed": lambda run: run.tokens_per_s,
    "time": lambda run: run.seconds or None,
    "state": lambda run: run.state,
}
ASCENDING = ("name", "model", "data", "loss", "predicted", "peak", "state")  # these begin with the least
ALWAYS = (("lora", "r"), ("train", "lr"), ("train", "epochs"))  # of a fine-tune, shown whether changed or not
DEFAULTS = Settings().to_dict()
NAMED_ELSEWHERE = {("load", "model"), ("load", "bits"), ("load", "force"), ("load", "accept_terms"), ("data", "source")}
FOR_OTHERS = ("load", "data")  # groups that a load or a chat depends on


@dataclass(frozen=True)
class Query:
    """Which runs are listed, in which order. text: words that all must occur; state: one of STATES, or "" for any."""

    text: str = ""
    state: str = ""
    sort: str = "began"
    reverse: bool = False


def parse_query(values: Any) -> Query:
    """A query from the browser's values; whatever isn't one of the allowed values is at its default."""
    given = values if isinstance(values, dict) else {}
    usable = {f.name: given[f.name] for f in fields(Query) if type(given.get(f.name)) is type(f.default)}
    query = replace(Query(), **usable)
    return replace(
        query,
        text=query.text[:MAX_TEXT],
        state=query.state if query.state in STATES else "",
        sort=query.sort if query.sort in COLUMNS else "began",
    )


def find_runs(listed: Sequence[RunSummary], query: Query, texts: Callable[[RunSummary], str]) -> list[RunSummary]:
    """The runs that match a query, sorted. texts: what a run is called on the screen, to be searched too.

    Without a text or state nothing is searched, and `listed` comes sorted by their beginning, newest first.
    """
    words = _folded(query.text).split()
    found = [
        run
        for run in listed
        if query.state in ("", run.state) and (not words or _matches(words, _searched(run, texts(run))))
    ]
    key = COLUMNS[query.sort]
    known = [run for run in found if key(run) is not None]
    known.sort(key=key, reverse=(query.sort not in ASCENDING) != query.reverse)
    return known + [run for run in found if key(run) is None]


def changed_settings(run: RunSummary) -> list[tuple[str, str, Any]]:
    """What distinguishes a run's settings, as (group, field, value), without its model, bits and data set.

    Of a fine-tune first r, learning rate and epochs, then all that differs from the defaults.
    """
    is_tune = run.job == "tune"
    is_full = dict_of(run.settings, "train").get("method") == "full"
    always = [pair for pair in ALWAYS if is_tune and not (is_full and pair[0] == "lora")]
    named = [(group, name, dict_of(run.settings, group).get(name)) for group, name in always]
    hidden = NAMED_ELSEWHERE | set(always)
    changed = [
        (group, name, value)
        for group, values in run.settings.items()
        for name, value in values.items()
        if value != DEFAULTS.get(group, {}).get(name, value) and (group, name) not in hidden
    ]
    used = {*FOR_OTHERS, *(("train",) if is_tune else ()), *(("lora",) if is_tune and not is_full else ())}
    return [entry for entry in named if entry[2] is not None] + [entry for entry in changed if entry[0] in used]


def values_that_differ(chosen: Sequence[RunSummary]) -> dict[str, list]:
    """The settings in which runs differ: {"group.name": the value of each run, None where it has none}."""
    names = dict.fromkeys(
        (group, name)
        for run in chosen
        for group, values in run.settings.items()
        for name in values
        if (group, name) not in (("load", "force"), ("load", "accept_terms"))
    )
    found = {f"{g}.{n}": [dict_of(run.settings, g).get(n) for run in chosen] for g, n in names}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def setting_text(name: str, value: Any) -> str:
    """A setting in a list of settings, as "r 8", "use_dora" or "double_quant off"."""
    if isinstance(value, bool):
        return name if value else f"{name} off"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} {text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + '…'}"


def _searched(run: RunSummary, shown: str) -> str:
    names = [setting_text(name, value) for _, name, value in changed_settings(run)]
    return _folded("\n".join([run.id, run.model, run.data, run.label.name, run.label.note, shown, *names]))


def _matches(words: Sequence[str], text: str) -> bool:
    return all(word in text for word in words)


def _folded(text: str) -> str:
    """A text whose case and width don't matter."""
    return unicodedata.normalize("NFKC", text).casefold()
