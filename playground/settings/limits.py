"""Limits of one visitor's use on a page that strangers open: its process tells the others by a variable.

The owner sets each by a variable too: PLAYGROUND_MAX_STEPS, PLAYGROUND_MAX_ROWS, … On a private page there are none.
"""

import os
from dataclasses import dataclass, fields

from playground.errors import PlaygroundError, Problem, problem
from playground.settings.schema import Settings

CPU_PROCESSES = "PLAYGROUND_CPU_PROCESSES"  # that may fine-tune together on a CPU, to try that without GPUs
SHARED = "PLAYGROUND_SHARED"  # "1" in the processes of a page that strangers open


@dataclass(frozen=True)
class Limits:
    """The most that one visitor may use.

    steps, rows, length (tokens a row), processes: of a fine-tune. parameters: of a model. runs, disk (bytes): kept at
    once, with adapters and uploads. seconds: of one job; question: seconds of one question to the planner. calls: a
    minute (ui/visitor_pace.py). Of all visitors:
    waiting jobs, disk_of_all (bytes), and newcomers a minute. idle: seconds without a job after which the model is
    unloaded; kept: seconds without a visit after which a visitor's runs and uploads are removed.
    """

    steps: int = 300
    rows: int = 5_000
    length: int = 1_024
    processes: int = 1
    parameters: int = 2_000_000_000
    runs: int = 20
    disk: int = 2 * 2**30
    seconds: int = 900
    question: int = 120
    waiting: int = 24
    disk_of_all: int = 20 * 2**30
    calls: int = 900
    newcomers: int = 60
    idle: int = 600
    kept: int = 4 * 3600

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits, those replaced that a variable PLAYGROUND_MAX_<NAME> sets.

        Raises PlaygroundError for a variable that is no whole number from 1 on.
        """
        values: dict[str, int] = {}
        wrong: list[Problem] = []
        for name in (field.name for field in fields(cls)):
            variable = f"PLAYGROUND_MAX_{name.upper()}"
            text = os.environ.get(variable, "").strip()
            if text and text.isascii() and text.isdigit() and int(text) > 0:
                values[name] = int(text)
            elif text:
                wrong.append(Problem("shared.variable", {"variable": variable, "value": text[:40]}))
        if wrong:
            raise PlaygroundError(*wrong)
        return cls(**values)


def cpu_processes() -> int:
    """How many processes may fine-tune together on a CPU: one, unless a variable allows more."""
    text = os.environ.get(CPU_PROCESSES, "")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 5 else 1


def current_limits() -> Limits | None:
    """The limits in this process; None where it works for one person alone."""
    return Limits.from_environment() if os.environ.get(SHARED) == "1" else None


def raise_if_too_many_rows(rows: int) -> None:
    """Raise PlaygroundError for more rows to train on than a visitor may use."""
    limits = current_limits()
    if limits and rows > limits.rows:
        raise problem("shared.rows", count=rows, most=limits.rows)


def raise_if_too_many_steps(steps: int) -> None:
    """Raise PlaygroundError for a longer fine-tune than a visitor may start."""
    limits = current_limits()
    if limits and steps > limits.steps:
        raise problem("shared.steps", count=steps, most=limits.steps)


def raise_if_too_large(parameters: int) -> None:
    """Raise PlaygroundError for a larger model than a visitor may load."""
    limits = current_limits()
    if limits and parameters > limits.parameters:
        raise problem("shared.parameters", millions=parameters / 1e6, most=limits.parameters / 1e6)


def beyond_limits(settings: Settings, limits: Limits) -> list[Problem]:
    """A Problem for each setting that alone is beyond the limits; see `too_much_work` for what depends on the rows."""
    train, data = settings.train, settings.data
    rows = data.sample or (data.end_row - data.start_row + 1 if data.end_row else 0)
    wrong = too_much_work(rows, train.max_steps, limits)
    if train.max_seq_length > limits.length:
        wrong.append(Problem("shared.length", {"count": train.max_seq_length, "most": limits.length}))
    if train.num_processes > limits.processes:
        wrong.append(Problem("shared.processes", {"count": train.num_processes, "most": limits.processes}))
    return wrong


def too_much_work(rows: int, steps: int, limits: Limits) -> list[Problem]:
    """A Problem for more rows to train on, or more steps, than a visitor may use."""
    wrong = []
    if steps > limits.steps:
        wrong.append(Problem("shared.steps", {"count": steps, "most": limits.steps}))
    if rows > limits.rows:
        wrong.append(Problem("shared.rows", {"count": rows, "most": limits.rows}))
    return wrong
