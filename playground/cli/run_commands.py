"""The commands on runs that have ended, each from parsed flags to its result; their first lines are their help."""

import argparse

from playground import runs
from playground.cli.output import follow
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


def export(options: argparse.Namespace) -> dict:
    """Export a run's adapter, merged model or GGUF file, or push it to a hub.

    The hub's token is read from HF_TOKEN. GGUF types: f16, q8_0, q6_k, q5_k, q4_k, q3_k, q2_k.
    """
    from playground.engine.workbench import Workbench
    from playground.export.hub import machine_token
    from playground.export.order import parse_order

    names = ("run", "to", "name", "type", "force", "repo", "content", "lang")
    values = {name: getattr(options, name) for name in names} | {"private": not options.public}
    order = parse_order(values | {"out": str(options.out) if options.out else ""})
    return follow(Workbench(options.runs).export(order, machine_token() if order.to == "hub" else ""), options.lang)
