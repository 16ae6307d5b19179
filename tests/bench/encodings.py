"""How often the encoding of a short Japanese text is detected, compared with charset-normalizer.

    python tests/bench/encodings.py --save tests/bench/results/encodings.json

Texts: sentences of UD Japanese-GSD and questions of Dolly 15k in Japanese (of ../shared/data), the questions also cut
to their first 5 and 10 characters, each as a small CSV file in Shift_JIS and in EUC-JP. A detection is right if it
decodes to the same text.
"""

import argparse
import json
import tempfile
from pathlib import Path

from arms import PROJECT, report, write

DATA = PROJECT.parent / "shared" / "data"


def texts() -> dict[str, list[str]]:
    """Texts by kind."""
    sentences = (DATA / "ud_japanese_gsd.test.txt").read_text(encoding="utf-8").splitlines()
    questions = [
        json.loads(line)["instruction"]
        for line in (DATA / "databricks-dolly-15k-ja.jsonl").read_text(encoding="utf-8").splitlines()[::30]
    ]
    return {
        "gsd sentences": sentences,
        "dolly questions": questions,
        "first 10 characters": [q[:10] for q in questions],
        "first 5 characters": [q[:5] for q in questions],
    }


def main() -> None:
    from charset_normalizer import from_bytes

    from playground.data import encodings
    from playground.errors import PlaygroundError
    from playground.memory.meter import hardware

    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--save", type=Path)
    chosen, rounds = flags.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        for kind, samples in texts().items():
            for encoding in ("cp932", "euc_jp"):
                tried = right = charset_normalizer = 0
                for text in samples:
                    table = f"instruction,output\n{text},{text}\n"
                    try:
                        data = table.encode(encoding)
                    except UnicodeEncodeError:
                        continue
                    if text.isascii() or data.decode(encoding) != table:
                        continue
                    path.write_bytes(data)
                    tried += 1
                    try:
                        right += data.decode(encodings.detect(path).name) == table
                    except (PlaygroundError, UnicodeError):
                        pass
                    charset_normalizer += str(from_bytes(data).best()) == table
                rounds.append(
                    {
                        "round": 0,
                        "arm": f"{kind}, {encoding}",
                        "texts": tried,
                        "right": right,
                        "charset_normalizer": charset_normalizer,
                    }
                )
                print(rounds[-1])
    if chosen.save:
        write(
            chosen.save,
            report("encodings of short Japanese texts", ("charset-normalizer",), rounds, hardware=hardware("cpu")),
        )


if __name__ == "__main__":
    main()
