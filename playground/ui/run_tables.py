"""The tables of the Runs tab as HTML: past runs, and predictions compared with measurements."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from playground import catalog
from playground.data.source import short_name
from playground.i18n import format_bytes
from playground.runs import RunSummary
from playground.runs.accuracy import TOTALS, Pair, Score
from playground.ui.tables import table

ACCURACY_HEAD = ("figure", "predicted", "measured", "error")
SCORES_HEAD = ("figure", "count", "median", "worst")
HISTORY_HEAD = ("run", "loss", "recall", "seconds", "state")


def history(translate: Callable, runs: Sequence[RunSummary]) -> str:
    """Every run: its job and model, held-out loss and recall before → after, seconds, and how it ended."""
    rows = []
    for run in runs:
        loss, recall = run.result.get("loss") or {}, run.result.get("recall") or {}
        about = translate(
            "runs.about_tune" if run.job == "tune" else "runs.about",
            job=run.job,
            model=catalog.display_name(run.model),
            bits=run.bits,
            data=short_name(run.data),
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
    return (
        f'<div class="runs">{table([translate(f"runs.head.{name}") for name in HISTORY_HEAD], rows, "stacked")}</div>'
    )


def accuracy(translate: Callable, pairs: Sequence[Pair]) -> str:
    """A run's figures that were both predicted and measured, grouped by phase."""
    rows = []
    for phase, of_phase in groupby(pairs, lambda pair: pair.phase):
        rows.append([translate(f"chart.job.{phase}")])
        for pair in of_phase:
            predicted, measured = format_bytes(pair.predicted), format_bytes(pair.measured)
            rows.append([_kind(translate, pair.kind), predicted, measured, _signed_percent(pair.error)])
    return table([translate(f"accuracy.{name}") for name in ACCURACY_HEAD], rows)


def record(translate: Callable, pairs: Sequence[Pair], runs: Mapping[str, RunSummary]) -> str:
    """Totals of all runs, a row a phase: the error, and predicted → measured. runs: by their id."""
    kinds = [kind for kind in TOTALS if any(pair.kind == kind for pair in pairs)]
    rows = []
    for (run_id, phase), of_phase in groupby(pairs, lambda pair: (pair.run, pair.phase)):
        cells = {
            pair.kind: f"{_signed_percent(pair.error)}\n{format_bytes(pair.predicted)} → {format_bytes(pair.measured)}"
            for pair in of_phase
        }
        run = runs[run_id]
        about = translate("runs.about", job=phase, model=catalog.display_name(run.model), bits=run.bits)
        rows.append([f"{about}\n{run_id}", *(cells.get(kind, "") for kind in kinds)])
    return table([translate("runs.head.run"), *(_kind(translate, kind) for kind in kinds)], rows, "stacked")


def scores(translate: Callable, scores: Sequence[Score]) -> str:
    """Median and worst error of the predictions, by kind of memory."""
    rows = [[_kind(translate, s.kind), str(s.count), f"{s.median:.1%}", _signed_percent(s.worst)] for s in scores]
    return table([translate(f"accuracy.{name}") for name in SCORES_HEAD], rows)


def _kind(translate: Callable, kind: str) -> str:
    return translate(f"chart.memory.{kind}" if kind in TOTALS else f"chart.part.{kind}")


def _signed_percent(share: float) -> str:
    return f"{share:+.1%}".replace("-", "−")
