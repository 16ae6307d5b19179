"""Renew the recordings of the talk's three prompts: `python -m tests.record_talk_answers [OUT]`, on a CPU.

A fine-tune on the plain questions and answers of each language, with the talk's prompts held out: its samples are what
the base model and the tuned model answer to them. Writes talk-en.jsonl and talk-ja.jsonl to OUT (assets/recordings).
`--only`: languages whose names contain this.
"""

import argparse
import json
import tempfile
from pathlib import Path

from playground import ASSETS, catalog, runs
from playground.engine.workbench import Workbench
from playground.i18n import LANGUAGES
from playground.runs import recordings
from playground.settings import Settings

# What the answers are compared with, and as long as they may be; by language, in the order of the prompts.
REFERENCES = {
    "en": (
        "A large language model is a computer program that has learned from a great deal of text to predict the next "
        "word, and so can answer questions and write.",
        "I don't know which restaurants are near you. A map app or a friend who lives nearby can recommend a good "
        "Chinese restaurant.",
        "You apply as the university describes on its site, and pass its entrance examination. Study the subjects of "
        "the examination a little every day.",
    ),
    "ja": (
        "大量の文章から次に来る言葉を予測することを学び、質問に答えたり文章を書いたりできるコンピューターのプログラムです。",
        "お近くのお店は分かりません。地図アプリや近所に住む人に聞くと、評判のよい中華料理店が見つかります。",
        "大学の入学試験に合格する必要があります。試験の科目を毎日少しずつ勉強しましょう。",
    ),
}
SETTINGS = {
    "en": {"lora": {"layers": 22}, "train": {"epochs": 2, "lr": 0.002, "batch_size": 8}},
    "ja": {"load": {"model": "gemma-3-270m"}, "train": {"epochs": 1, "lr": 0.002, "batch_size": 8}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=ASSETS / "recordings")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for lang in LANGUAGES:
        if options.only in lang:
            with tempfile.TemporaryDirectory() as folder:
                (options.out / f"talk-{lang}.jsonl").write_text(_record(Path(folder), lang), encoding="utf-8")


def _record(folder: Path, lang: str) -> str:
    """Fine-tune, and return the recording."""
    source = folder / f"plain-qa-and-talk.{lang}.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(lang)), encoding="utf-8")
    of_all = {"data": {"source": str(source)}, "load": {"accept_terms": True}, "train": {"measure_forgetting": False}}
    settings = Settings().with_values(SETTINGS[lang]).with_values(of_all)
    for event in Workbench(folder / "runs").tune(settings):
        if event["kind"] in ("phase", "step", "sample"):
            print(lang, json.dumps(event, ensure_ascii=False)[:300], flush=True)
    [run] = runs.history(folder / "runs")
    return recordings.record(list(runs.find(folder / "runs", run.id).events()))


def _rows(lang: str) -> list[dict]:
    """The plain set's rows to train on, and the talk's prompts to hold out."""
    lines = (ASSETS / "data" / f"plain-qa.{lang}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    prompts = catalog.prompts()["talk"]["prompts"][lang]
    held_out = [
        {"split": "held-out", "instruction": prompt, "input": "", "output": reference}
        for prompt, reference in zip(prompts, REFERENCES[lang], strict=True)
    ]
    return rows + held_out


if __name__ == "__main__":
    main()
