"""Names of runs that a person can tell apart: their own one, else model, bits and data set; and when it began."""

from datetime import datetime

from playground import catalog, i18n
from playground.data.source import short_name
from playground.i18n import translate
from playground.runs import RunSummary

OTHER_JOBS = ("load", "chat", "lab", "export")  # than fine-tunes


def adapter_name(lang: str, run: RunSummary) -> str:
    """A fine-tune in one line: its display name, and facts named, else held-out loss."""
    parts = [display_name(run, lang)]
    if run.recall:
        parts.append(translate(lang, "chat.facts", tuned=run.recall[1]))
    elif run.loss:
        parts.append(translate(lang, "chat.loss", loss=run.loss[1]))
    return " · ".join(parts)


def data_and_date(lang: str, run: RunSummary) -> str:
    """What a run was trained on, and when it began."""
    return " · ".join([data_name(run.data, lang), *_times(run, lang)])


def display_name(run: RunSummary, lang: str) -> str:
    """The name of a run with its beginning in this machine's time zone, where that is known; a recording's date."""
    return " · ".join([short_display_name(run, lang), *_times(run, lang)])


def short_display_name(run: RunSummary, lang: str) -> str:
    """The name of a run without its beginning: the one that a person gave it, or else `automatic_name`."""
    return run.label.name or automatic_name(run, lang)


def automatic_name(run: RunSummary, lang: str) -> str:
    """Model, bits and, of a fine-tune, the data set; else the kind of job first."""
    parts = [catalog.display_name(run.model), translate(lang, "runs.bits", bits=run.bits)]
    if run.job == "tune":
        return " · ".join([*parts, data_name(run.data, lang)])
    return " · ".join([translate(lang, f"chart.job.{run.job}" if run.job in OTHER_JOBS else "chart.job.other"), *parts])


def data_name(source: str, lang: str) -> str:
    """A short name of a data set: the catalog's by the words table, a file without its folders, a hub id as it is."""
    entry = catalog.data_sets().get(source)
    if entry:
        return translate(lang, f"{entry['name']}.short")
    return i18n.data_name(lang, short_name(source))


def recorded_mark(recorded: str, lang: str) -> str:
    """What says of a run that it is a recording of that date; "" for one that was measured here."""
    return translate(lang, "runs.recorded", date=recorded) if recorded else ""


def _times(run: RunSummary, lang: str) -> list[str]:
    """When a run began, where that is known; of a recording its date."""
    if run.recorded:
        return [recorded_mark(run.recorded, lang)]
    return [_time(run.began, lang)] if run.began else []


def _time(began: float, lang: str) -> str:
    """A Unix time as the language writes it, in English "Nov 25, 14:02"; with the year unless it is this one."""
    at = datetime.fromtimestamp(began)
    month = translate(lang, "runs.months").split()[at.month - 1]
    key = "runs.time" if at.year == datetime.now().year else "runs.time_year"
    return translate(lang, key, year=at.year, month=month, day=at.day, time=f"{at:%H:%M}")
