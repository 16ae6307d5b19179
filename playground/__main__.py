"""The same jobs without a page: `python -m playground plan | tune | compare | fetch | models`.

Progress goes to standard error; the last line of standard output is one JSON object. Exit status: 0 done, 1 something a
person can mend (the object is {"error": text}), 2 wrong usage.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from playground import catalog, runs, settings
from playground.errors import PlaygroundError, as_playground_error, problem
from playground.i18n import LANGUAGES, translate
from playground.settings.aliases import OLD_FIELDS

GROUPS = {"load": settings.Load, "data": settings.Data, "lora": settings.Lora, "train": settings.Train}
PREFIXED = {("train", "seed"), ("lora", "layers")}  # fields whose flag begins with their group's name
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"  # under `accelerate launch`, rank 0 alone prints


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(_with_current_flags(sys.argv[1:] if arguments is None else arguments))
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
    if IS_MAIN_PROCESS:
        print(json.dumps(result, ensure_ascii=False))
    return status


def tune(options: argparse.Namespace) -> dict:
    """Fine-tune as the flags and the settings file say; with neither, the default demo.

    Under `accelerate launch`: on several devices.
    """
    from playground.engine.workbench import Workbench

    workbench = Workbench(options.runs)
    events = workbench.resume(options.resume) if options.resume else workbench.tune(_settings(options))
    return _follow(events, options.lang)


def compare(options: argparse.Namespace) -> dict:
    """Ask a run's base and tuned model the same question."""
    from playground.engine.workbench import Workbench

    run = runs.find(options.runs, options.run)
    if not run.adapter.is_dir() and not run.model.is_dir():
        raise problem("error.no_adapter", run=run.id)
    flags = _flag_values(options, "generation", settings.Generation)
    generation, wrong = settings.merge_group(settings.Generation(), flags, "generation")
    settings.raise_all(wrong)
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

    chosen = settings.parse({**_flags_by_group(options), "load": {**_load_flags(options), "model": options.model_id}})
    found = forecast.forecast(chosen, options.context, round(options.gpu_gib * 2**30))
    sizes = ("allocated", "reserved", "device_used")
    totals = {phase: {size: told[size] for size in sizes} for phase, told in found["phases"].items()}
    verdicts = {
        phase: {card["gib"]: verdict(total["device_used"], card["bytes"]) for card in cards()}
        for phase, total in totals.items()
    }
    return {**found, **totals, "verdicts": verdicts}


def fetch(options: argparse.Namespace) -> dict:
    """Bring a model's files onto this machine."""
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
        base = settings.parse(_read_settings_file(options.settings), base)
    return settings.parse(_flags_by_group(options), base)


def _read_settings_file(path: str) -> dict:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise problem("error.settings_file", path=path, detail=str(error)) from error
    if not isinstance(values, dict):
        raise problem("error.settings_file", path=path, detail=type(values).__name__)
    return values


def _flags_by_group(options: argparse.Namespace) -> dict[str, dict]:
    return {group: _flag_values(options, group, kind) for group, kind in GROUPS.items()}


def _load_flags(options: argparse.Namespace) -> dict:
    return _flag_values(options, "load", settings.Load)


def _flag_values(options: argparse.Namespace, group: str, kind: type) -> dict[str, Any]:
    """{field: value} of the flags of a settings group that were given."""
    flags = {field.name: getattr(options, f"{group}__{field.name}", None) for field in fields(kind)}
    return {name: value for name, value in flags.items() if value is not None}


def _flag(group: str, name: str) -> str:
    return "--" + (f"{group}-{name}" if (group, name) in PREFIXED else name).replace("_", "-")


def _with_current_flags(arguments: list[str]) -> list[str]:
    """Flags of earlier versions under today's names; says so on standard error."""
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
    """Suggests the nearest flag for one that doesn't exist."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = options.parser
            known = [flag for action in command._actions for flag in action.option_strings]
            near = {u: get_close_matches(u.partition("=")[0], known, 1) for u in unknown if u.startswith("-")}
            hints = [f"did you mean {match[0]} instead of {flag}?" for flag, match in near.items() if match]
            command.error("; ".join([f"unrecognized arguments: {' '.join(unknown)}", *hints]))
        return options


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (runs)")
    common.add_argument("--lang", choices=LANGUAGES, default="en")
    parser = _Parser(prog="python -m playground", description=str(__doc__).split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser)

    def add_command(run: Callable[[argparse.Namespace], dict]) -> argparse.ArgumentParser:
        text = str(run.__doc__)
        command = commands.add_parser(
            run.__name__, parents=[common], help=text.split("\n")[0], description=text, allow_abbrev=False
        )
        command.set_defaults(run_command=run, parser=command)
        return command

    command = add_command(tune)
    command.add_argument("--settings", metavar="FILE", help="a run's settings.json, or a part of one")
    command.add_argument(
        "--resume", metavar="RUN", help="continue a stopped or interrupted run from its last checkpoint"
    )
    command.add_argument(
        "--preset", choices=list(catalog.presets()), help="named settings (demo-en, without --settings)"
    )
    _add_settings_flags(command)

    command = add_command(plan)
    command.add_argument("model_id", metavar="MODEL")
    command.add_argument("--context", type=int, default=1024, help="tokens of a chat")
    command.add_argument(
        "--gpu-gib", type=float, default=0, metavar="GIB", help="memory of the GPU that `auto` plans for (0: no limit)"
    )
    command.add_argument("--json", action="store_true", help="has no effect: the last line is always one JSON object")
    _add_settings_flags(command)

    command = add_command(compare)
    command.add_argument("run")
    command.add_argument("--prompt", required=True)
    _add_flags(command.add_argument_group("generation"), "generation", settings.Generation)

    command = add_command(fetch)
    command.add_argument("model")
    command.add_argument("--accept-terms", action="store_true", help="the model's terms were read and are accepted")

    add_command(models)
    return parser


def _add_settings_flags(command: argparse.ArgumentParser) -> None:
    for group, kind in GROUPS.items():
        _add_flags(command.add_argument_group(group), group, kind)


def _add_flags(command: Any, group: str, kind: type) -> None:
    """A flag for every field of a settings group, its help from the words table."""
    for field in fields(kind):
        options: dict = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": field.type}
        info = translate("en", f"{group}.{field.name}.info").replace("%", "%%")
        command.add_argument(_flag(group, field.name), dest=f"{group}__{field.name}", help=info, **options)


if __name__ == "__main__":
    sys.exit(main())
