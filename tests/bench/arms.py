"""What the benchmarks share: run arms in separate processes, take medians, write reports and tables.

An arm is one configuration that is measured. Nothing large is imported: a process that only starts others must not
compete with them.
"""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Generator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # playground, and tests/toys.py

MAX_ARM_SECONDS = 3600


def attempt(arm: Callable[[], dict]) -> dict:
    """An arm's measurements, or {"failed": the error's text}."""
    try:
        return arm()
    except Exception as error:
        return {"failed": str(error)[-2000:] or repr(error)}


def last_line(command: list[str], env: dict[str, str] | None = None) -> dict:
    """Run a process and parse the last line of its output as JSON. Raises RuntimeError with its output if it fails."""
    process = subprocess.run(
        command, check=False, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=MAX_ARM_SECONDS
    )
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {process.stdout[-500:]} {process.stderr[-1500:]}")
    return json.loads(process.stdout.splitlines()[-1])


def return_value(generator: Generator[Any, Any, Any]) -> Any:
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def gib(size: int) -> float:
    """Bytes in GiB, rounded to thousandths."""
    return round(size / 2**30, 3)


def medians(rounds: list[dict]) -> dict:
    """Medians over the rounds of an arm that worked, and how many worked and failed; texts are joined."""
    worked = [r for r in rounds if "failed" not in r]
    result: dict[str, Any] = {"worked": len(worked), "failed": len(rounds) - len(worked)}
    for name in dict.fromkeys(key for r in worked for key in r if key not in ("round", "arm")):
        values = [r[name] for r in worked if r.get(name) is not None]
        if any(isinstance(value, str) for value in values):
            result[name] = "/".join(sorted(set(values)))
        else:
            result[name] = round(statistics.median(values), 4) if values else None
    return result


def ratios(ours: dict, peers: dict, names: tuple[str, ...]) -> dict[str, float]:
    """Our medians divided by the peer's, for those names that both have."""
    return {n: round(ours[n] / peers[n], 3) for n in names if ours.get(n) is not None and peers.get(n)}


def report(what: str, libraries: tuple[str, ...], rounds: list[dict], **more: Any) -> dict:
    """The content of a result file: date, versions, the medians of each arm, and every round."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    arms = dict.fromkeys(r["arm"] for r in rounds)
    return {
        "what": what,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        **more,
        "medians": {arm: medians([r for r in rounds if r["arm"] == arm]) for arm in arms},
        "rounds": rounds,
    }


def write(path: Path, result: dict) -> None:
    """Write a result file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(medians_by_arm: dict[str, dict], columns: dict[str, str]) -> str:
    """Medians as a Markdown table; columns: {measurement: its format}."""
    lines = ["| arm | worked | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for arm, row in medians_by_arm.items():
        cells = [form.format(row[name]) if row.get(name) is not None else "-" for name, form in columns.items()]
        lines.append(f"| {arm} | {row['worked']} of {row['worked'] + row['failed']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(rounds: list[dict]) -> str:
    """The errors of failed rounds as text."""
    return "".join(f"\nFAILED {r['arm']}, round {r['round']}: {r['failed'].strip()}\n" for r in rounds if "failed" in r)
