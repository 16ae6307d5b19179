"""Guess columns from their names, set them by hand, and convert values to text."""

import json

import pytest
from data_files import messages, read_rows, write_jsonl
from toys import keys

from playground.data import mapping_text
from playground.data.columns import resolve_columns
from playground.data.row import Row
from playground.data.source import preview, read
from playground.errors import PlaygroundError
from playground.settings import Data


def _read(tmp_path, records, **values):
    return read_rows(write_jsonl(tmp_path / "a.jsonl", records), **values)


@pytest.mark.parametrize(
    "record,names",
    [
        (
            {"instruction": "q", "input": "i", "output": "a", "category": "c"},
            {"instruction": "instruction", "input": "input", "output": "output", "category": "category"},
        ),
        (
            {"instruction": "q", "context": "i", "response": "a"},
            {"instruction": "instruction", "input": "context", "output": "response"},
        ),
        ({"prompt": "q", "completion": "a"}, {"instruction": "prompt", "output": "completion"}),
        ({"Question": "q", "Answer": "a"}, {"instruction": "Question", "output": "Answer"}),
        (
            {"質問": "q", "回答": "a", "カテゴリ": "c"},
            {"instruction": "質問", "output": "回答", "category": "カテゴリ"},
        ),
        ({"指示": "q", "入力": "i", "出力": "a"}, {"instruction": "指示", "input": "入力", "output": "出力"}),
        ({"input": "q", "output": "a"}, {"instruction": "input", "output": "output"}),
        ({"text": "t", "label": 1}, {"text": "text"}),
        ({"whatever": "t"}, {"text": "whatever"}),
        ({"messages": messages("q", "a"), "prompt": "q"}, {"messages": "messages"}),
        (
            {"system": "s", "conversations": messages("q", "a", names=("from", "value"))},
            {"messages": "conversations", "system": "system"},
        ),
        ({"instruction": "q", "output": "a", "text": "### q a"}, {"instruction": "instruction", "output": "output"}),
    ],
)
def test_columns_are_guessed_from_their_names(record, names):
    found = resolve_columns("", [record], "a")
    assert found.names == names and found.guessed == set(names)


@pytest.mark.parametrize(
    "question,answer",
    [
        ("内容", "回答"),
        ("件名,内容", "返信"),
        ("text", "answer"),
        ("text", "output"),
        ("text", "target"),
        ("content", "response"),
        ("comment", "reply"),
        ("レビュー", "返信"),
        ("本文", "chosen"),
    ],
)
def test_a_text_beside_a_column_of_answers_is_the_question(tmp_path, question, answer):
    (tmp_path / "a.csv").write_text(f"日付,{question},{answer}\n1,{'s,' * question.count(',')}q,a\n", encoding="utf-8")
    rows = read_rows(tmp_path / "a.csv")
    assert rows.train == [Row("q", "a")] and rows.columns.guessed == {"instruction", "output"}
    [note] = [note for note in rows.notes if note.key == "note.columns_guessed"]
    assert f"instruction={question.split(',')[-1]}" in note.text("en")


@pytest.mark.parametrize(
    "records,note",
    [
        ([{"text": "great film", "target": 1}, {"text": "bad film", "target": 0}], "note.label_unknown"),
        ([{"text": "easy", "target": 0.31}, {"text": "hard", "target": -1.75}], "note.label_unknown"),
        ([{"text": f"t{n}", "output": n % 3 + 2} for n in range(9)], "note.label_unknown"),
        ([{"text": f"Q: q{n} A: 4{n}</s>\n", "answer": f"4{n}"} for n in range(3)], "note.columns_unused"),
        ([{"text": "one", "answer": ""}, {"text": "two", "answer": None}], ""),
        ([{"text": f"t{n}", "answer": "" if n else "a"} for n in range(5)], "note.columns_unused"),
        ([{"text": "great film", "label": "positive"}], "note.label_unknown"),
    ],
)
def test_a_text_with_its_class_or_with_its_answer_in_it_stays_a_text(tmp_path, records, note):
    rows = _read(tmp_path, records)
    assert rows.columns.names == {"text": "text"}
    assert [row.output.strip() for row in rows.train] == [record["text"].strip() for record in records]
    assert not note or note in [n.key for n in rows.notes]


def test_numbers_that_answer_a_text_are_answers_and_classes_are_by_hand(tmp_path):
    sums = [{"text": "3+4?", "answer": 7}, {"text": "4+8?", "answer": 12}]
    assert _read(tmp_path, sums).train == [Row("3+4?", "7"), Row("4+8?", "12")]
    films = [{"text": "great", "target": 1}, {"text": "bad", "target": 0}]
    assert _read(tmp_path, films, columns="output=target").train == [Row("great", "1"), Row("bad", "0")]
    assert _read(tmp_path, films, columns="text=text").train == [Row("", "great"), Row("", "bad")]


def test_columns_set_by_hand_override_the_guess(tmp_path):
    records = [{"Frage": "q", "output": "a", "Antwort": "b", "Thema": "t"}]
    found = resolve_columns("instruction=Frage, output = Antwort,category=Thema", records, "a")
    assert found.names == {"instruction": "Frage", "output": "Antwort", "category": "Thema"} and found.guessed == set()
    assert resolve_columns("instruction=Frage", records, "a").names == {"instruction": "Frage", "output": "output"}
    assert resolve_columns("instruction=Frage", records, "a").guessed == {"output"}
    assert resolve_columns("text=Antwort", records, "a").names == {"text": "Antwort"}
    both = [{"instruction": "q", "input": "i", "output": "a"}]
    assert resolve_columns("input=", both, "a").names == {"instruction": "instruction", "output": "output"}
    assert _read(tmp_path, records, columns="instruction=Frage,output=Antwort").train == [Row("q", "b")]


