"""Two to four runs laid over each other as HTML: losses, memory, its parts, and a table of what differs.

Every number of bytes is named predicted or measured. Styles: assets/overlay.css and figures.css; all text is escaped.
"""

from collections.abc import Sequence
from functools import partial
from html import escape

from playground import ASSETS
from playground.i18n import format_bytes, format_duration, table, translate
from playground.runs.overlay import PARTS, Ledger, Overlay, ledger
from playground.runs.summary import RunSummary
from playground.share.line_chart import CLOCK, WHOLE, Line, line_chart
from playground.share.overlay_table import LETTERS, badge, overlay_table

GIB = 2**30
# What the page's theme gives (playground/ui/theme.py).
PAGE_STYLE = """
:root { --body-text-color: #172033; --body-background-fill: #f8fafc; --border-color-primary: #d3dae4; }
.dark { --body-text-color: #eef2f8; --body-background-fill: #020617; --border-color-primary: #374357; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; background: var(--body-background-fill); }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Hiragino Sans", "Noto Sans CJK JP", sans-serif; }
"""
IN_THE_DARK = 'document.documentElement.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches)'
HIGHER = 1.03  # times the peak of a run's own job: what is higher in another phase is worth a word
HELD_OUT_ONLY = ("train.eval_rows",)


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


def overlay_page(found: Overlay, names: Sequence[str], lang: str) -> str:
    """The picture as a whole HTML page that can be opened anywhere, also in the dark, without the network."""
    title = escape(translate(lang, "overlay.title"))
    styles = "".join((ASSETS / name).read_text(encoding="utf-8") for name in ("figures.css", "overlay.css"))
    return (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{PAGE_STYLE}\n{styles}</style>'
        f"<script>{IN_THE_DARK}</script></head>\n<body>{overlay_figures(found, names, lang)}</body></html>\n"
    )


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
    texts = ("{:,.0f}".format, "{:.4g}".format)
    drawn = line_chart(lines, word("overlay.loss"), word("chart.loss.axis"), WHOLE, texts)
    without = [LETTERS[n] for n, s in enumerate(found.series) if not s.losses]
    notes = [word("overlay.no_steps", letters=without)] if without else []
    notes += [
        word("overlay.not_finite", letter=LETTERS[n], step=s.not_finite)
        for n, s in enumerate(found.series)
        if s.not_finite is not None
    ]
    notes += incomparable(found, lang)
    return _figure("overlay.loss", "overlay.loss.legend" if drawn else "", drawn, notes, lang)


def incomparable(found: Overlay, lang: str) -> list[str]:
    """Why losses of these runs can't be compared with each other; [] where they can."""
    reasons = [translate(lang, "overlay.other_models")] if found.other_models else []
    if found.other_rows:
        key = "overlay.other_held_out" if found.other_rows == HELD_OUT_ONLY else "overlay.other_rows"
        names = [translate(lang, "overlay.rows") if n == "rows" else table(lang).get(n, n) for n in found.other_rows]
        reasons.append(translate(lang, key, names=names))
    return reasons


def _memory(found: Overlay, lang: str) -> str:
    lines = []
    for number, series in enumerate(found.series):
        level = (*series.predicted[:2], series.predicted[2] / GIB) if series.predicted else None
        lines.append(Line(LETTERS[number], number, [(x, size / GIB) for x, size in series.memory], level=level))
    word, texts = partial(translate, lang), (format_duration, "{:g} GiB".format)
    drawn = line_chart(lines, word("overlay.memory"), word("chart.time_shortened"), CLOCK, texts, from_zero=True)
    notes = _peaks(found, lang) if drawn else [word("overlay.no_memory")]
    return _figure("overlay.memory", "overlay.memory.legend" if drawn else "", drawn, notes, lang)


def _peaks(found: Overlay, lang: str) -> list[str]:
    """A line a run: the peak of its own job, measured and predicted; and where there was a higher one."""
    texts = []
    for number, (run, series) in enumerate(zip(found.runs, found.series)):
        predicted, measured = run.peak
        kind = "device_used" if run.hardware.get("device") == "cuda" else "rss"
        values = {"letter": LETTERS[number], "measured_bytes": measured, "predicted_bytes": predicted}
        text = translate(lang, "overlay.peak", job=run.job, memory=kind, **values)
        highest = max((size for _, size in series.memory), default=0)
        if highest and not measured:
            text += translate(lang, "overlay.so_far", highest_bytes=highest)
        elif measured and highest > HIGHER * measured:
            text += translate(lang, "overlay.other_phase", highest_bytes=highest)
        texts.append(text)
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
