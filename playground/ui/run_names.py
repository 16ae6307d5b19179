"""Names of runs that a person can read: model, data set, date, and what came of it."""

from datetime import datetime

from playground import catalog
from playground.data.source import short_name
from playground.i18n import translate
from playground.runs import RunSummary


def adapter_name(lang: str, run: RunSummary) -> str:
    """A fine-tune in one line: model · bits · data · date · facts named, else held-out loss."""
    parts = [catalog.display_name(run.model), translate(lang, "chat.bits", bits=run.bits), data_and_date(lang, run)]
    recall, loss = run.result.get("recall"), (run.result.get("loss") or {}).get("after")
    if recall:
        parts.append(translate(lang, "chat.facts", tuned=recall["tuned"]))
    elif loss is not None:
        parts.append(translate(lang, "chat.loss", loss=loss))
    return " · ".join(parts)


def data_and_date(lang: str, run: RunSummary) -> str:
    """What a run was trained on, and when it began."""
    entry = catalog.data_sets().get(run.data)
    name = translate(lang, entry["name"]) if entry else short_name(run.data)
    return f"{name} · {datetime.fromtimestamp(run.began):%Y-%m-%d %H:%M}"
