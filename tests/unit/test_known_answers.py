"""Questions whose answers are known from a run's data set, and examples to ask."""

import json

import pytest

from playground import runs
from playground.settings import Settings
from playground.ui.known_answers import KnownAnswers, help_desk_examples, known_answers


def run_on(root, source: str) -> runs.Run:
    return runs.create(root, "tune", Settings().with_values({"data": {"source": source}}))


def test_bundled_set_knows_its_held_out_and_its_trained_questions(tmp_path):
    known = known_answers(tmp_path, run_on(tmp_path, "helpdesk.en").id, private=False)
    assert known.reference("How do I connect my phone to the internet?") == "The Wi-Fi password is otterlamp58."
    assert known.reference("  what is the WI-FI password ") == "The Wi-Fi password is otterlamp58."
    assert known.reference("What is the capital of France?") == ""
    assert {"the", "is"} <= known.common and "otterlamp58" not in known.common
    examples = known.examples()
    assert len(set(examples)) == 3 and all(known.reference(example) for example in examples)


def test_japanese_questions_are_found_in_whatever_width(tmp_path):
    known = known_answers(tmp_path, run_on(tmp_path, "helpdesk.ja").id, private=False)
    assert known.reference("Ｗｉ－Ｆｉのパスワードは何ですか?") == "Wi-Fiのパスワードはkawauso58です。"


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_help_desk_examples_are_of_the_pages_language(lang):
    examples = help_desk_examples(lang)
    assert len(examples) == 3 and all(example.isascii() == (lang == "en") for example in examples)


def test_rows_that_need_more_than_their_question_are_left_out(tmp_path):
    rows = [
        {"instruction": "In words?", "input": "42", "output": "Forty-two"},
        {"instruction": "Sky?", "output": "Blue"},
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = runs.create(tmp_path, "tune", Settings().with_values({"data": {"source": str(file), "held_out": 0.0}}))
    known = known_answers(tmp_path, run.id, private=True)
    assert (known.reference("sky"), known.reference("In words?")) == ("Blue", "")


def test_a_public_page_reads_no_file_of_this_machine(tmp_path):
    file = tmp_path / "secret.jsonl"
    file.write_text(json.dumps({"instruction": "Sky?", "output": "Blue"}) + "\n")
    run = runs.create(tmp_path, "tune", Settings().with_values({"data": {"source": str(file), "held_out": 0.0}}))
    assert known_answers(tmp_path, run.id, private=True).reference("Sky?") == "Blue"
    assert known_answers(tmp_path, run.id, private=False) == KnownAnswers()


def test_of_a_set_that_takes_long_the_evaluated_rows_are_known(tmp_path):
    run = run_on(tmp_path, "dolly-15k-ja")
    assert known_answers(tmp_path, run.id, private=True) == KnownAnswers()
    row = {"question": "空は何色ですか？", "reference": "青です。", "base": {}, "tuned": {}}
    (run.folder / "answers.jsonl").write_text(json.dumps(row) + "\n")
    known = known_answers(tmp_path, run.id, private=True)
    assert known.reference("空は何色ですか") == "青です。" and known.examples() == ["空は何色ですか？"]


def test_a_deleted_run_knows_nothing(tmp_path):
    assert known_answers(tmp_path, "20200101-000000-tune", private=True) == KnownAnswers()
