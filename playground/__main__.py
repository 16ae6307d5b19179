"""The same jobs without a page: `python -m playground plan | tune | compare | fetch | models`.

Progress goes to standard error; the last line of standard output is one JSON object. Exit status: 0 done, 1 something a
person can mend (the object is {"error": text}), 2 wrong usage.
"""

import argparse
import json
import os
import sys
from dataclasses import fields
from pathlib import Path

from playground import catalog, runs, settings
from playground.errors import PlaygroundError, problem, told
from playground.words import LANGUAGES, say

GROUPS = ("load", "data", "lora", "train")
MAIN = os.environ.get("RANK", "0") == "0"  # under `accelerate launch`, one process speaks for all


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        found = asked.run_command(asked)
    except KeyboardInterrupt:
        found, status = {"error": say(asked.lang, "cli.interrupted")}, 1
    except Exception as error:
        if not isinstance(error, (PlaygroundError, OSError)):
            import traceback

            traceback.print_exc()
        shown = told(error)
        print(shown.text(asked.lang), file=sys.stderr)
        found, status = {"error": shown.text(asked.lang)}, 1
    else:
        status = 0
    if MAIN:
        print(json.dumps(found, ensure_ascii=False))
    return status


def tune(asked) -> dict:
    """Fine-tune as the flags and the settings file say; with neither, the default demo. Under `accelerate launch`: on several devices."""
    from playground.jobs import Workbench

    bench = Workbench(asked.runs)
    return _follow(bench.resume(asked.resume) if asked.resume else bench.tune(_chosen(asked)), asked.lang)


def compare(asked) -> dict:
    """Ask a run's base and tuned model the same thing."""
    from playground.jobs import Workbench

    run = runs.find(asked.runs, asked.run)
    if not run.adapter.is_dir() and not run.model.is_dir():
        raise problem("error.no_adapter", run=run.id)
    generation, wrong = settings.lay_over(settings.Generation(), _given(asked, "generation", settings.Generation), "generation")
    settings.check(wrong)
    turn = [{"instruction": asked.prompt, "answer": None}]
    chosen = settings.Settings().with_values(run.settings())
    answer: dict = {}

    def keep(event):
        if event["kind"] == "answer":
            answer.update(event)

    result = _follow(Workbench(asked.runs).chat(chosen, run.id, {"base": turn, "tuned": turn}, generation), asked.lang, keep)
    return {"prompt": asked.prompt, "base": answer.get("base", ""), "tuned": answer.get("tuned", ""), **result}


def plan(asked) -> dict:
    """Predict what loading, chatting and fine-tuning take, from a model's config alone: a catalog's id, a hub id, a folder, a config.json."""
    from playground.memory import planner
    from playground.memory.cards import cards, verdict

    chosen = settings.Settings().with_values({group: _given(asked, group, type(getattr(settings.Settings(), group))) for group in GROUPS})
    chosen = chosen.with_values({"load": {"model": asked.of}})
    found = planner.forecast(chosen, asked.context, round(asked.capacity * 2**30))
    verdicts = {phase: {card["gib"]: verdict(told["device"], card["bytes"]) for card in cards()} for phase, told in found["phases"].items()}
    return {**found, **{phase: {k: told[k] for k in ("allocated", "reserved", "device")} for phase, told in found["phases"].items()}, "verdicts": verdicts}


def fetch(asked) -> dict:
    """Bring a model's files onto this machine."""
    import threading

    from playground.model.source import obtain

    steps = obtain(asked.model, asked.accept_terms, threading.Event())
    while True:
        try:
            _show(next(steps), asked.lang)
        except StopIteration as end:
            return {"model": asked.model, "folder": str(end.value)}


def models(asked) -> dict:
    """What the catalog offers: languages, licence, the smallest card for each model; and what of it is on this machine already."""
    from playground.model.source import local
    from playground.shelf import facts

    return {"models": [facts(model, asked.lang) | {"here": local(model) is not None} for model in catalog.models()]}


def _follow(events, lang: str, keep=lambda event: None) -> dict:
    result = {}
    for event in events:
        keep(event)
        _show(event, lang)
        if event["kind"] == "done":
            result = event["result"]
    return result


