"""Which column is what, conversations, and values that are no texts."""

import json

import pytest
from toys import keys

from playground.data import columns
from playground.data.columns import resolve_columns
from playground.data.row import Row
from playground.data.source import preview, read
from playground.errors import PlaygroundError
from playground.settings import Data


def _taught(tmp_path, records, **values):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return read(Data(source=str(path), **{"held_out": 0.0, **values}))


def _said(*texts, roles=("user", "assistant"), names=("role", "content")) -> list[dict]:
    return [dict(zip(names, (roles[n % 2], text))) for n, text in enumerate(texts)]


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
        ({"messages": _said("q", "a"), "prompt": "q"}, {"messages": "messages"}),
        (
            {"system": "s", "conversations": _said("q", "a", names=("from", "value"))},
            {"messages": "conversations", "system": "system"},
        ),
        ({"instruction": "q", "output": "a", "text": "### q a"}, {"instruction": "instruction", "output": "output"}),
    ],
)
def test_columns_are_guessed_from_their_names(record, names):
    found = resolve_columns("", [record], "a")
    assert found.names == names and found.guessed == set(names)


def test_columns_said_by_hand_go_before_the_guess(tmp_path):
    records = [{"Frage": "q", "output": "a", "Antwort": "b", "Thema": "t"}]
    found = resolve_columns("instruction=Frage, output = Antwort,category=Thema", records, "a")
    assert found.names == {"instruction": "Frage", "output": "Antwort", "category": "Thema"} and found.guessed == set()
    assert resolve_columns("instruction=Frage", records, "a").names == {"instruction": "Frage", "output": "output"}
    assert resolve_columns("instruction=Frage", records, "a").guessed == {"output"}
    assert resolve_columns("text=Antwort", records, "a").names == {"text": "Antwort"}
    both = [{"instruction": "q", "input": "i", "output": "a"}]
    assert resolve_columns("input=", both, "a").names == {"instruction": "instruction", "output": "output"}
    assert _taught(tmp_path, records, columns="instruction=Frage,output=Antwort").train == [Row("q", "b")]


def test_columns_within_columns_are_reached_by_dots(tmp_path):
    records = [{"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1]}}]
    assert _taught(tmp_path, records, columns="output=answers.text.0").train == [Row("q", "a")]
    nested = _taught(tmp_path, records)
    assert (
        json.loads(nested.train[0].output) == records[0]["answers"]
        and [n.key for n in nested.notes][-1] == "note.nested"
    )


def test_what_was_said_is_read_back_as_it_was_written():
    for names in (
        {"instruction": "Frage", "output": "a=b"},
        {"text": "x, y"},
        {"text": " blank "},
        {"output": "和、文"},
    ):
        assert columns.parse_mapping(columns.format_mapping(names)) == names


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
def test_columns_that_cannot_be_are_told(given, key):
    with pytest.raises(PlaygroundError) as caught:
        resolve_columns(given, [{"a": "1", "b": "2"}], "set")
    assert (keys(caught) == [key] and "a, b" in str(caught.value)) or key == "error.column_form"


def test_a_guess_and_what_is_no_guess_is_shown_with_the_records(tmp_path):
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


# --- conversations ---


@pytest.mark.parametrize(
    "roles,names", [(("user", "assistant"), ("role", "content")), (("human", "gpt"), ("from", "value"))]
)
def test_every_answer_of_a_conversation_is_a_row(tmp_path, roles, names):
    records = [
        {"messages": _said("q1", "a1", "q2", "a2", "q3", roles=roles, names=names)},
        {"messages": _said("q4", "a4", roles=roles, names=names)},
    ]
    rows = _taught(tmp_path, records)
    assert rows.train == [Row("q1", "a1"), Row("q2", "a2", before=(("q1", "a1"),)), Row("q4", "a4")]
    assert [r.number for r in rows.train] == [1, 1, 2] and rows.total == 2


def test_system_messages_joined_turns_and_content_parts(tmp_path):
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "q1"}, {"type": "text", "text": "q1b"}]},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "a1"},
        {"role": "assistant", "content": "a2"},
        {"role": "user", "content": "q3"},
        {"role": "assistant", "content": "a3"},
    ]
    rows = _taught(tmp_path, [{"messages": messages}])
    first = ("q1\nq1b\n\nq2", "a1\n\na2")
    assert rows.train == [Row(*first, system="be kind"), Row("q3", "a3", before=(first,), system="be kind")]


def test_a_conversation_as_json_in_a_table(tmp_path):
    import csv

    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["messages"], [json.dumps(_said("q", "a"))], ["[{"], [json.dumps({"role": "user"})]]
        )
    rows = read(Data(source=str(tmp_path / "a.csv"), held_out=0))
    assert rows.train == [Row("q", "a")] and rows.dropped == {"messages": 2} and rows.where["messages"] == [2, 3]


def test_prompt_and_completion_may_be_messages(tmp_path):
    records = [
        {"prompt": _said("q1", "a1", "q2"), "completion": [{"role": "assistant", "content": "a2"}]},
        {"prompt": _said("q3"), "completion": "a3"},
    ]
    assert _taught(tmp_path, records).train == [
        Row("q1", "a1"),
        Row("q2", "a2", before=(("q1", "a1"),)),
        Row("q3", "a3"),
    ]


def test_conversations_that_are_more_than_text_are_left_out_by_number(tmp_path):
    picture = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": "a"},
    ]
    called = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "t"},
    ]
    records = [{"messages": found} for found in (_said("q", "a"), picture, called, _said("q"), [], None, "text")]
    rows = _taught(tmp_path, records)
    assert rows.train == [Row("q", "a")]
    assert rows.dropped == {"messages": 3, "empty": 3} and rows.where == {"messages": [2, 3, 7], "empty": [4, 5, 6]}


def test_an_answer_that_nobody_asked_for_is_told(tmp_path):
    rows = _taught(
        tmp_path, [{"conversations": _said("hello", "q", "a", roles=("gpt", "human"), names=("from", "value"))}]
    )
    assert (
        rows.train == [Row("q", "a")] and rows.notes[-1].key == "note.greeting" and rows.notes[-1].values["rows"] == [1]
    )


def test_one_conversation_never_stands_on_both_sides(tmp_path):
    records = [{"messages": _said(*(f"{n} {k}" for k in range(6)))} for n in range(20)]
    rows = _taught(tmp_path, records, held_out=0.3)
    assert len(rows.train) + len(rows.held_out) == 60 and rows.held_out
    assert not {r.number for r in rows.train} & {r.number for r in rows.held_out}


# --- values ---


def test_values_that_are_no_texts_become_texts(tmp_path):
    records = [
        {"instruction": 42, "output": True},
        {"instruction": 1.5, "output": "a"},
        {"instruction": "q", "output": None},
        {"instruction": "q", "output": float("nan")},
    ]
    rows = _taught(tmp_path, records)
    assert rows.train == [Row("42", "true"), Row("1.5", "a")] and rows.where == {"empty": [3, 4]}


def test_types_of_parquet_become_texts(tmp_path):
    import datetime

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(
        {"question": [datetime.date(2026, 1, 2), None], "answer": [b"\xe6\xb8\xaf", b"x"], "input": [{"a": [1]}, None]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = read(Data(source=str(tmp_path / "a.parquet"), held_out=0))
    assert rows.train == [Row("2026-01-02", "港", '{"a": [1]}')] and rows.dropped == {"empty": 1} and rows.total == 2
