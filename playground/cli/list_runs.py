"""The command `runs`: list the runs of a folder, or lay some of them side by side."""

import argparse
from typing import Any

from playground.errors import stored_text
from playground.runs import RunSummary, history, summary
from playground.runs.query import COLUMNS, Query, changed_settings, find_runs, values_that_differ


def runs(options: argparse.Namespace) -> dict:
    """List the runs, newest first, or compare those that are named: settings that differ, and results.

    Memory in bytes; loss and facts are held-out figures before and after a fine-tune.
    """
    if options.run_ids:
        chosen = [summary(options.runs, run_id) for run_id in options.run_ids]
        return {"runs": [_entry(run, options.lang) for run in chosen], "differing": values_that_differ(chosen)}
    query = Query(text=options.filter, sort=options.sort)
    found = find_runs(history(options.runs), query, lambda run: "")
    shown = found[: options.limit] if options.limit > 0 else found
    return {"count": len(found), "runs": [_entry(run, options.lang) for run in shown]}


def add_runs_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    command.add_argument("run_ids", nargs="*", metavar="RUN", help="ids of runs to compare")
    command.add_argument("--filter", default="", metavar="TEXT", help="words that a run's name, settings or note have")
    command.add_argument("--sort", choices=list(COLUMNS), default="began", help="what they are sorted by (began)")
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
        "peak": {"predicted": run.peak[0], "measured": run.peak[1]},
        "tokens_per_s": run.tokens_per_s,
        "seconds": run.seconds or None,
        "state": run.state,
        "why": stored_text(run.problems[0], lang) if run.problems else "",
        "has_adapter": run.has_adapter,
    }
