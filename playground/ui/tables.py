"""The tables of the Runs tab and of the plan, as HTML; looks stand in assets/figures.css, all text is escaped here."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

from playground import catalog
from playground.i18n import format_bytes
from playground.runs import RunSummary
from playground.runs.accuracy import TOTALS, Pair, Score

FIGURES = ("figure", "predicted", "measured", "error")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], look: str = "wide") -> str:
    """A plain table of texts, its first column being what a row is about; what follows a line break is written small.

    A row of one text is a heading for those after it. look: "wide" scrolls sideways where there is no room, "stacked"
    puts the first column on a line of its own there.
    """
    top = "".join(f"<th scope=col>{escape(text)}</th>" for text in head)
    body = "".join(_row(row, len(head)) for row in rows)
    return f'<div class="plan {look}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def number(count: int) -> str:
    """A count with its thousands apart."""
    return f"{count:,}"


def history(translate: Callable, found: Sequence[RunSummary]) -> str:
    """Every run: what it did with which model, and how it ended."""
    rows = []
    for run in found:
        loss, recall = run.result.get("loss") or {}, run.result.get("recall") or {}
        about = translate(
            "runs.about_tune" if run.job == "tune" else "runs.about",
            job=run.job,
            model=catalog.display_name(run.model),
            bits=run.bits,
            data=run.data,
        )
        rows.append(
            [
                f"{run.id}\n{about}",
                f"{loss['before']:.3f} → {loss['after']:.3f}" if loss.get("before") and loss.get("after") else "",
                f"{recall['base']:.0%} → {recall['tuned']:.0%}" if recall else "",
                str(round(run.seconds)),
                translate(f"state.{run.state}"),
            ]
        )
    return f'<div class="runs">{table([translate(f"runs.head.{name}") for name in ("run", "loss", "recall", "seconds", "state")], rows, "stacked")}</div>'


def pairs(translate: Callable, found: Sequence[Pair]) -> str:
    """A run's figures that were both predicted and measured, phase by phase."""
    rows = []
    for phase, several in groupby(found, lambda pair: pair.phase):
        rows.append([translate(f"chart.job.{phase}")])
        rows += [
            [
                _kind(translate, pair.kind),
                format_bytes(pair.predicted),
                format_bytes(pair.measured),
                _signed(pair.error),
            ]
            for pair in several
        ]
    return table([translate(f"accuracy.{name}") for name in FIGURES], rows)


def record(translate: Callable, found: Sequence[Pair], of: dict[str, RunSummary]) -> str:
    """Totals of all runs, a row a phase: the error, and what was predicted → measured. of: runs by their id."""
    kinds = [kind for kind in TOTALS if any(pair.kind == kind for pair in found)]
    rows = []
    for (run, phase), several in groupby(found, lambda pair: (pair.run, pair.phase)):
        at = {
            pair.kind: f"{_signed(pair.error)}\n{format_bytes(pair.predicted)} → {format_bytes(pair.measured)}"
            for pair in several
        }
        about = translate("runs.about", job=phase, model=catalog.display_name(of[run].model), bits=of[run].bits)
        rows.append([f"{about}\n{run}", *(at.get(kind, "") for kind in kinds)])
    return table([translate("runs.head.run"), *(_kind(translate, kind) for kind in kinds)], rows, "stacked")


def scores(translate: Callable, found: Sequence[Score]) -> str:
    """How far off predictions were, by kind."""
    head = [translate(f"accuracy.{name}") for name in ("figure", "count", "median", "worst")]
    return table(head, [[_kind(translate, s.kind), str(s.count), f"{s.median:.1%}", _signed(s.worst)] for s in found])


def _row(cells: Sequence[str], width: int) -> str:
    if len(cells) == 1:
        return f'<tr class="group"><th scope=rowgroup colspan={width}>{escape(cells[0])}</th></tr>'
    first, *rest = cells
    return f"<tr><th scope=row>{_cell(first)}</th>{''.join(f'<td>{_cell(text)}</td>' for text in rest)}</tr>"


def _cell(text: str) -> str:
    main, _, small = text.partition("\n")
    return f"{escape(main)}<small>{escape(small)}</small>" if small else escape(main)


def _kind(translate: Callable, kind: str) -> str:
    return translate(f"chart.memory.{kind}" if kind in TOTALS else f"chart.part.{kind}")


def _signed(share: float) -> str:
    return f"{share:+.1%}".replace("-", "−")
