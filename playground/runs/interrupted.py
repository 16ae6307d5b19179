"""Runs that were interrupted: their worker's death recorded, the newest offered again, their spare folders put back."""

from pathlib import Path

from playground.errors import PlaygroundError
from playground.runs.listing import measured_here
from playground.runs.lock import is_held, locked
from playground.runs.spare import put_back, spares
from playground.runs.store import VISITORS, Run, find
from playground.runs.summary import RunSummary

DIED = ("error.engine_killed", "error.engine_signal", "error.engine_died", "error.engine_closed", "error.rank_died")


def interrupted(root: Path) -> RunSummary | None:
    """The newest fine-tune, if it was interrupted and can go on: by a signal, a crash or the program's end.

    One that a person stopped, that failed by itself, or that a program is working on, isn't.
    """
    newest = next((run for run in measured_here(root) if run.job == "tune"), None)
    if newest is None or not newest.is_resumable:
        return None
    died = any(problem.get("key") in DIED for problem in newest.problems)
    was_cut = newest.state == "open" or bool(newest.result.get("ended_by")) or (newest.state == "failed" and died)
    return newest if was_cut and not is_held(Run(root / newest.id)) else None


def record_death(root: Path, run_id: str, job: str, error: PlaygroundError) -> None:
    """Write the death of the process that worked on a run into it, which that process can't do, unless it had ended.

    job: what the process did. Where the folder is gone, or another program writes to the run, nothing is written.
    """
    try:
        run = find(root, run_id)
        *_, last = run.events(at_a_glance=True)
        if last["kind"] in ("done", "error"):
            return
        with locked(run):
            run.append("phase", name="idle")
            run.append("error", job=job, **error.to_dict())
    except (OSError, ValueError, PlaygroundError):
        pass  # the page still shows the error


def put_back_spares(root: Path) -> list[str]:
    """Put back what runs in `root` wrote to spare folders; the ids of those for which it worked."""
    done = []
    for run_id, spare in spares(root):
        try:
            with locked(Run(root / run_id)):
                if put_back(root, run_id, spare):
                    done.append(run_id)
        except PlaygroundError:  # still at work
            continue
    return done


def put_back_all_spares(root: Path) -> list[str]:
    """The same for the runs in `root` and those of every visitor of a shared page over it."""
    visitors = sorted(folder for folder in (root / VISITORS).glob("[!.]*") if folder.is_dir())
    return [run_id for folder in (root, *visitors) for run_id in put_back_spares(folder)]