def _show(event: dict, lang: str) -> None:
    """One line on standard error for what a person wants to hear of."""
    kind = event["kind"] if MAIN else None
    if kind == "phase" and event["name"] != "idle":
        line = say(lang, f"phase.{event['name']}")
    elif kind == "step":
        line = say(lang, "cli.step", **event)
    elif kind == "progress" and event["total"]:
        print(f"\r{100 * event['done'] / event['total']:5.0f} %", end="\r", file=sys.stderr)
        return
    elif kind in ("prediction", "measured"):
        told = event.get("peak", event)
        memory = next(memory for memory in ("device", "rss", "allocated") if memory in told)
        line = say(lang, f"cli.{kind}", job=event["phase"], memory=memory, size_bytes=told[memory], capacity_bytes=event.get("capacity"))
    elif kind == "note":
        line = say(lang, event["key"], **event["values"])
    else:
        return
    print(line, file=sys.stderr)


def _chosen(asked) -> settings.Settings:
    """A preset or the settings file, under the flags; with neither, the demo's preset."""
    chosen = settings.Settings()
    if asked.preset or not asked.settings:
        chosen = chosen.with_values(catalog.presets()[asked.preset or "demo-en"]["settings"])
    if asked.settings:
        try:
            chosen = chosen.with_values(json.loads(Path(asked.settings).read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError) as error:
            raise problem("error.settings_file", path=asked.settings, detail=str(error)) from error
    return chosen.with_values({group: _given(asked, group, type(getattr(chosen, group))) for group in GROUPS})


def _given(asked, group: str, kind: type) -> dict:
    flags = {f.name: getattr(asked, f"{group}__{f.name}", None) for f in fields(kind)}
    return {name: value for name, value in flags.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (runs)")
    common.add_argument("--lang", choices=LANGUAGES, default="en")
    parser = argparse.ArgumentParser(prog="python -m playground", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("tune", parents=[common], help=tune.__doc__)
    one.set_defaults(run_command=tune)
    one.add_argument("--settings", metavar="FILE", help="a run's settings.json, or a part of one")
    one.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped or broke off, from its last checkpoint")
    one.add_argument("--preset", choices=list(catalog.presets()), help="named settings (demo-en, unless --settings is given)")
    for group, kind in zip(GROUPS, (settings.Load, settings.Data, settings.Lora, settings.Train)):
        taken = {"seed"} if group == "train" else set()
        _add_flags(one.add_argument_group(group), group, kind, taken)

    one = commands.add_parser("plan", parents=[common], help=plan.__doc__)
    one.set_defaults(run_command=plan)
    one.add_argument("of", metavar="MODEL")
    one.add_argument("--context", type=int, default=1024, help="tokens of a chat")
    one.add_argument("--capacity", type=float, default=0, metavar="GIB", help="of the card that `auto` plans with (0: no limit)")
    one.add_argument("--json", action="store_true", help="as it is anyway: the last line is one JSON object")
    for group, kind in zip(GROUPS, (settings.Load, settings.Data, settings.Lora, settings.Train)):
        _add_flags(one.add_argument_group(group), group, kind, {"seed"} if group == "train" else set())

    one = commands.add_parser("compare", parents=[common], help=compare.__doc__)
    one.set_defaults(run_command=compare)
    one.add_argument("run")
    one.add_argument("--prompt", required=True)
    _add_flags(one.add_argument_group("generation"), "generation", settings.Generation, set())

    one = commands.add_parser("fetch", parents=[common], help=fetch.__doc__)
    one.set_defaults(run_command=fetch)
    one.add_argument("model")
    one.add_argument("--accept-terms", action="store_true", help="the model's terms were read and are accepted")

    one = commands.add_parser("models", parents=[common], help=models.__doc__)
    one.set_defaults(run_command=models)
    return parser


def _add_flags(parser, group: str, kind: type, prefixed: set[str]) -> None:
    """A flag for every field, its help from the words table; a name that another group has too gets its group's."""
    for field in fields(kind):
        name = f"{group}-{field.name}" if field.name in prefixed else field.name
        options = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": field.type}
        info = say("en", f"{group}.{field.name}.info").replace("%", "%%")
        parser.add_argument("--" + name.replace("_", "-"), dest=f"{group}__{field.name}", help=info, **options)


if __name__ == "__main__":
    sys.exit(main())
