"""The commands on runs that have ended, each from parsed flags to its result; their first lines are their help."""

import argparse

from playground import runs
from playground.errors import problem
from playground.runs import recordings


def record(options: argparse.Namespace) -> dict:
    """Write a run into one file that can be shown on another machine, without its paths, model or GPU."""
    text = recordings.record(list(runs.find(options.runs, options.run).events()))
    try:
        options.file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise problem("error.recording_file", path=options.file.name, detail=str(error)[:200]) from error
    return {"run": options.run, "file": str(options.file), "bytes": len(text.encode())}


def replay(options: argparse.Namespace) -> dict:
    """Put a recording among the runs, so that the page shows it, marked as recorded."""
    return {"run": recordings.replay(options.file, options.runs).id}
