"""The commands on the queue of jobs, each from parsed flags to its result; their first lines are their help."""

import argparse
import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import asdict

from playground.cli.flags import settings_of
from playground.cli.output import print_event
from playground.ending import ENDING, PARENT
from playground.engine.client import END_SECONDS, Engine
from playground.errors import PlaygroundError, problem
from playground.i18n import translate
from playground.job import Job
from playground.jobs import owner, runner, store
from playground.jobs.store import QueuedJob
from playground.jobs.sweep import parse_sweep, value_text
from playground.jobs.sweep_jobs import Follower, best, put_sweep, rows

ACTIONS = ("list", "run", "stop", "remove", "clear")


def sweep(options: argparse.Namespace) -> dict:
    """Fine-tune once for each combination of values of one or two settings, one after another.

    SETTING is a setting's flag without its dashes, or group.name. VALUES are separated by commas (by semicolons where
    one has a comma in it), or a range: 1..5; 0..1 in 5 steps; 1e-4..1e-2 in 5 log steps. The same command again skips
    what is done, and continues what was stopped from its checkpoint. Ctrl-C stops the run under way and leaves the
    others waiting. With neither --preset nor --settings: the default demo.
    """
    _raise_if_busy(options)
    wanted = parse_sweep(options.sweep, settings_of(options))
    followers = [Follower("compare", {"question": options.prompt})] if options.prompt.strip() else []
    kept = put_sweep(options.runs, wanted, followers)
    _work(options, wanted.group)
    found = rows(options.runs, store.listing(options.runs), wanted.group)
    lowest = best(found)
    shown = [asdict(row) | {"error": _error_text(row.error, options.lang)} for row in found]
    return {
        "sweep": wanted.group,
        "rows": shown,
        "best": next((row for row in shown if lowest and row["job"] == lowest.job), None),
        "skipped": kept,
        "waiting": len([row for row in found if row.state == "waiting"]),
    }


def queue(options: argparse.Namespace) -> dict:
    """List, run, stop or clear the jobs that wait; remove one by its id.

    run: one after another, until none is left. stop: the job that runs, in whatever program; the others stay. clear:
    remove what has ended.
    """
    root = options.runs
    if options.action == "remove":
        if not options.id:
            raise problem("error.queue_no_id")
        store.remove(root, options.id)
    elif options.action == "clear":
        store.clear(root)
    elif options.action == "stop":
        _stop(options)
    elif options.action == "run":
        _raise_if_busy(options)
        _work(options)
    owner.mark_interrupted(root)
    now = store.listing(root)
    jobs = [_described(job, options.lang) for job in now.jobs]
    return {"jobs": jobs, "damaged": list(now.damaged), "program": owner.other_program(root)}


def _raise_if_busy(options: argparse.Namespace) -> None:
    """Raise PlaygroundError where another program works off the queue."""
    if other := owner.other_program(options.runs):
        raise problem("error.queue_other", pid=other["pid"], host=other["host"])


def _stop(options: argparse.Namespace) -> None:
    owner.mark_interrupted(options.runs)
    running = store.listing(options.runs).in_state("running")
    if not running:
        raise problem("error.queue_nothing")
    for job in running:
        runner.stop(options.runs, job.id, "all")


def _work(options: argparse.Namespace, group: str = "") -> None:
    """Work off what waits, in a worker process as the page does: one that runs out of memory takes nothing along."""
    engine = Engine(options.runs)
    printed: list[threading.Thread] = []

    def on_start(queued: QueuedJob, job: Job) -> None:
        for name, value in queued.combination.items():
            print(f"{name} = {value_text(value)}", file=sys.stderr)
        printed.append(threading.Thread(target=_print_events, args=(job, options.lang), daemon=True))
        printed[-1].start()

    worker = runner.Runner(options.runs, engine, on_start=on_start, group=group)
    if runner.next_job(store.listing(options.runs), group) is None:
        return  # nothing to start a process for
    engine.start()
    try:
        with _ended_in_order(worker, engine):
            worker.work()
    finally:
        engine.close(ENDING.cause or PARENT)
    for thread in printed:
        thread.join(5)


def _ended_in_order(worker: runner.Runner, engine: Engine) -> AbstractContextManager:
    """Within it, a signal stops the job under way, which keeps its results; a second one ends the program."""

    def stop(cause: str) -> None:
        worker.pause()
        engine.ask_to_end(cause)

    return ENDING.work(stop, grace=END_SECONDS, abort=engine.kill)


def _print_events(job: Job, lang: str) -> None:
    try:
        for event in job.events():
            print_event(event, lang)
    except PlaygroundError as error:
        print(error.text(lang), file=sys.stderr)


def _described(job: QueuedJob, lang: str) -> dict:
    """What `queue` lists of a job: all but its settings, which its run has; the error as text."""
    left_out = ("settings", "order", "added", "began", "ended", "stop", "resume")
    values = {name: value for name, value in asdict(job).items() if name not in left_out}
    return values | {"label": translate(lang, f"queue.state.{job.state}"), "error": _error_text(job.error, lang)}


def _error_text(error: dict, lang: str) -> str:
    """The text of a stored error; one of another version of the program stands for itself."""
    try:
        return PlaygroundError.from_dict(error).text(lang) if error else ""
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return str(error)[:200]
