"""Quizzes: options are written below the question, and the answer is the right option's text, however it is named."""

import pytest
from data_files import note_keys, pairs, problem_keys, read_error, read_rows, write_jsonl

from playground.data.source import preview
from playground.i18n import LANGUAGES
from playground.settings import Data

ASKED = "Capital of Japan?\nA. Osaka\nB. Tokyo\nC. Kyoto"
CITIES = ("Osaka", "Tokyo", "Kyoto")


def _read(tmp_path, *records, **settings):
    return read_rows(write_jsonl(tmp_path / "a.jsonl", records), **settings)


def _record(names, cities=CITIES, **others):
    return {"Question": "Capital of Japan?", **dict(zip(names, cities)), **others}


@pytest.mark.parametrize("names", ["ABC", "abc", "ＡＢＣ", ("Option A", "Option B", "Option C"), ("opa", "opb", "opc")])
@pytest.mark.parametrize(
    "key,value",
    [
        ("Correct Answer", "Tokyo"),
        ("Correct", "B"),
        ("answer", "b"),
        ("Answer Key", "(B)"),
        ("正解", "Ｂ"),
        ("correct_option", "Option B"),
        ("answer", "B. Tokyo"),
        ("label", "B"),
    ],
)
def test_the_right_options_text_is_the_answer(tmp_path, names, key, value):
    rows = _read(tmp_path, _record(names, **{key: value}))
    assert pairs(rows) == [(ASKED, "Tokyo")] and "note.columns_unused" not in note_keys(rows)
    [note] = [note for note in rows.notes if note.key == "note.quiz"]
    assert note.values == {"columns": list(names), "answer": key} and all(key in note.text(lang) for lang in LANGUAGES)


@pytest.mark.parametrize(
    "names,value",
    [
        ("123", "2"),
        ("012", 1),
        (("option1", "option2", "option3"), 2),
        (("選択肢1", "選択肢2", "選択肢3"), "選択肢２"),
        (("選択肢ア", "選択肢イ", "選択肢ウ"), "イ"),
        ("アイウ", "イ"),
    ],
)
def test_options_are_named_by_numbers_and_kana_too(tmp_path, names, value):
    [(asked, answer)] = pairs(_read(tmp_path, _record(names, answer=value)))
    assert answer == "Tokyo" and asked == "\n".join(
        ["Capital of Japan?", *(f"{name[-1]}. {city}" for name, city in zip(names, CITIES))]
    )


def test_numbers_that_name_options_by_letter_count_from_one_unless_one_is_zero(tmp_path):
    rows = _read(tmp_path, _record("ABC", cop=2), _record("ABC", cop=3) | {"Question": "q"})
    assert [row.output for row in rows.train] == ["Tokyo", "Kyoto"]
    rows = _read(tmp_path, _record("ABC", cop=1), _record("ABC", cop=0) | {"Question": "q"})
    assert [row.output for row in rows.train] == ["Tokyo", "Osaka"]
    assert [note.values for note in rows.notes if note.key == "note.quiz_numbers"] == [{"answer": "cop", "first": 0}]


def test_an_answer_that_is_an_options_text_is_not_taken_for_its_number(tmp_path):
    sums = [{"Question": f"{n}+2?", "A": n, "B": n + 1, "C": n + 2, "Correct": n + 2} for n in range(3)]
    assert [row.output for row in _read(tmp_path, *sums).train] == ["2", "3", "4"]


def test_several_right_options_are_one_a_line(tmp_path):
    values = ("A, C", "A、C", "B")
    rows = _read(tmp_path, *({**_record("ABC", answer=value), "Question": value} for value in values))
    assert [row.output for row in rows.train] == ["Osaka\nKyoto", "Osaka\nKyoto", "Tokyo"]


def test_a_right_option_that_is_missing_is_counted_not_taught(tmp_path):
    rows = _read(tmp_path, _record("ABC", answer="B"), _record("ABC", answer="D"), _record("ABC", answer=""))
    assert pairs(rows) == [(ASKED, "Tokyo")] and rows.where == {"no_option": [2], "empty": [3]}
    [note] = [note for note in rows.notes if note.key == "note.dropped"]
    assert all(note.text(lang) for lang in LANGUAGES)


def test_options_are_not_written_twice(tmp_path):
    labeled = _record("ABC", ("A. Osaka", "(B) Tokyo", "C) Kyoto"), answer="B")
    assert pairs(_read(tmp_path, labeled)) == [("Capital of Japan?\nA. Osaka\n(B) Tokyo\nC) Kyoto", "(B) Tokyo")]
    inline = {"Question": "Capital of Japan? A) Osaka B) Tokyo C) Kyoto"}
    assert pairs(_read(tmp_path, _record("ABC", answer="B") | inline)) == [(inline["Question"], "Tokyo")]


def test_an_option_is_never_guessed_to_be_the_answer(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [_record("ABC")])
    error = read_error(path)
    assert problem_keys(error) == ["error.columns"] and error.problems[0].values["proposal"] == "text=Question"
    assert preview(Data(source=str(path), columns="output=B")).rows[0].output == "Tokyo"
    free = _read(tmp_path, _record("ABC", Answer="It moved there in 1868."))
    assert pairs(free) == [("Capital of Japan?", "It moved there in 1868.")]
    assert pairs(_read(tmp_path, {"q": "x", "a": "y", "b": "z"})) == [("x", "y")]


def test_columns_set_by_hand_are_taken_as_they_are(tmp_path):
    rows = _read(tmp_path, _record("ABC", answer="B"), columns="output=answer")
    assert pairs(rows) == [("Capital of Japan?", "B")] and "note.quiz" not in note_keys(rows)


def test_a_sentence_with_two_options_is_a_question(tmp_path):
    rows = _read(tmp_path, {"sentence": "_ is big.", "option1": "Tokyo", "option2": "Nara", "answer": "1"})
    assert pairs(rows) == [("_ is big.\n1. Tokyo\n2. Nara", "Tokyo")]


@pytest.mark.parametrize(
    "options",
    [
        list(CITIES),
        dict(zip("ABC", CITIES)),
        {"text": list(CITIES), "label": list("ABC")},
        [{"label": label, "text": city} for label, city in zip("ABC", CITIES)],
        str(list(CITIES)),
    ],
)
def test_a_letter_that_names_one_of_a_list_is_looked_up(tmp_path, options):
    for key in ("answer", "answerKey"):
        rows = _read(tmp_path, {"question": "Capital of Japan?", "choices": options, key: "B"})
        assert pairs(rows) == [(ASKED, "Tokyo")] and "note.quiz" in note_keys(rows)
    answered = {"question": "Capital of Japan?", "choices": options, "answer": "Tokyo"}
    for record in (answered, answered | {"answer_idx": "B"}):
        assert pairs(_read(tmp_path, record)) == [("Capital of Japan?", "Tokyo")]
