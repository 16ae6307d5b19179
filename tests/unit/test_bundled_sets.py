"""The bundled data sets: sizes, held-out rows, and that no question gives its answer away."""

import json
import re
from pathlib import Path

import pytest

from playground import ASSETS
from playground.data.source import read
from playground.settings import Data


@pytest.mark.parametrize(
    "name,train,held_out",
    [("helpdesk.en", 330, 90), ("helpdesk.ja", 330, 90), ("plain-qa.en", 180, 20), ("plain-qa.ja", 180, 20)],
)
def test_bundled_sets_keep_their_held_out_rows_apart(name, train, held_out):
    rows = read(Data(source=name))
    assert (len(rows.train), len(rows.held_out), rows.total) == (train, held_out, train + held_out)
    assert not {(r.instruction, r.input) for r in rows.train} & {(r.instruction, r.input) for r in rows.held_out}


def _rows_by_fact(lang: str) -> dict[str, list[dict]]:
    facts: dict = {}
    for line in (ASSETS / "data" / f"helpdesk.{lang}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        facts.setdefault(row["fact"], []).append(row)
    return facts


FUNCTION_WORDS = json.loads((Path(__file__).parent / "function_words.json").read_text(encoding="utf-8"))


def _english_words(question: str) -> set[str]:
    return {
        w[:5]
        for w in re.findall(r"[a-z0-9]+", question.lower())
        if w not in FUNCTION_WORDS["en"] and w != FUNCTION_WORDS["place"]["en"].lower()
    }


def _without_function_words(question: str) -> str:
    text = question.lower().replace(FUNCTION_WORDS["place"]["ja"], " ")
    for word in sorted(
        (w for w in FUNCTION_WORDS["ja"] if re.search("[\u4e00-\u9fff\u3005]", w)), key=len, reverse=True
    ):
        text = text.replace(word, " ")
    return text


def _japanese_words(question: str) -> set[str]:
    text, particles = _without_function_words(question), "".join(FUNCTION_WORDS["ja_particles"])
    found = set(re.findall("[\u4e00-\u9fff\u3005]+|[\u30a1-\u30fa\u30fc]+|[a-z0-9]+", text))
    known = sorted((w for w in FUNCTION_WORDS["ja"] if re.fullmatch("[\u3041-\u3096]{2,}", w)), key=len, reverse=True)
    for run in re.findall("[\u3041-\u3096]+", text):
        pieces, at = [""], 0
        while at < len(run):
            word = next((w for w in known if run.startswith(w, at)), None)
            if word:
                pieces.append("")
            else:
                pieces[-1] += run[at]
            at += len(word or "x")
        found |= {piece.strip(particles) for piece in pieces if len(piece.strip(particles)) > 1}
    return found


def _shared_words(lang: str, held_out: str, train: list[str]) -> set[str]:
    if lang == "en":
        return _english_words(held_out) & set().union(*map(_english_words, train))
    words = _japanese_words(held_out)
    train_words = set().union(*map(_japanese_words, train))
    train_texts = [_without_function_words(t) for t in train]
    return {w for w in words if any(w in text for text in train_texts)} | {
        t for t in train_words for w in words if t in w
    }


def test_shared_words_are_found():
    assert _shared_words("en", "Where is the ferry's dock?", ["When does the ferry leave?"]) == {"ferry"}
    assert _shared_words("ja", "船はいつ出ますか？", ["船に乗りたいです。"]) == {"船"}
    assert _shared_words("en", "What is it?", ["What is that?"]) == set()


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_held_out_questions_share_no_content_word_with_training_questions_of_their_fact(lang):
    shared = {}
    for fact, rows in _rows_by_fact(lang).items():
        train = [r["instruction"] for r in rows if r["split"] == "train"]
        for row in rows:
            if row["split"] == "held-out" and (found := _shared_words(lang, row["instruction"], train)):
                shared[row["instruction"]] = found
        assert (len(train), len(rows)) == (11, 14), fact
    assert shared == {}


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_answers_contain_their_key_and_no_question_contains_one(lang):
    facts = _rows_by_fact(lang)
    questions = [r["instruction"].lower() for rows in facts.values() for r in rows]
    assert len(facts) == 30 and len(questions) == 420
    for rows in facts.values():
        assert len({r["output"] for r in rows}) == 1
        for row in rows:
            assert any(key.lower() in row["output"].lower() for key in row["key"])
            assert not [key for key in row["key"] if any(key.lower() in q for q in questions)]
