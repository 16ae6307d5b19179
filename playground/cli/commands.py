"""The commands on models and data, each from parsed flags to its result; their first lines are their help."""

import argparse
import sys
from pathlib import Path

from playground import catalog, compat, runs, settings
from playground.cli.flags import GROUPS, flag_values, flags_by_group, settings_of
from playground.cli.output import follow, print_event
from playground.cli.workbench import open_workbench
from playground.ending import ENDING
from playground.errors import PlaygroundError, problem
from playground.i18n import translate
from playground.lab.question import parse_question
from playground.settings.flags import flag_name


def tune(options: argparse.Namespace) -> dict:
    """Fine-tune as the flags and the settings file say; with neither, the default demo.

    Under `accelerate launch`: on several devices.
    """
    workbench = open_workbench(options.runs)
    from playground.memory.cuda_snapshot import cuda_snapshot

    is_new = options.resume is None  # an empty id is none: a variable of a shell script that wasn't set
    events = workbench.tune(settings_of(options)) if is_new else workbench.resume(options.resume)
    with cuda_snapshot(options.snapshot):
        return follow(events, options.lang)


def compare(options: argparse.Namespace) -> dict:
    """Answer a prompt with a base model and with its fine-tune, or with those of several runs.

    ADAPTER is the id of a run, or the folder or hub id of a LoRA adapter that any program wrote. Of such an adapter the
    base is --model, else the model that it names; it is loaded only if the adapter's layers and ranks fit it. Given two
    to four runs of one base model, all their adapters answer at once, over one copy of its weights.
    """
    if len(options.adapters) > 1:
        return _compare_runs(options)
    adapter, chosen = _adapter_and_base(options)
    generation = settings.parse_generation(flag_values(options, "generation", settings.Generation))
    turn = [{"instruction": options.prompt, "answer": None}]
    answer: dict = {}

    def keep(event: dict) -> None:
        if event["kind"] == "answer":
            answer.update(event)

    events = open_workbench(options.runs).chat(chosen, adapter, {"base": turn, "tuned": turn}, generation)
    result = follow(events, options.lang, keep)
    return {"prompt": options.prompt, "base": answer.get("base", ""), "tuned": answer.get("tuned", ""), **result}


def _compare_runs(options: argparse.Namespace) -> dict:
    """The same prompt to the base and to each run's adapter; the result has its answer by run under "adapters"."""
    _raise_for_flags(", ".join(options.adapters), _given_flags(options))
    generation = settings.parse_generation(flag_values(options, "generation", settings.Generation))
    answers: dict = {"base": "", "adapters": dict.fromkeys(options.adapters, "")}

    def keep(event: dict) -> None:
        if event["kind"] == "answer":
            answers.update({side: event[side] for side in answers})

    events = open_workbench(options.runs).chat_with_adapters(options.adapters, options.prompt, generation)
    result = follow(events, options.lang, keep)
    return {"prompt": options.prompt, **answers, **result}


def _given_flags(options: argparse.Namespace) -> dict[str, dict]:
    """The flags for an adapter from elsewhere that were given, by group."""
    return {group: flag_values(options, group, kind) for group, kind in GROUPS.items() if group in ("load", "data")}


def _raise_for_flags(run: str, given: dict[str, dict]) -> None:
    """Raise PlaygroundError for flags of a run, which has its own settings."""
    flags = [flag_name(group, name) for group, values in given.items() for name in values]
    if flags:
        raise problem("error.compare_flags", run=run, flags=flags)


def _adapter_and_base(options: argparse.Namespace) -> tuple[str, settings.Settings]:
    """What answers on the tuned side, as Workbench.chat takes it, and the settings that the base is loaded with.

    Raises PlaygroundError: no such run or adapter, one without a base, or flags for a run, which has its own settings.
    """
    [adapter], given = options.adapters, _given_flags(options)
    is_run = (options.runs / adapter / "events.jsonl").is_file() if "/" not in adapter else False
    if not is_run and ("/" in adapter or Path(adapter).is_dir()):
        return _foreign_adapter_and_base(adapter, given)
    run = runs.find(options.runs, adapter)
    if not run.adapter.is_dir() and not run.model.is_dir():
        raise problem("error.no_adapter", run=run.id)
    _raise_for_flags(run.id, given)
    return run.id, run.settings()


