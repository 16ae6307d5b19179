"""Split conversations into one row per answer."""

import json

import pytest
from data_files import messages, read_rows, write_jsonl

from playground.data.row import Row
from playground.data.source import read
from playground.errors import PlaygroundError
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


def test_several_system_messages_keep_their_places(tmp_path):
    roles = ("system", "system", "user", "assistant", "system", "user", "assistant")
    texts = ("be kind", "be brief", "q1", "a1", "be quick", "q2", "a2")
    rows = _read(tmp_path, [{"messages": [{"role": r, "content": t} for r, t in zip(roles, texts)]}])
    first, second = rows.train
    assert first.systems == ((0, "be kind"), (0, "be brief")) and first.system == "be kind\n\nbe brief"
    assert second.systems == ((0, "be kind"), (0, "be brief"), (1, "be quick"))


def test_a_system_prompt_in_a_column_and_in_the_conversation_is_taught_once(tmp_path):
    turns = messages("q1", "a1", "q2", "a2")
    for said in ("be kind", " be kind\n"):
        conversation = [{"role": "system", "content": said}, *turns]
        rows = _read(tmp_path, [{"system_prompt": "be kind", "messages": conversation}])
        assert [row.systems for row in rows.train] == [((0, "be kind"),)] * 2
    repeated = [
        {"role": "system", "content": "be kind"},
        *turns[:2],
        {"role": "system", "content": "be kind"},
        *turns[2:],
    ]
    assert _read(tmp_path, [{"messages": repeated}]).train[1].system == "be kind"
    other = [
        {"role": "system", "content": "be brief"},
        *turns[:2],
        {"role": "system", "content": "be kind"},
        *turns[2:],
    ]
    rows = _read(tmp_path, [{"system_prompt": "be kind", "messages": other}])
    assert rows.train[1].systems == ((0, "be kind"), (0, "be brief"), (1, "be kind"))  # which is in force again


def test_system_messages_move_with_the_turns_of_a_very_long_conversation(tmp_path):
    turns = [message for n in range(300) for message in messages(f"q{n}", f"a{n}")]
    turns.insert(2 * 250, {"role": "system", "content": "be quick"})
    rows = _read(tmp_path, [{"messages": turns}])
    assert rows.train[299].systems == ((250 - 43, "be quick"),) and len(rows.train[299].before) == 256
    assert rows.train[299].before[250 - 43] == ("q250", "a250")


def test_trees_of_nested_replies_make_a_row_of_each_answer_after_its_own_turns(tmp_path):
    def node(role, text, *replies):
        return {"role": role, "text": text, "replies": list(replies)}

    more = node("prompter", "q2", node("assistant", "b1"), node("assistant", "b2"))
    tree = node("prompter", "q1", node("assistant", "a1", more), node("assistant", "a2"))
    rows = _read(tmp_path, [{"message_tree_id": "x", "prompt": tree}, {"message_tree_id": "y", "prompt": tree}])
    before = (("q1", "a1"),)
    expected = [Row("q1", "a1"), Row("q2", "b1", before=before), Row("q2", "b2", before=before), Row("q1", "a2")]
    assert rows.train == expected and rows.dropped == {"duplicate": 4}
    assert "note.message_trees" in [note.key for note in rows.notes]


def test_answers_may_stand_before_their_questions_and_a_ring_of_parents_ends(tmp_path):
    records = [
        {"id": "2", "parent": "1", "role": "assistant", "text": "a"},
        {"id": "1", "parent": None, "role": "prompter", "text": "q"},
        {"id": "3", "parent": "4", "role": "assistant", "text": "x"},
        {"id": "4", "parent": "3", "role": "prompter", "text": "y"},
    ]
    rows = _read(tmp_path, records)
    assert rows.train == [Row("q", "a")] and rows.dropped == {"orphan": 1} and rows.where["orphan"] == [3]


def test_questions_without_answers_are_not_read_as_answers(tmp_path):
    records = [{"question_id": n, "turns": ["Why?", "And how?"]} for n in (1, 2)]
    with pytest.raises(PlaygroundError) as error:
        _read(tmp_path, records)
    assert error.value.problems[0].values["dropped"] == {"unanswered": 2}


def test_texts_in_turn_are_said(tmp_path):
    rows = _read(tmp_path, [{"turns": ["q", "a"]}, {"turns": [["q2", "a2"]]}])
    assert [(row.instruction, row.output) for row in rows.train] == [("q", "a"), ("q2", "a2")]
    assert [note.values["rows"] for note in rows.notes if note.key == "note.in_turn"] == [[1]]


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
    assert rows.dropped == {"images": 1, "messages": 1, "empty": 4}
    assert {r: rows.where[r] for r in rows.dropped} == {"images": [2], "messages": [7], "empty": [3, 4, 5, 6]}


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
