"""Split conversations into one row per answer."""

import json

import pytest
from data_files import messages, read_rows, write_jsonl

from playground.data.row import Row
from playground.data.source import read
from playground.settings import Data


def _read(tmp_path, records, **values):
    return read_rows(write_jsonl(tmp_path / "a.jsonl", records), **values)


@pytest.mark.parametrize(
    "roles,names", [(("user", "assistant"), ("role", "content")), (("human", "gpt"), ("from", "value"))]
)
def test_every_answer_of_a_conversation_becomes_a_row(tmp_path, roles, names):
    records = [
        {"messages": messages("q1", "a1", "q2", "a2", "q3", roles=roles, names=names)},
        {"messages": messages("q4", "a4", roles=roles, names=names)},
    ]
    rows = _read(tmp_path, records)
    assert rows.train == [Row("q1", "a1"), Row("q2", "a2", before=(("q1", "a1"),)), Row("q4", "a4")]
    assert [r.number for r in rows.train] == [1, 1, 2] and rows.total == 3


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
    rows = _read(tmp_path, [{"messages": messages}])
    first = ("q1\nq1b\n\nq2", "a1\n\na2")
    assert rows.train == [Row(*first, system="be kind"), Row("q3", "a3", before=(first,), system="be kind")]


def test_a_conversation_as_json_in_a_table(tmp_path):
    import csv

    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["messages"], [json.dumps(messages("q", "a"))], ["[{"], [json.dumps({"role": "user"})]]
        )
    rows = read(Data(source=str(tmp_path / "a.csv"), held_out=0))
    assert rows.train == [Row("q", "a")] and rows.dropped == {"messages": 2} and rows.where["messages"] == [2, 3]


def test_prompt_and_completion_may_bemessages(tmp_path):
    records = [
        {"prompt": messages("q1", "a1", "q2"), "completion": [{"role": "assistant", "content": "a2"}]},
        {"prompt": messages("q3"), "completion": "a3"},
    ]
    assert _read(tmp_path, records).train == [
        Row("q1", "a1"),
        Row("q2", "a2", before=(("q1", "a1"),)),
        Row("q3", "a3"),
    ]


def test_conversations_with_more_than_text_are_dropped_by_number(tmp_path):
    picture = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": "a"},
    ]
    called = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "t"},
    ]
    records = [{"messages": found} for found in (messages("q", "a"), picture, called, messages("q"), [], None, "text")]
    rows = _read(tmp_path, records)
    assert rows.train == [Row("q", "a")]
    assert rows.dropped == {"messages": 3, "empty": 3} and rows.where == {"messages": [2, 3, 7], "empty": [4, 5, 6]}


def test_an_answer_without_a_question_is_noted(tmp_path):
    rows = _read(
        tmp_path, [{"conversations": messages("hello", "q", "a", roles=("gpt", "human"), names=("from", "value"))}]
    )
    assert (
        rows.train == [Row("q", "a")] and rows.notes[-1].key == "note.greeting" and rows.notes[-1].values["rows"] == [1]
    )


def test_a_conversation_stays_on_one_side_of_the_split(tmp_path):
    records = [{"messages": messages(*(f"{n} {k}" for k in range(6)))} for n in range(20)]
    rows = _read(tmp_path, records, held_out=0.3)
    assert len(rows.train) + len(rows.held_out) == 60 and rows.held_out
    assert not {r.number for r in rows.train} & {r.number for r in rows.held_out}
