"""Recognize records by their structure, before anything is taken for text."""

import io
import json

import pytest
from data_files import messages, note_keys, pairs, problem_keys, read_error, read_rows, write_jsonl

from playground.data.cells import parse_cell, parse_python
from playground.data.source import preview, save_pasted
from playground.settings import Data

ROWS = [{"instruction": "q1", "output": "a1"}, {"instruction": "q2", "output": "a2"}]
EXPECTED = [("q1", "a1"), ("q2", "a2")]


def _write(tmp_path, value, name="a.json"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("orient", ["split", "records", "index", "columns", "table"])
def test_all_orients_of_pandas_give_the_same_rows(tmp_path, orient):
    import pandas

    path = tmp_path / "a.json"
    pandas.DataFrame(ROWS).to_json(path, orient=orient)
    assert pairs(read_rows(path)) == EXPECTED
    named = pandas.DataFrame(ROWS, index=["x", "y"])
    if orient in ("index", "columns"):
        named.to_json(path, orient=orient)
        assert pairs(read_rows(path)) == EXPECTED


def test_rows_without_names_are_asked_for_and_read_by_their_numbers(tmp_path):
    path = _write(tmp_path, [["q1", "a1"], ["q2", "a2"]])  # pandas' orient "values"
    error = read_error(path)
    assert problem_keys(error) == ["error.columns"] and "instruction=column 1, output=column 2" in str(error)
    assert pairs(read_rows(path, columns="instruction=column 1, output=column 2")) == EXPECTED
    assert pairs(read_rows(_write(tmp_path, [["question", "answer"], ["q1", "a1"], ["q2", "a2"]]))) == EXPECTED


@pytest.mark.parametrize(
    "value",
    [
        {"instruction": ["q1", "q2"], "output": ["a1", "a2"]},
        {"data": {"instruction": ["q1", "q2"], "output": ["a1", "a2"]}},
        {
            "train": {"instruction": ["q1", "q2"], "output": ["a1", "a2"]},
            "test": {"instruction": ["q"], "output": ["a"]},
        },
        {"messages": [messages("q1", "a1"), messages("q2", "a2")]},
        {"conversations": [messages("q1", "a1"), messages("q2", "a2")], "id": [1, 2]},
        {"features": [{"name": "instruction"}], "rows": [{"row_idx": n, "row": row} for n, row in enumerate(ROWS)]},
        [messages("q1", "a1"), messages("q2", "a2")],
        [[["q1", "a1"]], [["q2", "a2"]]],
        {"data": [messages("q1", "a1"), messages("q2", "a2")]},
        [{"messages": {"role": ["user", "assistant"], "content": [f"q{n}", f"a{n}"]}} for n in (1, 2)],
        [{"whatever": messages("q1", "a1")}, {"whatever": messages("q2", "a2")}],
        [{"dialog": ["q1", "a1"]}, {"dialog": ["q2", "a2"]}],
        [
            {"conversation": [{"human": "q1", "assistant": "a1"}]},
            {"conversation": [{"human": "q2", "assistant": "a2"}]},
        ],
        [{"conversation": "User: q1\nAssistant: a1"}, {"conversation": "ユーザー：q2\nアシスタント：a2"}],
    ],
)
def test_tables_by_columns_and_nested_lists_are_rows(tmp_path, value):
    assert pairs(read_rows(_write(tmp_path, value))) == EXPECTED


def test_to_dict_of_datasets_gives_its_rows(tmp_path):
    import datasets

    table = datasets.Dataset.from_list([{"messages": messages("q1", "a1")}, {"messages": messages("q2", "a2")}])
    assert pairs(read_rows(_write(tmp_path, table.to_dict()))) == EXPECTED
    table.to_json(tmp_path / "b.json")
    assert pairs(read_rows(tmp_path / "b.json")) == EXPECTED


def test_one_row_with_several_answers_is_no_table(tmp_path):
    rows = read_rows(_write(tmp_path, {"instruction": "q", "output": ["good", "bad"]}))
    assert pairs(rows) == [("q", "good")]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_bare_messages_are_joined_into_conversations(tmp_path, name):
    turns = [*messages("q1", "a1", "q2", "a2"), {"role": "system", "content": "s"}, *messages("q3", "a3")]
    lines = "\n".join(map(json.dumps, turns))
    table = "role,content\n" + "\n".join(f"{turn['role']},{turn['content']}" for turn in turns)
    rows = read_rows(_write(tmp_path, {"a.json": turns, "a.jsonl": lines, "a.csv": table}[name], name))
    assert pairs(rows) == [("q1", "a1"), ("q2", "a2"), ("q3", "a3")] and "note.bare_messages" in note_keys(rows)
    assert [(row.number, len(row.before), row.system) for row in rows.train] == [(1, 0, ""), (1, 1, ""), (2, 0, "s")]


def test_bare_messages_with_an_id_are_joined_by_it(tmp_path):
    turns = [{"conversation_id": n // 2, **turn} for n, turn in enumerate(messages("q1", "a1", "q2", "a2"))]
    rows = read_rows(write_jsonl(tmp_path / "a.jsonl", turns))
    assert pairs(rows) == EXPECTED and not any(row.before for row in rows.train)


def test_messages_of_a_tree_are_not_joined(tmp_path):
    turns = [{"parent_id": None, **turn} for turn in messages("q", "a")]
    assert "note.bare_messages" not in note_keys(read_rows(write_jsonl(tmp_path / "a.jsonl", turns)))


def test_broken_lines_behind_bare_messages_are_reported(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", messages("q", "a"))
    path.write_text(path.read_text() + '{"role": \n')
    assert problem_keys(read_error(path)) == ["error.json"]
    seen = preview(Data(source=str(path), held_out=0.0))
    assert [p.key for p in seen.problems] == ["error.json"] and len(seen.rows) == 1


def test_bare_strings_are_texts(tmp_path):
    assert pairs(read_rows(_write(tmp_path, ["one", "two"]))) == [("", "one"), ("", "two")]
    assert pairs(read_rows(_write(tmp_path, '"one"\n"two"\n', "a.jsonl"))) == [("", "one"), ("", "two")]


NUMPY = """[{'content': "It's?", 'role': 'user'}
 {'content': 'yes (ok) array(', 'role': 'assistant'}]"""


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps(messages("It's?", "yes (ok) array(")),
        str(messages("It's?", "yes (ok) array(")),
        NUMPY,
        f"array({NUMPY}, dtype=object)",
    ],
)
def test_messages_in_a_cell_are_read_as_json_or_python(tmp_path, cell):
    import csv

    table = io.StringIO()
    csv.writer(table).writerows([["messages"], [cell]])
    assert pairs(read_rows(_write(tmp_path, table.getvalue(), "a.csv"))) == [("It's?", "yes (ok) array(")]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000 + "]" * 5000,
        "[" + "1," * 150_000 + "]",
        "__import__('os').system('x')",
        "[x for x in (1,)]",
        "{'a': f()}",
        "(" * 199,
    ],
)
def test_python_text_is_bounded_and_never_run(text):
    assert parse_python(text) is None and parse_cell(text) == text


