"""Import a run that has ended into Trackio, an experiment tracker on this machine. Nothing is sent over a network.

Metrics have the names that transformers' Trainer gives them, so that runs of both lie in one chart.
"""

import contextlib
import re
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from playground import compat_trackio, runs
from playground.errors import problem
from playground.runs.private_text import last_part
from playground.runs.summary import LATEST, RunSummary, dict_of, number
from playground.runs.thinning import thin_memory

PROJECT = "fine-tuning-playground"
PROJECT_NAME = re.compile(r"[\w-]{1,50}")  # Trackio drops any other character, and makes a file's name of it
MAX_RUN_NAME = 100
MAX_SAMPLES = 600  # of memory, which is recorded ten times a second
GIB = 2**30
STEP_METRICS = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "tokens_per_s": "train/tokens_per_second",
    "tokens": "train/num_tokens",
}
TOTALS = ("rss", "allocated", "reserved", "device_used")


@dataclass(frozen=True)
class Metrics:
    """What Trackio gets of a run. rows: by steps; samples: of memory, by time; times: Unix seconds."""

    name: str
    config: dict[str, Any]
    rows: list[tuple[int, float, dict[str, float]]]
    samples: list[tuple[float, dict[str, float]]]

    def count(self, prefix: str) -> int:
        """How many rows have a metric whose name begins so."""
        return sum(any(metric.startswith(prefix) for metric in values) for _, _, values in self.rows)


def import_run(root: Path, run_id: str | None, project: str = "") -> dict[str, Any]:
    """Import a run; an earlier import of it is replaced. project: Trackio's; "" is PROJECT.

    Returns run, project, name, folder (Trackio's), steps, evaluations, memory_samples, replaced. Raises
    PlaygroundError where Trackio isn't installed, for a project that it can't have, for a run that is still going or
    has no training steps, and where another run has its id there.
    """
    project = project.strip() or PROJECT
    if not compat_trackio.is_installed():
        raise problem("trackio.error.missing")
    if not PROJECT_NAME.fullmatch(project):
        raise problem("trackio.error.project", project=project[:80], most=50)
    run, summary = runs.find(root, run_id), runs.summary(root, run_id)
    if summary.state == "open" and runs.is_written_to(run):
        raise problem("trackio.error.open", run=run.id)
    metrics = metrics_of(list(run.events()), summary)
    if not metrics.count("train/"):
        raise problem("trackio.error.no_steps", run=run.id)
    replaced = _write(project, run.id, metrics)
    return {
        "run": run.id,
        "project": project,
        "name": metrics.name,
        "folder": compat_trackio.folder(),
        "steps": metrics.count("train/"),
        "evaluations": metrics.count("eval/loss"),
        "memory_samples": len(metrics.samples),
        "replaced": replaced,
    }


def metrics_of(events: Sequence[dict], summary: RunSummary) -> Metrics:
    """What Trackio gets of these events. A step that was made again after a resume counts as it was made last."""
    steps: dict[int, tuple[float, dict]] = {}
    evaluations: dict[tuple[int, str], tuple[float, dict]] = {}
    last = 0
    for event in events:
        time = _time(summary.began, event)
        if event["kind"] == "step" and (step := _step(event)) is not None:
            steps[step], last = (time, _numbers((name, event.get(key)) for key, name in STEP_METRICS.items())), step
        elif event["kind"] == "eval":
            for step, values in _evaluation(event, last):
                evaluations[step, "/".join(values)] = time, values
    rows = [(step, time, values) for step, (time, values) in steps.items()]
    rows += [(step, time, values) for (step, _), (time, values) in evaluations.items()]
    memory = [event for event in events if event["kind"] == "memory"]
    samples = [(_time(summary.began, event), _memory(event)) for event in thin_memory(memory, MAX_SAMPLES)]
    return Metrics(
        name=summary.label.name[:MAX_RUN_NAME] or summary.id,
        config=_config(events, summary),
        rows=sorted((row for row in rows if row[2]), key=lambda row: row[0]),
        samples=[sample for sample in samples if sample[1]],
    )


def _write(project: str, run_id: str, metrics: Metrics) -> bool:
    """Write into Trackio's database; returns whether an earlier import was replaced.

    What Trackio prints goes to standard error: a command's standard output is its result.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            earlier = compat_trackio.run_config(project, run_id)
            if earlier is not None and earlier.get("began") != metrics.config["began"]:
                raise problem("trackio.error.taken", run=run_id, project=project)
            rows = [(step, _iso(time), values) for step, time, values in metrics.rows]
            samples = [(_iso(time), values) for time, values in metrics.samples]
            compat_trackio.replace_run(project, run_id, metrics.name, metrics.config, rows, samples)
        except ValueError as error:
            raise problem("trackio.error.project_reserved", project=project, detail=str(error)[:300]) from error
        except (OSError, sqlite3.Error) as error:
            folder = Path(compat_trackio.folder()).name
            raise problem("trackio.error.write", folder=folder, detail=str(error)[:300]) from error
    return earlier is not None


def _evaluation(event: Mapping, last: int) -> list[tuple[int, dict[str, float]]]:
    """An evaluation's metrics by the steps that they belong to: the base model's are those of step 0."""
    when = event.get("when")
    if when == "before":
        return [(0, _numbers([("eval/loss", event.get("loss"))]))]
    if when == "during":
        step = _step(event)
        return [(last if step is None else step, _numbers([("eval/loss", event.get("loss"))]))]
    if when == "after":
        return [(last, _numbers([("eval/loss", event.get("loss"))]))]
    if when == "measures":
        figures = {name: values for name, values in dict_of(event, "figures").items() if isinstance(values, dict)}
        figures.pop("loss", None)  # the events above have it
        sides = ((0, "base"), (last, "tuned"))
        return [(at, _numbers((f"eval/{name}", v.get(side)) for name, v in figures.items())) for at, side in sides]
    return []


def _memory(event: Mapping) -> dict[str, float]:
    """A memory event in GiB: the totals, and the parts where they are exact."""
    totals = [(f"memory/{name}_gib", event.get(name)) for name in TOTALS]
    parts = [(f"memory/parts/{name}_gib", size) for name, size in dict_of(event, "parts").items()]
    return {name: size / GIB for name, size in _numbers([*totals, *parts]).items()}


def _config(events: Sequence[Mapping], summary: RunSummary) -> dict[str, Any]:
    """The settings, the hardware and the versions, flat; a path of this machine is its last part alone."""
    first = next(iter(events), {})
    predicted, measured = summary.peak
    groups = {**summary.settings, "hardware": dict_of(first, "hardware"), "versions": dict_of(first, "versions")}
    flat = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    flat |= {"job": summary.job, "state": summary.state, "began": _iso(summary.began), "seconds": summary.seconds}
    flat |= {"memory.predicted_gib": predicted and predicted / GIB, "memory.measured_gib": measured and measured / GIB}
    plain = {name: value for name, value in flat.items() if isinstance(value, (str, int, float))}
    return {name: last_part(value) if isinstance(value, str) else value for name, value in plain.items()}


def _numbers(values: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Those that are finite numbers."""
    return {name: found for name, value in values if (found := number(value)) is not None}


def _step(event: Mapping) -> int | None:
    found = number(event.get("step"))
    return None if found is None else int(found)


def _time(began: float, event: Mapping) -> float:
    return min(max(began + (number(event["t"]) or 0.0), 0.0), LATEST)


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, timezone.utc).isoformat()
