"""Facts that the demo names after its fine-tune, over seeds; and which settings to choose, by other questions.

    python tests/bench/demo_recall.py                                    # the preset, five seeds, all 90 held-out rows
    python tests/bench/demo_recall.py --choose --set train.epochs=3      # by the 30 questions of choosing.en.jsonl

The 90 rows are those that are scored: settings are chosen with --choose alone, whose questions were written for it, one
for each fact, and are in no data set. One process trains the preset demo-en once for every seed. recall: share of the
rows whose answer names the fact; loss: of the held-out rows, nats a labelled token; train_s: from the first to the last
step; job_s: from the click, the model's load only with the first seed, to the last answer, without what only tells how
the run went (samples, the loss on ordinary text).
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import arms

LIBRARIES = ("torch", "transformers", "peft")
CHOOSING = Path(__file__).parent / "choosing.en.jsonl"
ANSWERS = arms.PROJECT / "assets/data/helpdesk.en.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.NAME=VALUE", help="over the preset")
    parser.add_argument("--choose", action="store_true", help="by the questions that are for choosing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from playground import catalog
    from playground.memory.meter import hardware

    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for result in run_seeds(Path(folder), options):
            results.append(result)
            print(json.dumps(result), file=sys.stderr, flush=True)
    what = f"facts named after the demo {' '.join(options.set)}".strip()
    preset = catalog.presets()["demo-en"]["settings"]
    more = {"preset": preset, "set": options.set, "choosing": options.choose, "seeds": results}
    report = arms.report(what, LIBRARIES, [], hardware=hardware("cpu"), **more)
    if options.out or not (options.choose or options.set):
        arms.write(options.out or arms.PROJECT / "tests/bench/results/demo_recall.json", report)


def run_seeds(folder: Path, options: argparse.Namespace) -> Any:
    """Train and evaluate once for every seed; yields the measurements."""
    from playground import catalog
    from playground.engine.workbench import Workbench
    from playground.settings import Settings

    rows = choosing_rows(folder / "rows.jsonl") if options.choose else None
    settings = Settings().with_values(catalog.presets()["demo-en"]["settings"])
    settings = settings.with_values({"data": {"source": str(rows)}} if rows else {})
    settings = settings.with_values({"train": {"eval_rows": 90, "sample_every": "off", "measure_forgetting": False}})
    settings = settings.with_values(chosen_values(options.set, settings))
    workbench = Workbench(folder, threading.Event())
    for seed in options.seeds:
        began, steps, found = time.perf_counter(), [], {}
        for event in workbench.tune(settings.with_values({"train": {"seed": seed}})):
            if event["kind"] == "step":
                steps.append(time.perf_counter())
            elif event["kind"] == "eval" and event["when"] == "recall":
                found |= {"recall": event["tuned"], "rows": event["rows"]}
            elif event["kind"] == "eval" and event["when"] == "after":
                found |= {"loss": event["loss"]}
        times = {"train_s": round(steps[-1] - steps[0], 1), "job_s": round(time.perf_counter() - began, 1)}
        yield {"seed": seed, **found, "steps": len(steps), **times, "load_average": round(os.getloadavg()[0], 2)}


def chosen_values(texts: list[str], settings: Any) -> dict[str, dict[str, Any]]:
    """Values of --set, each of the type that the setting has."""
    values: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        group, _, field = name.partition(".")
        values.setdefault(group, {})[field] = type(getattr(getattr(settings, group), field))(value)
    return values


def choosing_rows(file: Path) -> Path:
    """Write the demo's rows to train on and, held out, the questions for choosing with their facts' answers."""
    rows = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    by_fact = {row["fact"]: row for row in rows}
    questions = [json.loads(line) for line in CHOOSING.read_text(encoding="utf-8").splitlines()]
    asked = [by_fact[one["fact"]] | one | {"split": "held-out"} for one in questions]
    kept = [row for row in rows if row["split"] == "train"]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *asked]), encoding="utf-8")
    return file


if __name__ == "__main__":
    main()
