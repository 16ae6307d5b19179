"""Parse a command and its flags, also under names of earlier versions, and suggest the nearest for unknown ones."""

import argparse
import math
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from playground import catalog, settings
from playground.cli import commands, queue_commands, run_commands
from playground.cli.flags import add_flags, add_settings_flags
from playground.cli.list_runs import add_runs_flags, runs
from playground.cli.output import print_result
from playground.export.order import CONTENTS, GGUF_BITS, KINDS
from playground.i18n import LANGUAGES
from playground.lab.formats import DEFAULT
from playground.runs import race
from playground.settings.aliases import OLD_FIELDS
from playground.settings.flags import flag_name

COMMANDS: dict[str, Callable[[argparse.Namespace], dict]] = {
    command.__name__: command
    for command in (
        commands.tune,
        commands.plan,
        commands.lab,
        commands.race,
        queue_commands.sweep,
        queue_commands.queue,
        commands.rows,
        commands.compare,
        runs,
        run_commands.record,
        run_commands.replay,
        run_commands.export,
        run_commands.script,
        run_commands.card,
        run_commands.trackio,
        commands.fetch,
        commands.models,
    )
}
OWN_FLAGS = {"rows": ("--first",)}  # of a command, which other commands had under an earlier name
DESCRIPTION = "The same jobs without a page."


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
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
            names |= {flag_name(group, old): flag_name(group, new)}
            names |= {f"--no-{old.replace('_', '-')}": f"--no-{new.replace('_', '-')}"}
    names = {old: new for old, new in names.items() if old not in OWN_FLAGS.get(arguments[0] if arguments else "", ())}
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
        print_result({"error": message})
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
    parser = _Parser(prog="python -m playground", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in COMMANDS.items():
        text, positional = str(run.__doc__), POSITIONALS.get(name)
        usage = f"%(prog)s {positional}[flags]  (--help lists them)" if positional is not None else None
        command = commands.add_parser(
            name, usage=usage, parents=[common], help=text.split("\n")[0], description=text, allow_abbrev=False
        )
        command.set_defaults(run_command=run, parser=command)
        FLAGS[name](command)
    return parser


def _add_tune_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--settings", metavar="FILE", help="a run's settings.json, or a part of one")
    command.add_argument(
        "--resume", metavar="RUN", help="continue a stopped or interrupted run from its last checkpoint"
    )
    command.add_argument(
        "--preset", choices=list(catalog.presets()), help="named settings (demo-en, without --settings)"
    )
    _add_snapshot_flag(command, "write the last CUDA allocations for PyTorch's memory viewer")
    add_settings_flags(command)


def _add_plan_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("model_id", metavar="MODEL", help="a catalog id, a hub id, a folder or a config.json")
    command.add_argument("--context", type=int, default=1024, metavar="N", help="tokens of a chat")
    command.add_argument(
        "--gpu-gib", type=_gib, default=0, metavar="GIB", help="memory of the GPU that `auto` plans for (0: no limit)"
    )
    _add_snapshot_flag(command, "write the predicted step's allocations for PyTorch's memory viewer")
    command.add_argument("--json", action="store_true", help="has no effect: the last line is always one JSON object")
    add_settings_flags(command)


def _add_snapshot_flag(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--snapshot", type=Path, metavar="FILE", help=text)


def _add_lab_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("model_id", metavar="MODEL", help="a catalog id, a hub id or a folder")
    command.add_argument("--formats", metavar="FORMATS", help=f"number formats ({','.join(DEFAULT)})")
    command.add_argument("--text", type=Path, metavar="FILE", help="what loss is measured on (bundled prose)")
    command.add_argument("--prompt", default="", metavar="TEXT", help="what is asked at each width (bundled)")
    command.add_argument(
        "--answer-tokens", type=int, default=40, metavar="N", help="at most of an answer (40); 0: none"
    )
    add_flags(command.add_argument_group("load"), "load", settings.Load, without=("model",))


def _add_race_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--settings", metavar="FILE", help="a run's settings.json, or a part of one")
    command.add_argument("--preset", choices=list(catalog.presets()), help="named settings (demo-en)")
    command.add_argument(
        "--widths", nargs="+", choices=race.KINDS, default=list(race.PLAIN), help="bit widths, or kinds such as 8-fp8"
    )
    add_settings_flags(command)


def _add_sweep_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sweep",
        action="append",
        required=True,
        metavar="SETTING=VALUES",
        help="lr=1e-4,1e-3 or r=1..5 or lr=1e-4..1e-2 in 5 log steps; given once or twice",
    )
    command.add_argument("--settings", metavar="FILE", help="a run's settings.json, or a part of one")
    command.add_argument("--preset", choices=list(catalog.presets()), help="named settings (demo-en)")
    command.add_argument("--prompt", default="", metavar="TEXT", help="a question that each fine-tuned model is asked")
    add_settings_flags(command)


def _add_queue_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", nargs="?", choices=queue_commands.ACTIONS, default="list", help="what to do (list)")
    command.add_argument("id", nargs="?", default="", metavar="ID", help="of the job to remove")


def _add_rows_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help="a file, a catalog id or a hub id")
    command.add_argument("--first", type=int, default=5, metavar="N", help="rows in the sample (5)")
    command.add_argument("--model", metavar="TEXT", help="the model whose tokenizer and chat template are used")
    add_flags(command.add_argument_group("data"), "data", settings.Data, without=("source",))