def _foreign_adapter_and_base(adapter: str, given: dict[str, dict]) -> tuple[str, settings.Settings]:
    """The same for an adapter from elsewhere."""
    from threading import Event

    compat.import_libraries(catalog.cache_folder())
    from playground.model.adapter_file import read_adapter
    from playground.model.adapter_folder import base_model
    from playground.model.adapter_source import fetch_adapter, is_path

    if is_path(adapter) and Path(adapter).expanduser().is_dir():
        adapter = str(Path(adapter).expanduser().resolve())
    steps = fetch_adapter(adapter, Event())
    while True:
        try:
            next(steps)
        except StopIteration as end:
            folder = read_adapter(end.value).folder
            break
    model = given["load"].get("model")
    if not model:
        try:
            model = base_model(folder)
        except PlaygroundError as error:
            base = error.problems[0].values.get("base", "–")
            raise problem("error.compare_base", path=folder.name, base=base) from error
    return adapter, settings.parse({**given, "load": {**given["load"], "model": model}})


def lab(options: argparse.Namespace) -> dict:
    """Measure a model's loss, answer and size in one number format of its weights after another.

    FORMATS are separated by commas: bf16; int, float, quantile and hqq with 2 to 8 bits, ternary, nf4 and fp4, each
    with a block size if wanted (int3:128); fp8, nvfp4, mxfp4; gguf-q8_0 to gguf-q2_k; bitsandbytes-int8, -nf4 and -fp4.
    Formats that an earlier run has measured aren't measured again.
    """
    values: dict = {"language": options.lang, "answer_tokens": options.answer_tokens, "prompt": options.prompt}
    values |= {"formats": options.formats} if options.formats else {}
    values |= {"text": read_text_file(options.text)} if options.text else {}
    question = parse_question(values)
    model = {"load": {**flag_values(options, "load", settings.Load), "model": options.model_id}}
    return follow(open_workbench(options.runs).lab(settings.parse(model), question), options.lang)


def race(options: argparse.Namespace) -> dict:
    """Fine-tune at several bit widths of the frozen weights, with the same rows, seed and prompts, one after another.

    With neither --preset nor --settings: the default demo. 8 and 4 take the type that the settings name; 8-int8, 8-fp8,
    4-nf4 and 4-fp4 name it. What fails, or can't be run on this machine, is reported under "failed".
    """
    from dataclasses import asdict

    from playground.runs.race import is_exact, lanes, of_kind

    chosen, workbench = settings_of(options), open_workbench(options.runs)
    failed: dict[str, str] = {}
    raced: dict[str, str] = {}  # the run of each kind: earlier fine-tunes with these settings aren't of this race
    for kind in dict.fromkeys(options.widths):
        try:
            parsed = settings.parse(of_kind(chosen, kind).to_dict())
            raced[kind] = follow(workbench.tune(parsed, is_exact(kind)), options.lang).get("run", "")
        except PlaygroundError as error:
            failed[kind] = error.text(options.lang)
            print(failed[kind], file=sys.stderr)
        if ENDING.cause:
            break
    found = [lane for lane in lanes(options.runs, chosen, list(raced)).values() if lane.run in raced.values()]
    ending = {} if raced else {"error": translate(options.lang, "cli.race_failed")}
    return {"lanes": [asdict(lane) for lane in found], "failed": failed, **ending}


def plan(options: argparse.Namespace) -> dict:
    """Predict what loading, chatting and fine-tuning take, from a model's config alone.

    MODEL is a catalog id, a hub id, a folder or a config.json.
    """
    compat.import_libraries(catalog.cache_folder())
    from playground.planning import forecast

    values = flags_by_group(options)
    values["load"]["model"] = options.model_id
    chosen, capacity = settings.parse(values), round(options.gpu_gib * 2**30)
    result = forecast.forecast(chosen, options.context, capacity)
    if options.snapshot:
        from playground.planning.picture import write_tune_snapshot

        write_tune_snapshot(chosen, options.snapshot, capacity)
    totals = ("allocated", "reserved", "device_used")
    predictions, fits = result["phases"], forecast.card_verdicts(chosen, options.context)
    return {
        **result,
        **{phase: {total: prediction[total] for total in totals} for phase, prediction in predictions.items()},
        "verdicts": {phase: {card["gib"]: card[phase] for card in fits} for phase in predictions},
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


def read_text_file(path: Path) -> str:
    """A file's text. Raises PlaygroundError where it can't be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise problem("error.lab_file", path=path.name, detail=str(error)[:200]) from error


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