@pytest.mark.parametrize(
    "text",
    [
        '{"instruction":"q1","output":"a1"},\n{"instruction":"q2","output":"a2"},\n',
        '{\n "instruction":"q1",\n "output":"a1"\n}\n{\n "instruction":"q2",\n "output":"a2"\n}\n',
        '{"instruction":"q1",\n "output":"a1"},\n{"instruction":"q2",\n "output":"a2"}\n',
        '[{"instruction":"q1","output":"a1",},\n {"instruction":"q2","output":"a2"},\n]',
        '{"instruction":"q1","output":"a1",}\n{"instruction":"q2","output":"a2",}\n',
        '{"data": [{"instruction":"q1","output":"a1"}, {"instruction":"q2","output":"a2"},]}',
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
def test_json_with_commas_too_many_or_over_several_lines_is_read_and_said_once(tmp_path, text, name):
    rows = read_rows(_write(tmp_path, text, name))
    assert pairs(rows) == EXPECTED and note_keys(rows).count("note.loose_json") == 1


def test_commas_within_texts_stay(tmp_path):
    text = '[{"instruction": "a,]", "output": "b,}\\",]",}]'
    assert pairs(read_rows(_write(tmp_path, text))) == [("a,]", 'b,}",]')]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
def test_python_text_in_a_file_is_read(tmp_path, name):
    for text in (str(ROWS), "\n".join(map(str, ROWS))):
        rows = read_rows(_write(tmp_path, text, name))
        assert pairs(rows) == EXPECTED and "note.python_text" in note_keys(rows)


TABLES = [
    "question\tanswer\nq1\ta1\nq2\ta2\n",
    "question;answer\nq1;a1\nq2;a2\n",
    "質問|回答\nq1|a1\nq2|a2\n",
    "question,answer\nq1,a1\nq2,a2\n",
    "| question | answer |\n|---|:--|\n| q1 | a1 |\n| q2 | a2 |\n",
    'question, answer\n"q1", "a1"\n"q2", "a2"\n',
    "Ｑ,Ａ\nq1,a1\nq2,a2\n",
]


@pytest.mark.parametrize("text", TABLES)
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "pasted", "fenced"])
def test_tables_are_read_under_any_ending(tmp_path, text, name):
    if name in ("pasted", "fenced"):
        fenced = f"Here you are:\n```\n{text}```\nBye." if name == "fenced" else text
        path = save_pasted(fenced, tmp_path / "pasted")
    else:
        path = _write(tmp_path, text, name)
    assert pairs(read_rows(path)) == EXPECTED


