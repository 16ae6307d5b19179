"""The table of runs that are laid over each other: their results, and the settings that differ, as HTML."""

from collections.abc import Sequence
from html import escape
from typing import Any

from playground import catalog
from playground.errors import stored_text
from playground.i18n import data_name, format_bytes, format_duration, table, translate
from playground.runs.overlay import Overlay
from playground.runs.private_text import last_part
from playground.runs.summary import RunSummary

LETTERS = "ABCD"
MAX_TEXT = 80  # characters of a value


def badge(number: int) -> str:
    """A run's letter in its color."""
    return f'<em class="badge-letter look-{number}">{LETTERS[number]}</em>'


def overlay_table(found: Overlay, lang: str) -> str:
    """Results first, then settings; a value that differs from the first run's is marked."""
    letters = "".join(f"<th scope=col>{badge(number)}</th>" for number in range(len(found.runs)))
    head = f"<thead><tr><td></td>{letters}</tr></thead>"
    results = _group(translate(lang, "overlay.results"), len(found.runs))
    results += "".join(_row(name, cells, False) for name, cells in _results(found, lang) if any(cells))
    settings = _group(translate(lang, "overlay.settings" if found.differing else "overlay.same"), len(found.runs))
    settings += "".join(
        _row(table(lang).get(name, name), [setting_value(name, value, lang) for value in values], True)
        for name, values in found.differing.items()
    )
    return f'<div class="stacked plan wide"><table>{head}<tbody>{results}{settings}</tbody></table></div>'


def _results(found: Overlay, lang: str) -> list[tuple[str, list[str]]]:
    """The name of each result, and what every run has of it; "" where it has none."""
    rows = [
        ("runs.head.state", [_state(run, lang) for run in found.runs]),
        ("runs.head.loss", [_pair(run.loss, ".3f") for run in found.runs]),
        ("runs.head.recall", [_pair(run.recall, ".0%") for run in found.runs]),
        ("overlay.peak_measured", [_bytes(run.peak[1]) for run in found.runs]),
        ("overlay.peak_predicted", [_bytes(run.peak[0]) for run in found.runs]),
        ("runs.head.speed", ["" if run.tokens_per_s is None else f"{run.tokens_per_s:,.0f}" for run in found.runs]),
        ("runs.head.time", [format_duration(run.seconds) if run.seconds else "" for run in found.runs]),
        ("overlay.hardware", [run.hardware.get("name", "") for run in found.runs]),
    ]
    rows.append(("overlay.versions", _versions(found)))
    return [(translate(lang, key), cells) for key, cells in rows]


def _versions(found: Overlay) -> list[str]:
    """Of each run the versions of the libraries that aren't the same in all."""
    every = [series.versions for series in found.series]
    names = [name for name in dict.fromkeys(n for one in every for n in one) if len({v.get(name) for v in every}) > 1]
    return [", ".join(f"{name} {one[name]}" for name in names if name in one) for one in every]


def setting_value(name: str, value: Any, lang: str) -> str:
    """A setting's value as the page writes it, without the folders of this machine; "–" for none."""
    if value is None or value == "":
        return "–"
    if name == "load.model":
        return catalog.display_name(last_part(str(value)))
    if name == "data.source":
        entry = catalog.data_sets().get(str(value))
        return translate(lang, f"{entry['name']}.short") if entry else data_name(lang, last_part(str(value)))
    if isinstance(value, bool):
        return translate(lang, "overlay.on" if value else "overlay.off")
    text = f"{value:g}" if isinstance(value, float) else last_part(str(value))
    label = table(lang).get(f"choice.{name}.{text}", text)
    return label if len(label) <= MAX_TEXT else label[: MAX_TEXT - 1] + "…"


def _group(text: str, columns: int) -> str:
    return f'<tr class="group"><th scope=rowgroup colspan={columns + 1}>{escape(text)}</th></tr>'


def _row(name: str, cells: Sequence[str], mark: bool) -> str:
    texts = "".join(
        f"<td{' class=other' if mark and cell != cells[0] else ''}>{escape(cell) or '–'}</td>" for cell in cells
    )
    return f"<tr><th scope=row>{escape(name)}</th>{texts}</tr>"


def _state(run: RunSummary, lang: str) -> str:
    why = stored_text(run.problems[0], lang).split("\n")[0] if run.problems else ""
    state = translate(lang, f"state.{run.state}")
    return f"{state}: {why}" if why else state


def _pair(values: tuple[float, float] | None, form: str) -> str:
    return " → ".join(f"{value:{form}}" for value in values) if values else ""


def _bytes(size: int | None) -> str:
    return "" if size is None else format_bytes(size)
