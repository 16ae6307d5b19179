"""Tables of predictions compared with measurements as HTML: of one run, and of all runs on this machine."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from playground.i18n import format_bytes
from playground.runs.accuracy import TOTALS, UNITS, Pair, Score
from playground.ui.tables import step_time, table

ACCURACY_HEAD = ("figure", "predicted", "measured", "error")
SCORES_HEAD = ("figure", "count", "median", "worst")


def accuracy(translate: Callable, pairs: Sequence[Pair]) -> str:
    """A run's figures that were both predicted and measured, grouped by phase."""
    rows = []
    for phase, of_phase in groupby(pairs, lambda pair: pair.phase):
        rows.append([_word(translate, f"chart.job.{phase}", phase)])
        for pair in of_phase:
            predicted, measured = _figure(translate, pair, pair.predicted), _figure(translate, pair, pair.measured)
            rows.append([_kind(translate, pair.kind), predicted, measured, _signed_percent(pair.error)])
    return table([translate(f"accuracy.{name}") for name in ACCURACY_HEAD], rows)


def record(translate: Callable, pairs: Sequence[Pair], names: Mapping[str, str]) -> str:
    """Totals of all runs, a row a phase: the error, and predicted → measured. names: of the runs, by their id."""
    kinds = [kind for kind in TOTALS if any(pair.kind == kind for pair in pairs)]
    rows = []
    for (run_id, phase), of_phase in groupby(pairs, lambda pair: (pair.run, pair.phase)):
        cells = {}
        for pair in of_phase:
            predicted, measured = (_figure(translate, pair, value) for value in (pair.predicted, pair.measured))
            cells[pair.kind] = f"{_signed_percent(pair.error)}\n{predicted} → {measured}"
        job = _word(translate, f"chart.job.{phase}", phase)
        head = f"{job}\n{names.get(run_id, run_id)}"
        rows.append([head, *(cells.get(kind, "") for kind in kinds)])
    return table([translate("runs.head.run"), *(_kind(translate, kind) for kind in kinds)], rows, "stacked")


def scores(translate: Callable, scores: Sequence[Score]) -> str:
    """Median and worst error of the predictions, by kind of memory."""
    rows = [[_kind(translate, s.kind), str(s.count), f"{s.median:.1%}", _signed_percent(s.worst)] for s in scores]
    return table([translate(f"accuracy.{name}") for name in SCORES_HEAD], rows)


def _figure(translate: Callable, pair: Pair, value: float) -> str:
    """Bytes, or seconds, in words."""
    if pair.kind in UNITS:
        return step_time(translate, value)
    return format_bytes(round(value))


def _kind(translate: Callable, kind: str) -> str:
    if kind in UNITS:
        return translate(f"accuracy.time.{kind}")
    return _word(translate, f"chart.memory.{kind}" if kind in TOTALS else f"chart.part.{kind}", kind)


def _word(translate: Callable, key: str, name: str) -> str:
    """The text of a key; the name itself where another version, or a person, wrote it."""
    try:
        return translate(key)
    except KeyError:
        return name[:40]


def _signed_percent(share: float) -> str:
    return f"{share:+.1%}".replace("-", "−")
