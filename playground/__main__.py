"""The same jobs without a page: `python -m playground plan | tune | compare | fetch | models`.

Progress goes to standard error; the last line of standard output is one JSON object, {"error": text} after an error.
Exit status: 0 done, 1 an error, 2 wrong usage.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from playground import catalog, runs, settings
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.i18n import LANGUAGES, translate
from playground.settings.aliases import OLD_FIELDS

GROUPS = {"load": settings.Load, "data": settings.Data, "lora": settings.Lora, "train": settings.Train}
PREFIXED = {("train", "seed"), ("lora", "layers")}  # fields whose flag begins with their group's name
METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}  # of a flag's value, by its type
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"  # under `accelerate launch`, rank 0 alone prints


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Raises SystemExit(2) for wrong usage."""
    options = _parse_arguments(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        result = options.run_command(options)
    except KeyboardInterrupt:
        result, status = {"error": translate(options.lang, "cli.interrupted")}, 1
    except Exception as error:
        if not isinstance(error, (PlaygroundError, OSError)):
            import traceback

            traceback.print_exc()
        text = as_playground_error(error).text(options.lang)
        print(text, file=sys.stderr)
        result, status = {"error": text}, 1
    _print_result(result)
    return status


def _print_result(result: dict) -> None:
    if IS_MAIN_PROCESS:
        print(json.dumps(result, ensure_ascii=False))


def tune(options: argparse.Namespace) -> dict:
    """Fine-tune as the flags and the settings file say; with neither, the default demo.

    Under `accelerate launch`: on several devices.
    """
    from playground.engine.workbench import Workbench

    workbench = Workbench(options.runs)
    events = workbench.resume(options.resume) if options.resume else workbench.tune(_settings(options))
    return _follow(events, options.lang)


def compare(options: argparse.Namespace) -> dict:
    """Answer a prompt with a run's base model and with its tuned model."""
    from playground.engine.workbench import Workbench

    run = runs.find(options.runs, options.run)
    if not run.adapter.is_dir() and not run.model.is_dir():
        raise problem("error.no_adapter", run=run.id)
    generation = settings.parse_generation(_flag_values(options, "generation", settings.Generation))
    turn = [{"instruction": options.prompt, "answer": None}]
    answer: dict = {}

    def keep(event: dict) -> None:
        if event["kind"] == "answer":
            answer.update(event)

    workbench = Workbench(options.runs)
    events = workbench.chat(run.settings(), run.id, {"base": turn, "tuned": turn}, generation)
    result = _follow(events, options.lang, keep)
    return {"prompt": options.prompt, "base": answer.get("base", ""), "tuned": answer.get("tuned", ""), **result}


def plan(options: argparse.Namespace) -> dict:
    """Predict what loading, chatting and fine-tuning take, from a model's config alone.

    MODEL is a catalog id, a hub id, a folder or a config.json.
    """
    from playground.catalog.cards import cards, verdict
    from playground.planning import forecast

    values = _flags_by_group(options)
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
            _print_event(next(steps), options.lang)
        except StopIteration as end:
            return {"model": options.model, "folder": str(end.value)}


def models(options: argparse.Namespace) -> dict:
    """List the catalog: languages, license, the smallest GPU for each model, and which are on this machine already."""
    from playground.catalog.filters import model_facts
    from playground.model.source import local_folder

    facts = (model_facts(model, options.lang) | {"here": local_folder(model) is not None} for model in catalog.models())
    return {"models": list(facts)}


COMMANDS = {"tune": tune, "plan": plan, "compare": compare, "fetch": fetch, "models": models}


def _follow(events: Iterable[dict], lang: str, keep: Callable[[dict], None] = lambda event: None) -> dict:
    result = {}
    for event in events:
        keep(event)
        _print_event(event, lang)
        if event["kind"] == "done":
            result = event["result"]
    return result


def _print_event(event: dict, lang: str) -> None:
    """One line on standard error for each event that a person wants to see."""
    kind = event["kind"] if IS_MAIN_PROCESS else None
    if kind == "phase" and event["name"] != "idle":
        line = translate(lang, f"phase.{event['name']}")
    elif kind == "step":
        line = translate(lang, "cli.step", **event)
    elif kind == "progress" and event["total"]:
        print(f"\r{100 * event['done'] / event['total']:5.0f} %", end="\r", file=sys.stderr)
        return
    elif kind in ("memory_predicted", "memory_measured"):
        sizes = event.get("peak", event)
        memory = next(memory for memory in ("device_used", "rss", "allocated") if memory in sizes)
        values = {"size_bytes": sizes[memory], "capacity_bytes": event.get("capacity")}
        line = translate(lang, f"cli.{kind}", job=event["phase"], memory=memory, **values)
    elif kind == "note":
        line = translate(lang, event["key"], **event["values"])
    else:
        return
    print(line, file=sys.stderr)


# --- settings from flags ---


def _settings(options: argparse.Namespace) -> settings.Settings:
    """A preset or the settings file, under the flags; with neither, the demo's preset."""
    base = settings.Settings()
    if options.preset or not options.settings:
        base = base.with_values(catalog.presets()[options.preset or "demo-en"]["settings"])
    if options.settings:
        base = settings.read_file(Path(options.settings), options.settings, base)
    return settings.parse(_flags_by_group(options), base)


def _flags_by_group(options: argparse.Namespace) -> dict[str, dict]:
    return {group: _flag_values(options, group, kind) for group, kind in GROUPS.items()}


def _flag_values(options: argparse.Namespace, group: str, kind: type) -> dict[str, Any]:
    """{field: value} of the flags of a settings group that were given."""
    flags = {field.name: getattr(options, f"{group}__{field.name}", None) for field in fields(kind)}
    return {name: value for name, value in flags.items() if value is not None}


def _flag(group: str, name: str) -> str:
    return "--" + (f"{group}-{name}" if (group, name) in PREFIXED else name).replace("_", "-")


# --- command line ---


def _parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command and its flags, also under names of earlier versions. Raises SystemExit(2) for wrong usage."""
    parser = _build_parser()
    command = arguments[0] if arguments else ""
    if command and not command.startswith("-") and command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        parser.error(f"unknown command {command}: {hint}")
    options, unknown = parser.parse_known_args(_with_current_flags(arguments))
    if unknown:
        hints = _nearest_flags(options.parser, unknown)
        options.parser.error("; ".join([f"unrecognized arguments: {' '.join(unknown)}", *hints]))
    return options


def _nearest_flags(parser: argparse.ArgumentParser, unknown: list[str]) -> list[str]:
    """A suggestion for each unknown flag that abbreviates or resembles one of the parser's."""
    known = re.findall(r"--[a-z-]*[a-z]", parser.format_help())
    flags = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
    nearest = {
        flag: [name for name in known if name.startswith(flag)] or get_close_matches(flag, known, 1) for flag in flags
    }
    return [f"did you mean {near[0]} instead of {flag}?" for flag, near in nearest.items() if near]


def _with_current_flags(arguments: list[str]) -> list[str]:
    """Replace flags of earlier versions by today's; each replacement is reported on standard error."""
    names = {"--layers": "--lora-layers", "--capacity": "--gpu-gib"}
    for group, renamed in OLD_FIELDS.items():
        for old, new in renamed.items():
            names |= {_flag(group, old): _flag(group, new)}
            names |= {f"--no-{old.replace('_', '-')}": f"--no-{new.replace('_', '-')}"}
    current = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in names:
            print(f"{flag} is now {names[flag]}", file=sys.stderr)
        current.append(names.get(flag, flag) + equals + value)
    return current


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as JSON on standard output too."""

    def error(self, message: str) -> NoReturn:
        _print_result({"error": message})
        super().error(message)


def _gib(text: str) -> float:
    """A size in GiB from a flag."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of GiB: 0 or more, and finite")
    return size


