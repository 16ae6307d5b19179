"""Files as nobody would make them, by hypothesis: each becomes rows or is told in both languages, and no record is lost uncounted.

    python tests/bench/fuzz_readers.py --cases 12000 --save tests/bench/results/fuzz_readers.json

What is asked of each is in tests/fuzzed.py. Rounds are kinds of files; `outcomes` counts how often each ended in rows or in which problem.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from arms import report, write
from fuzzed import check, files, settings
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as trying

from playground.memory.meter import hardware


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--cases", type=int, default=12_000)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--save", type=Path)
    chosen = flags.parse_args()
    found, kinds, begun = Counter(), Counter(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        @seed(chosen.seed)
        @trying(
            max_examples=chosen.cases,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=False,
        )
        @given(file=files(), data=settings)
        def each(file, data):
            outcome = check(Path(folder), *file, data)
            found[outcome] += 1
            kinds[Path(file[0]).suffix, outcome == "rows"] += 1

        each()
    rounds = [
        {"round": 0, "arm": kind, "cases": kinds[kind, True] + kinds[kind, False], "rows": kinds[kind, True]}
        for kind in sorted({kind for kind, _ in kinds})
    ]
    result = report(
        "readers fuzzed",
        ("hypothesis", "pyarrow"),
        rounds,
        hardware=hardware("cpu"),
        cases=sum(found.values()),
        failed=0,
        seed=chosen.seed,
        seconds=round(time.perf_counter() - begun, 1),
        outcomes=dict(found.most_common()),
    )
    print(result["cases"], "cases,", result["seconds"], "s:", result["outcomes"])
    if chosen.save:
        write(chosen.save, result)


if __name__ == "__main__":
    main()
