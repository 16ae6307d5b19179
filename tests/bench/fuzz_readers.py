"""Fuzz the readers with hypothesis: any file becomes rows or a problem with a text in both languages.

    python tests/bench/fuzz_readers.py --cases 12000 --save tests/bench/results/fuzz_readers.json

No record may be lost uncounted; the checks are in tests/random_files.py. Rounds are kinds of files; `outcomes` counts
how many cases ended in rows or in which problem.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from arms import report, write
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from random_files import check, files, settings

from playground.memory.meter import hardware
from playground.settings import Data


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--cases", type=int, default=12_000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--save", type=Path)
    chosen = flags.parse_args()
    outcomes: Counter[str] = Counter()
    kinds: Counter[tuple[str, bool]] = Counter()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        @seed(chosen.seed)
        @hypothesis_settings(
            max_examples=chosen.cases,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=False,
        )
        @given(file=files(), data=settings)
        def run_case(file: tuple[str, bytes], data: Data) -> None:
            outcome = check(Path(folder), *file, data)
            outcomes[outcome] += 1
            kinds[Path(file[0]).suffix, outcome == "rows"] += 1

        run_case()
    rounds = [
        {"round": 0, "arm": kind, "cases": kinds[kind, True] + kinds[kind, False], "rows": kinds[kind, True]}
        for kind in sorted({kind for kind, _ in kinds})
    ]
    result = report(
        "readers fuzzed",
        ("hypothesis", "pyarrow"),
        rounds,
        hardware=hardware("cpu"),
        cases=sum(outcomes.values()),
        failed=0,
        seed=chosen.seed,
        seconds=round(time.perf_counter() - begun, 1),
        outcomes=dict(outcomes.most_common()),
    )
    print(result["cases"], "cases,", result["seconds"], "s:", result["outcomes"])
    if chosen.save:
        write(chosen.save, result)


if __name__ == "__main__":
    main()
