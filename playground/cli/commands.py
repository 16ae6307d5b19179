"""The commands, each from parsed flags to its result; their first lines are their help."""

import argparse
import sys

from playground import catalog, runs, settings
from playground.cli.flags import flag_values, flags_by_group, settings_of
from playground.cli.output import follow, print_event
from playground.errors import problem
from playground.i18n import translate


def tune(options: argparse.Namespace) -> dict:
    """Fine-tune as the flags and the settings file say; with neither, the default demo.

    Under `accelerate launch`: on several devices.
    """
    from playground.engine.workbench import Workbench

    workbench = Workbench(options.runs)
    events = workbench.resume(options.resume) if options.resume else workbench.tune(settings_of(options))
    return follow(events, options.lang)


def compare(options: argparse.Namespace) -> dict:
    """Answer a prompt with a run's base model and with its tuned model."""
    from playground.engine.workbench import Workbench

    run = runs.find(options.runs, options.run)
    if not run.adapter.is_dir() and not run.model.is_dir():
        raise problem("error.no_adapter", run=run.id)
    generation = settings.parse_generation(flag_values(options, "generation", settings.Generation))
    turn = [{"instruction": options.prompt, "answer": None}]
    answer: dict = {}

    def keep(event: dict) -> None:
        if event["kind"] == "answer":
            answer.update(event)

    workbench = Workbench(options.runs)
    events = workbench.chat(run.settings(), run.id, {"base": turn, "tuned": turn}, generation)
    result = follow(events, options.lang, keep)
    return {"prompt": options.prompt, "base": answer.get("base", ""), "tuned": answer.get("tuned", ""), **result}


def plan(options: argparse.Namespace) -> dict:
    """Predict what loading, chatting and fine-tuning take, from a model's config alone.

    MODEL is a catalog id, a hub id, a folder or a config.json.
    """
    from playground.catalog.cards import cards, verdict
    from playground.planning import forecast

    values = flags_by_group(options)
    values["load"]["model"] = options.model_id
    result = forecast.forecast(settings.parse(values), options.context, round(options.gpu_gib * 2**30))
    totals = ("allocated", "reserved", "device_used")
    predictions = result["phases"]
    return {
        **result,
        **{phase: {total: prediction[total] for total in totals} for phase, prediction in predictions.items()},
        "verdicts": {
            phase: {card["gib"]: verdict(prediction["need"], card["bytes"]) for card in cards()}
            for phase, prediction in predictions.items()
        },
    }


def fetch(options: argparse.Namespace) -> dict:
    """Download a model's files to this machine."""
    import threading

    from playground.model.source import fetch_model

    steps = fetch_model(options.model, options.accept_terms, threading.Event())
    while True:
        try:
            print_event(next(steps), options.lang)
        except StopIteration as end:
            return {"model": options.model, "folder": str(end.value)}


def models(options: argparse.Namespace) -> dict:
    """List the catalog: languages, license, the smallest GPU for each model, and which are on this machine already."""
    from playground.catalog.filters import model_facts
    from playground.model.source import local_folder

    facts = (model_facts(model, options.lang) | {"here": local_folder(model) is not None} for model in catalog.models())
    return {"models": list(facts)}


def rows(options: argparse.Namespace) -> dict:
    """Read rows and show what is taught of them, what is left out and why.

    FILE is a file, a catalog id or a hub id. The model's tokenizer is used where it is on this machine.
    """
    from playground.planning.taught_rows import taught_rows

    data = {"held_out": 0.0, **flag_values(options, "data", settings.Data), "source": options.file}
    load = {"model": options.model} if options.model else {}
    result = taught_rows(settings.parse({"data": data, "load": load}), options.first)
    notes = [translate(options.lang, note["key"], **note["values"]) for note in result["notes"]]
    for note in notes:
        print(note, file=sys.stderr)
    return result | {"notes": notes}


COMMANDS = {"tune": tune, "plan": plan, "rows": rows, "compare": compare, "fetch": fetch, "models": models}
