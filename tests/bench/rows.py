"""What is taught of real sets and of public layouts: rows, answers, what is left out and why.

    python tests/bench/rows.py --data FOLDER --save tests/bench/results/rows.json

FOLDER holds real sets as files (.json, .jsonl, .csv, .parquet, .txt). The layouts are those of `tests/toy_layouts.py`,
20 rows each, compared with its plain parses: "same" says whether both teach the same answers after the same turns.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from arms import attempt, report, write
from toy_layouts import FOLDER, PARSES, parse, taught_by_program

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")


def taught(path: Path, **data: Any) -> dict:
    """Rows of a file with these data settings, answers taught, rows left out by reason, and the seconds to read it."""
    from playground.planning.taught_rows import taught_rows
    from playground.settings import Data, Settings

    start = time.perf_counter()
    result = taught_rows(Settings(data=Data(source=str(path), held_out=0.0, **data)), 0)
    return {
        "rows": result["rows"],
        "answers": result["taught"],
        "left_out": result["left_out"],
        "unused_columns": result["unused_columns"],
        "notes": [note["key"] for note in result["notes"]],
        "seconds": round(time.perf_counter() - start, 2),
    }


def compared(name: str) -> dict:
    """A layout as `taught` counts it, and whether the program teaches what the plain parse of the file finds."""
    from playground.data.source import read
    from playground.settings import Data

    rows = read(Data(source=str(FOLDER / name), held_out=0.0, drop_duplicates=False))
    expected = parse(name)
    same = taught_by_program(rows.train) == expected.taught
    return taught(FOLDER / name, drop_duplicates=False) | {"expected": len(expected.taught), "same": same}


def main() -> None:
    """Count all sets, print a line each, and save the result."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--data", type=Path, help="folder of real sets")
    flags.add_argument("--save", type=Path)
    chosen = flags.parse_args()
    files = sorted(file for file in chosen.data.iterdir() if file.suffix in SUFFIXES) if chosen.data else []
    sets: dict[str, dict] = {}
    for file in files:
        sets[file.name] = attempt(lambda file=file: taught(file))
        print(file.name, sets[file.name], flush=True)
    for name in PARSES:
        sets[name] = attempt(lambda name=name: compared(name))
        print(name, sets[name], flush=True)
    from playground.memory.meter import hardware

    what = "what is taught of real sets and public layouts"
    result = report(what, ("transformers", "tokenizers"), [], hardware=hardware("cpu"), sets=sets)
    if chosen.save:
        write(chosen.save, result)


if __name__ == "__main__":
    main()
