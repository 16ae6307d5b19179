"""The commands on runs that have ended, each from parsed flags to its result; their first lines are their help."""

import argparse
import sys

from playground import runs
from playground.cli.output import follow
from playground.cli.workbench import open_workbench
from playground.errors import problem
from playground.i18n import translate
from playground.runs import recordings
from playground.share import command_lines


def record(options: argparse.Namespace) -> dict:
    """Write a run into one file that can be shown on another machine, without its paths, model or GPU."""
    from playground.share.files import write_whole

    text = recordings.record(list(runs.find(options.runs, options.run).events()))
    write_whole(options.file, text)
    return {"run": options.run, "file": str(options.file), "bytes": len(text.encode())}


def replay(options: argparse.Namespace) -> dict:
    """Put a recording among the runs, so that the page shows it, marked as recorded."""
    return {"run": recordings.replay(options.file, options.runs).id}


def export(options: argparse.Namespace) -> dict:
    """Export a run's adapter, merged model or GGUF file, or push it to a hub.

    The hub's token is read from HF_TOKEN. GGUF types: f16, q8_0, q6_k, q5_k, q4_k, q3_k, q2_k.
    """
    from playground.export.hub import machine_token
    from playground.export.order import parse_order

    names = ("run", "to", "name", "type", "force", "repo", "content", "lang")
    values = {name: getattr(options, name) for name in names} | {"private": not options.public}
    order = parse_order(values | {"out": str(options.out) if options.out else ""})
    token = machine_token() if order.to == "hub" else ""
    return follow(open_workbench(options.runs).export(order, token), options.lang)


def script(options: argparse.Namespace) -> dict:
    """Write a script and a notebook that repeat a fine-tune without this program, and its settings file.

    The result has both command lines, and says what differs from the run.
    """
    from playground.planning.repeat import repeat_files

    run = runs.find(options.runs, options.run)
    settings = run.settings()
    files = repeat_files(str(options.runs), run.id, str(options.out), with_settings=True)
    device = next(run.events(), {}).get("hardware", {}).get("device", "cpu")
    notes = [translate(options.lang, note["key"], **note["values"]) for note in files.pop("notes")]
    for note in notes:
        print(note, file=sys.stderr)
    return {
        "run": run.id,
        **files,
        "command": command_lines.tune_command(settings),
        "accelerate": command_lines.accelerate_command(settings, device),
        "notes": notes,
    }


def card(options: argparse.Namespace) -> dict:
    """Write a result card: question, both answers, memory, loss and command of a fine-tune, as .html or .png."""
    from playground.share import card_drawing, screenshot
    from playground.share.card import card_of
    from playground.share.files import write_whole

    suffix = options.out.suffix.lower()
    if suffix not in (".html", ".png"):
        raise problem("card.error.file", path=options.out.name)
    facts = card_of(runs.find(options.runs, options.run), options.lang, options.question)
    page = card_drawing.card_page(facts, options.lang)
    if suffix == ".html":
        write_whole(options.out, page)
    else:
        screenshot.write_png(page, options.out, card_drawing.WIDTH, card_drawing.HEIGHT)
    return {"run": options.run, "file": str(options.out), "bytes": options.out.stat().st_size}


def trackio(options: argparse.Namespace) -> dict:
    """Import a run that has ended into Trackio on this machine (`pip install trackio`); nothing is sent anywhere.

    Losses, learning rate, tokens per second, held-out losses, memory and settings. Imported again, a run is replaced.
    """
    from playground.share.trackio_import import import_run

    result = import_run(options.runs, options.run, options.project)
    print(translate(options.lang, "trackio.show", **result), file=sys.stderr)
    return result