def test_nested_columns_are_reached_by_dots(tmp_path):
    records = [{"question": "q", "answers": {"short": ["a", "b"], "long": [1]}}]
    assert _read(tmp_path, records, columns="output=answers.short.0").train == [Row("q", "a")]
    nested = _read(tmp_path, records)
    assert (
        json.loads(nested.train[0].output) == records[0]["answers"]
        and [n.key for n in nested.notes][-1] == "note.nested"
    )


def test_a_formatted_mapping_parses_to_itself():
    for names in (
        {"instruction": "Frage", "output": "a=b"},
        {"text": "x, y"},
        {"text": " blank "},
        {"output": "和、文"},
    ):
        assert mapping_text.parse_mapping(mapping_text.format_mapping(names)) == names


@pytest.mark.parametrize(
    "given,key",
    [
        ("nonsense", "error.column_form"),
        ("frage=a", "error.column_form"),
        ('{"a"', "error.column_form"),
        ('{"text": [1]}', "error.column_absent"),
        ("output=none", "error.column_absent"),
        ("input=b", "error.columns"),
    ],
)
def test_invalid_mappings_are_reported(given, key):
    with pytest.raises(PlaygroundError) as caught:
        resolve_columns(given, [{"a": "1", "b": "2"}], "set")
    assert (keys(caught) == [key] and "a, b" in str(caught.value)) or key == "error.column_form"


def test_a_preview_shows_the_mapping_and_what_was_guessed(tmp_path):
    (tmp_path / "a.csv").write_text("Q,Antwort\n1,2\n")
    seen = preview(Data(source=str(tmp_path / "a.csv")))
    assert (
        seen.columns is None
        and [p.key for p in seen.problems] == ["error.columns"]
        and seen.records == [{"Q": "1", "Antwort": "2"}]
    )
    seen = preview(Data(source=str(tmp_path / "a.csv"), columns="output=Antwort"))
    assert (
        seen.columns.names == {"instruction": "Q", "output": "Antwort"}
        and seen.columns.guessed == {"instruction"}
        and seen.rows == [Row("1", "2")]
    )
    assert [n.key for n in seen.notes] == ["note.columns_guessed"]


def test_values_other_than_text_become_text(tmp_path):
    records = [
        {"instruction": 42, "output": True},
        {"instruction": 1.5, "output": "a"},
        {"instruction": "q", "output": None},
        {"instruction": "q", "output": float("nan")},
    ]
    rows = _read(tmp_path, records)
    assert rows.train == [Row("42", "true"), Row("1.5", "a")] and rows.where == {"empty": [3, 4]}


def test_parquet_types_become_text(tmp_path):
    import datetime

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {"question": [datetime.date(2026, 1, 2), None], "answer": [b"\xe6\xb8\xaf", b"x"], "input": [{"a": [1]}, None]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = read(Data(source=str(tmp_path / "a.parquet"), held_out=0))
    assert rows.train == [Row("2026-01-02", "港", '{"a": [1]}')] and rows.dropped == {"empty": 1} and rows.total == 2


def test_each_column_is_used_once(tmp_path):
    records = [{"input": "q", "sample_output": "a"}, {"input": "q2", "sample_output": "a2"}]
    found = resolve_columns("output=sample_output", records, "a")
    assert found.names == {"output": "sample_output", "instruction": "input"} and found.guessed == {"instruction"}
    assert _read(tmp_path, records, columns="output=sample_output").train == [Row("q", "a"), Row("q2", "a2")]
    for mapping in ("instruction=input, output=input", "text=input,category=input"):
        with pytest.raises(PlaygroundError) as caught:
            resolve_columns(mapping, records, "a")
        assert keys(caught) == ["error.column_twice"] and "input" in str(caught.value)


@pytest.mark.parametrize(
    "record,rows",
    [
        ({"id": 7, "frage": "Was?", "antwort": "Das."}, [Row("Was?", "Das.")]),
        ({"url": 1, "entry": {"frage": "Was?", "antwort": ["Das.", "Dies."]}}, [Row("Was?", "Das.")]),
        ({"frage": "Was?", "answer": "Das.", "x": "y"}, [Row("Was?", "Das.")]),
        ({"a, b": "Was?", "c": "Das."}, [Row("Was?", "Das.")]),
        ({"n": 1, "m": 2}, None),
        ({"notes": "only this", "n": 1}, [Row("", "only this")]),
        ({"label": True, "rejected": "bad"}, None),
    ],
)
def test_where_nothing_can_be_guessed_the_message_shows_values_and_a_mapping_that_works(tmp_path, record, rows):
    path = write_jsonl(tmp_path / "a.jsonl", [record, {**record}])
    with pytest.raises(PlaygroundError) as caught:
        read(Data(source=str(path), held_out=0))
    [problem] = caught.value.problems
    assert problem.key == "error.columns" and problem.values["found"] == list(record)
    assert any("“" in example for example in problem.values["examples"])
    assert problem.values["proposal"] in problem.text("en") and problem.values["proposal"] in problem.text("ja")
    proposed = read(Data(source=str(path), held_out=0, columns=problem.values["proposal"])).train
    assert rows is None or proposed == rows


def test_a_mapping_by_hand_reaches_nested_values_of_preference_pairs(tmp_path):
    record = {"prompt": "q", "chosen": {"value": "good", "n": 1}, "rejected": {"value": "bad"}}
    rows = _read(tmp_path, [record], columns="instruction=prompt, output=chosen.value")
    assert rows.train == [Row("q", "good")]
    assert _read(tmp_path, [{"q": "q", "output": ["x", "y"]}], columns="output=output.1").train == [Row("q", "y")]