def test_excels_separator_line_and_blanks_after_commas(tmp_path):
    assert pairs(read_rows(_write(tmp_path, "sep=;\nquestion;answer\nq1;a1\nq2;a2\n", "a.csv"))) == EXPECTED
    text = 'question,answer\n"q1, x", "a1"\n"q2", "a2, b"\n'
    assert pairs(read_rows(_write(tmp_path, text, "a.csv"))) == [("q1, x", "a1"), ("q2", "a2, b")]
    text = 'question,answer\n"Hello, ", b\n'
    assert pairs(read_rows(_write(tmp_path, text, "a.csv"))) == [("Hello, ", " b")]


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```\n", "Look:\n\n```jsonl\n{}\n```\n\nDone."])
def test_data_in_a_code_fence_is_unpacked(tmp_path, fence):
    inside = "\n".join(map(json.dumps, ROWS))
    assert pairs(read_rows(save_pasted(fence.format(inside), tmp_path))) == EXPECTED
    if fence.startswith("```"):
        assert pairs(read_rows(_write(tmp_path, fence.format(inside), "a.md"))) == EXPECTED


def test_prose_stays_prose(tmp_path):
    for text in (
        "Hello, world.\nBye, world.\nMore, please.\n",
        "A title\n\n```json\n[1]\n```\n\nand prose",
        "[1] a note\n[2] another\n",
        "a | b\nc and d\n",
    ):
        assert all(row.instruction == "" for row in read_rows(_write(tmp_path, text, "a.txt")).train)


def test_json_under_a_tables_ending_is_json(tmp_path):
    assert pairs(read_rows(_write(tmp_path, ROWS, "a.csv"))) == EXPECTED
    assert pairs(read_rows(_write(tmp_path, "\n".join(map(json.dumps, ROWS)), "a.tsv"))) == EXPECTED


@pytest.mark.parametrize(
    "text,key",
    [
        ("<html><body>Log in</body></html>", "note.looks_markup"),
        ("<?xml version='1.0'?><a/>", "note.looks_markup"),
        ('{"a": [1, 2]}', "note.looks_json"),
        ("[{'a': 1}]", "note.looks_json"),
        ("<!DOCTYPE html><p>x</p>", "note.looks_markup"),
    ],
)
def test_a_text_that_looks_like_json_or_markup_is_said_with_its_first_row(tmp_path, text, key):
    rows = read_rows(write_jsonl(tmp_path / "a.jsonl", [{"text": "plain"}, {"text": text}]))
    [note] = [note for note in rows.notes if note.key == key]
    assert note.values["rows"] == [2] and note.values["first"].startswith(text[:20]) and text[:20] in note.text("en")
    plain = read_rows(write_jsonl(tmp_path / "b.jsonl", [{"text": "1 < 2 and [a] {b} <3"}, {"text": "[12] note"}]))
    assert not {"note.looks_json", "note.looks_markup"} & set(note_keys(plain))


def test_a_list_of_questions_with_answers_is_a_conversation(tmp_path):
    turns = [{"input": "q1", "output": "a1"}, {"input": "q2", "output": "a2"}]
    rows = read_rows(write_jsonl(tmp_path / "a.jsonl", [{"conversation": turns}]))
    assert pairs(rows) == EXPECTED and rows.train[1].before == (("q1", "a1"),)
    assert rows.unused_columns == () and "note.nested" not in note_keys(rows)


@pytest.mark.parametrize("text", ["Q: q1\nA: a1\n\nQ: q2\nA: a2\n", "質問：q1\n回答：a1\n\n質問：q2\n回答：a2\n"])
def test_a_text_of_questions_with_answers_is_no_plain_text(tmp_path, text):
    assert pairs(read_rows(_write(tmp_path, text, "a.txt"))) == EXPECTED


def test_one_paragraph_without_a_question_keeps_a_file_plain_text(tmp_path):
    rows = read_rows(_write(tmp_path, "Q: q1\nA: a1\n\nThat is all: no more.\n", "a.txt"))
    assert pairs(rows) == [("", "Q: q1\nA: a1"), ("", "That is all: no more.")]


def test_a_column_that_is_always_empty_gives_way_to_its_twin(tmp_path):
    records = [{"instruction": "q1", "output": None, "response": "a1"}, {"instruction": "q2", "response": "a2"}]
    assert pairs(read_rows(write_jsonl(tmp_path / "a.jsonl", records))) == EXPECTED


def test_columns_may_be_named_by_who_speaks(tmp_path):
    assert pairs(read_rows(write_jsonl(tmp_path / "a.jsonl", [{"お客様": "q1", "担当者": "a1"}]))) == EXPECTED[:1]


def test_comments_before_a_table_are_not_its_header(tmp_path):
    text = "# exported today\n#\nquestion,answer\nq1,a1\nq2,a2\n"
    assert pairs(read_rows(_write(tmp_path, text, "a.csv"))) == EXPECTED
    rows = read_rows(_write(tmp_path, "#,question,answer\n1,q1,a1\n2,q2,a2\n", "b.csv"))
    assert pairs(rows) == EXPECTED and rows.unused_columns == ("#",)
