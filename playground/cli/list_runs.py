"""The command `runs`: list the runs of a folder, or lay some of them over each other."""

import argparse
from pathlib import Path
from typing import Any

from playground.errors import problem, stored_text
from playground.runs import RunSummary, history
from playground.runs.overlay import check_count, overlay
from playground.runs.query import COLUMNS, Query, changed_settings, find_runs
from playground.runs.series import RunSeries
from playground.runs.thinning import thin_line
from playground.share.files import write_whole
from playground.share.overlay_figures import incomparable, overlay_page

CURVE_POINTS = 200  # of a curve in the result


def runs(options: argparse.Namespace) -> dict:
    """List the runs, newest first, or compare those that are named: settings that differ, results and curves.

    Memory in bytes; loss and facts are held-out figures before and after a fine-tune. Curves are thinned and keep all
    peaks: [step, loss], and [seconds, bytes] as measured beside the predicted peak.
    """
    if options.run_ids or options.out:
        return _compared(options)
    query = Query(text=options.filter, sort=options.sort)
    found = find_runs(history(options.runs), query, lambda run: "")
    shown = found[: options.limit] if options.limit > 0 else found
    return {"count": len(found), "runs": [_entry(run, options.lang) for run in shown]}


def _compared(options: argparse.Namespace) -> dict:
    """The named runs laid over each other, with --out also in a picture."""
    run_ids = list(dict.fromkeys(options.run_ids))
    if options.out:
        if options.out.suffix.lower() != ".html":
            raise problem("error.overlay_file", path=options.out.name)
        check_count(run_ids)
    found = overlay(options.runs, run_ids)
    result: dict[str, Any] = {
        "runs": [_entry(run, options.lang) for run in found.runs],
        "differing": found.differing,
        "curves": {run.id: _curves(series) for run, series in zip(found.runs, found.series)},
        "not_comparable": incomparable(found, options.lang),
    }
    if options.out:
        names = [run.label.name or run.id for run in found.runs]
        result["file"] = write_whole(options.out, overlay_page(found, names, options.lang))
    return result


def _curves(series: RunSeries) -> dict[str, Any]:
    names = ("from_second", "to_second", "bytes")
    return {
        "loss": thin_line(series.losses, CURVE_POINTS),
        "held_out_loss": thin_line(series.held_out, CURVE_POINTS),
        "memory_measured": thin_line(series.memory, CURVE_POINTS),
        "peak_predicted": dict(zip(names, series.predicted)) if series.predicted else None,
        "not_finite_from_step": series.not_finite,
    }


def add_runs_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    command.add_argument("run_ids", nargs="*", metavar="RUN", help="ids of runs to compare")
    command.add_argument("--filter", default="", metavar="TEXT", help="words that a run's name, settings or note have")
    command.add_argument("--sort", choices=list(COLUMNS), default="began", help="what they are sorted by (began)")
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="write 2 to 4 named runs, laid over each other, as a picture: .html"
    )
    command.add_argument("--limit", type=int, default=0, metavar="N", help="at most so many runs; 0: all")


def _entry(run: RunSummary, lang: str) -> dict[str, Any]:
    """A run as JSON; null for what isn't known."""
    return {
        "run": run.id,
        "name": run.label.name,
        "note": run.label.note,
        "began": run.began or None,
        "job": run.job,
        "model": run.model,
        "bits": run.bits,
        "data": run.data,
        "settings": {f"{group}.{name}": value for group, name, value in changed_settings(run)},
        "loss": run.loss,
        "facts": run.recall,
        "forgetting": run.forgetting or None,
        "peak": {"predicted": run.peak[0], "measured": run.peak[1]},
        "tokens_per_s": run.tokens_per_s,
        "seconds": run.seconds or None,
        "state": run.state,
        "recorded": run.recorded or None,
        "why": stored_text(run.problems[0], lang) if run.problems else "",
        "has_adapter": run.has_adapter,
    }