def _add_compare_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "adapters",
        nargs="+",
        metavar="ADAPTER",
        help="id of a run, or folder or hub id of a LoRA adapter; or ids of two to four runs",
    )
    command.add_argument("--prompt", required=True, help="the question to both models")
    others = {field.name for field in fields(settings.Data)} - {"prompt_format", "custom_format"}
    add_flags(command.add_argument_group("load (of an adapter that isn't a run's)"), "load", settings.Load)
    add_flags(command.add_argument_group("prompt (of an adapter that isn't a run's)"), "data", settings.Data, others)
    add_flags(command.add_argument_group("generation"), "generation", settings.Generation)


def _add_record_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="id of the run")
    command.add_argument("file", type=Path, metavar="FILE", help="where the recording is written")


def _add_replay_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="a recording")


def _add_export_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="id of the run")
    command.add_argument("--to", choices=KINDS, required=True, help="what is written")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder to write into (the run's own, under export)")
    command.add_argument("--name", default="", metavar="NAME", help="of the file or folder (the usual one)")
    command.add_argument("--type", choices=list(GGUF_BITS), default="q8_0", help="of a GGUF file's weights (q8_0)")
    command.add_argument("--force", action="store_true", help="replace what has this name")
    command.add_argument("--repo", default="", metavar="OWNER/NAME", help="of the hub, for --to hub")
    command.add_argument("--content", choices=CONTENTS, default="adapter", help="of the repo (adapter)")
    command.add_argument("--public", action="store_true", help="a new repo is public")


def _add_script_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="id of the run")
    command.add_argument("--out", type=Path, default=Path("repeat"), metavar="DIR", help="folder of the files (repeat)")


def _add_card_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="id of the run")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a file that ends in .html or .png")
    command.add_argument("--question", type=int, default=0, metavar="N", help="number of the question (the best one)")


def _add_trackio_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help="id of the run")
    command.add_argument("--project", default="", metavar="NAME", help="of Trackio (fine-tuning-playground)")


def _add_fetch_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a catalog id or a hub id")
    command.add_argument("--accept-terms", action="store_true", help="the model's terms were read and are accepted")


# What stands before the flags in the usage of the commands with many.
POSITIONALS = {
    **dict.fromkeys(("tune", "race"), ""),
    "sweep": "--sweep SETTING=VALUES [--sweep SETTING=VALUES] ",
    **dict.fromkeys(("plan", "lab"), "MODEL "),
    "rows": "FILE ",
    "compare": "ADAPTER [RUN RUN RUN] --prompt PROMPT ",
    "export": "RUN --to KIND ",
}
FLAGS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "tune": _add_tune_flags,
    "sweep": _add_sweep_flags,
    "queue": _add_queue_flags,
    "plan": _add_plan_flags,
    "lab": _add_lab_flags,
    "race": _add_race_flags,
    "rows": _add_rows_flags,
    "compare": _add_compare_flags,
    "runs": add_runs_flags,
    "record": _add_record_flags,
    "replay": _add_replay_flags,
    "export": _add_export_flags,
    "script": _add_script_flags,
    "card": _add_card_flags,
    "trackio": _add_trackio_flags,
    "fetch": _add_fetch_flags,
    "models": lambda command: None,
}
