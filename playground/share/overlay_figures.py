"""Two to four runs laid over each other as HTML: losses, memory, its parts, and a table of what differs.

Every number of bytes is named predicted or measured. Styles: assets/overlay.css and figures.css; all text is escaped.
"""

from collections.abc import Sequence
from functools import partial
from html import escape

from playground.i18n import format_bytes, format_duration, table, translate
from playground.runs.overlay import PARTS, Ledger, Overlay, ledger
from playground.runs.summary import RunSummary
from playground.share.line_chart import Line, line_chart
from playground.share.overlay_table import LETTERS, badge, overlay_table

GIB = 2**30


def overlay_figures(found: Overlay, names: Sequence[str], lang: str) -> str:
    """The whole picture. names: of the runs, as the page calls them."""
    parts = [
        f"<h3>{escape(translate(lang, 'overlay.title'))}</h3>",
        _runs(found, names, lang),
        _losses(found, lang),
        _memory(found, lang),
        _ledgers(found, lang),
        overlay_table(found, lang),
    ]
    return f'<section class="overlay plan">{"".join(parts)}</section>'


def _runs(found: Overlay, names: Sequence[str], lang: str) -> str:
    """Which letter, color and dash is which run, and how it ended."""
    rows = "".join(
        f'<li>{badge(number)}<svg class="sample" viewBox="0 0 40 10" aria-hidden="true">'
        f'<path class="line look-{number}" d="M0 5H40"/></svg>'
        f"<span><strong>{escape(name)}</strong> <small>{escape(_state(run, lang))}</small></span></li>"
        for number, (run, name) in enumerate(zip(found.runs, names))
    )
    return f'<ul class="runs-of">{rows}</ul>'


def _state(run: RunSummary, lang: str) -> str:
    job = table(lang).get(f"chart.job.{run.job}", translate(lang, "chart.job.other"))
    return f"{job} · {translate(lang, f'state.{run.state}')}"


def _losses(found: Overlay, lang: str) -> str:
    word = partial(translate, lang)
    lines = [Line(LETTERS[n], n, s.losses, s.held_out) for n, s in enumerate(found.series)]
    drawn = line_chart(
        lines, word("overlay.loss"), word("chart.loss.axis"), (lambda x: f"{x:,g}", "{:.4g}".format), False
    )
    without = [LETTERS[n] for n, s in enumerate(found.series) if not s.losses]
    notes = [word("overlay.no_steps", letters=without)] if without else []
    notes += [
        word("overlay.not_finite", letter=LETTERS[n], step=s.not_finite)
        for n, s in enumerate(found.series)
        if s.not_finite is not None
    ]
    if found.other_models:
        notes.append(word("overlay.other_models"))
    if found.other_rows:
        notes.append(word("overlay.other_rows", names=[setting_label(name, lang) for name in found.other_rows]))
    return _figure("overlay.loss", "overlay.loss.legend" if drawn else "", drawn, notes, lang)


def setting_label(name: str, lang: str) -> str:
    """The label of a setting "group.field" on the page; of one of another version, its name."""
    return translate(lang, "overlay.rows") if name == "rows" else table(lang).get(name, name)


def _memory(found: Overlay, lang: str) -> str:
    word = partial(translate, lang)
    lines = [Line(LETTERS[n], n, s.memory, level=s.predicted) for n, s in enumerate(found.series)]
    scaled = [
        Line(
            line.letter,
            line.look,
            [(x, size / GIB) for x, size in line.points],
            level=(line.level[0], line.level[1], line.level[2] / GIB) if line.level else None,
        )
        for line in lines
    ]
    drawn = line_chart(scaled, word("overlay.memory"), word("chart.time_shortened"), (format_duration, _gib), True)
    return _figure("overlay.memory", "overlay.memory.legend" if drawn else "", drawn, _peaks(found, lang), lang)


def _peaks(found: Overlay, lang: str) -> list[str]:
    """A line a run: its peak, measured and predicted, and of what it is."""
    texts = []
    for number, run in enumerate(found.runs):
        predicted, measured = run.peak
        kind = "device_used" if run.hardware.get("device") == "cuda" else "rss"
        values = {"letter": LETTERS[number], "measured_bytes": measured, "predicted_bytes": predicted}
        texts.append(translate(lang, "overlay.peak", memory=kind, **values))
    return texts


def _ledgers(found: Overlay, lang: str) -> str:
    ledgers = [ledger(run, series) for run, series in zip(found.runs, found.series)]
    largest = max((sum(parts.values()) for one in ledgers for parts in (one.predicted, one.measured)), default=0)
    if not largest:
        return _figure("overlay.parts", "", "", [translate(lang, "overlay.no_parts")], lang)
    rows = "".join(_bars(number, one, largest, lang) for number, one in enumerate(ledgers))
    used = [part for part in PARTS if any(part in one.predicted or part in one.measured for one in ledgers)]
    legend = "".join(f"<li>{_swatch(part)}{escape(translate(lang, f'chart.part.{part}'))}</li>" for part in used)
    return _figure(
        "overlay.parts", "overlay.parts.legend", f'<div>{rows}<ul class="legend">{legend}</ul></div>', [], lang
    )


def _bars(number: int, one: Ledger, largest: int, lang: str) -> str:
    """A run's two bars, measured above predicted, each with its total."""
    bars = ""
    for look, parts in (("measured", one.measured), ("predicted", one.predicted)):
        total = sum(parts.values())
        text = (
            translate(lang, f"overlay.{look}", total_bytes=total) if total else translate(lang, f"overlay.not_{look}")
        )
        pieces = "".join(
            f'<i style="width:{100 * size / largest:.2f}%;background-color:var(--live-part-{part})"'
            f' title="{escape(translate(lang, f"chart.part.{part}"))}: {format_bytes(size)}"></i>'
            for part, size in parts.items()
        )
        bars += f'<div class="ledger {look}"><div class="pieces">{pieces}</div><span>{escape(text)}</span></div>'
    return f'<div class="ledgers">{badge(number)}<div>{bars}</div></div>'


def _swatch(part: str) -> str:
    return f'<i class="swatch" style="background:var(--live-part-{part})"></i>'


def _figure(title: str, legend: str, drawn: str, notes: Sequence[str], lang: str) -> str:
    small = f' <small class="small">{escape(translate(lang, legend))}</small>' if legend else ""
    lines = "".join(f'<p class="small">{escape(note)}</p>' for note in notes)
    return f"<figure><h4>{escape(translate(lang, title))}{small}</h4>{drawn}{lines}</figure>"


def _gib(size: float) -> str:
    return f"{size:g} GiB"