def _build_parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of the runs (runs)")
    common.add_argument("--lang", choices=LANGUAGES, default="en", help="language of messages (en)")
    parser = _Parser(prog="python -m playground", description=str(__doc__).split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name: str, usage: str | None = None) -> argparse.ArgumentParser:
        run = COMMANDS[name]
        text = str(run.__doc__)
        summary = text.split("\n")[0]
        command = commands.add_parser(
            name, usage=usage, parents=[common], help=summary, description=text, allow_abbrev=False
        )
        command.set_defaults(run_command=run, parser=command)
        return command

    command = add_command("tune", "%(prog)s [flags]  (--help lists them)")
    command.add_argument("--settings", metavar="FILE", help="a run's settings.json, or a part of one")
    command.add_argument(
        "--resume", metavar="RUN", help="continue a stopped or interrupted run from its last checkpoint"
    )
    command.add_argument(
        "--preset", choices=list(catalog.presets()), help="named settings (demo-en, without --settings)"
    )
    _add_settings_flags(command)

    command = add_command("plan", "%(prog)s MODEL [flags]  (--help lists them)")
    command.add_argument("model_id", metavar="MODEL", help="a catalog id, a hub id, a folder or a config.json")
    command.add_argument("--context", type=int, default=1024, metavar="N", help="tokens of a chat")
    command.add_argument(
        "--gpu-gib", type=_gib, default=0, metavar="GIB", help="memory of the GPU that `auto` plans for (0: no limit)"
    )
    command.add_argument("--json", action="store_true", help="has no effect: the last line is always one JSON object")
    _add_settings_flags(command)

    command = add_command("compare", "%(prog)s RUN --prompt PROMPT [flags]  (--help lists them)")
    command.add_argument("run", metavar="RUN", help="id of the run")
    command.add_argument("--prompt", required=True, help="the question to both models")
    _add_flags(command.add_argument_group("generation"), "generation", settings.Generation)

    command = add_command("fetch")
    command.add_argument("model", metavar="MODEL", help="a catalog id or a hub id")
    command.add_argument("--accept-terms", action="store_true", help="the model's terms were read and are accepted")

    add_command("models")
    return parser


def _add_settings_flags(command: argparse.ArgumentParser) -> None:
    for group, kind in GROUPS.items():
        _add_flags(command.add_argument_group(group), group, kind)


def _add_flags(command: Any, group: str, kind: type) -> None:
    """A flag for every field of a settings group, its help from the words table."""
    for field in fields(kind):
        options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if field.type is not bool:
            options = {"type": field.type, "metavar": METAVARS[field.type]}
        info = translate("en", f"{group}.{field.name}.info").replace("%", "%%")
        command.add_argument(_flag(group, field.name), dest=f"{group}__{field.name}", help=info, **options)


if __name__ == "__main__":
    sys.exit(main())
