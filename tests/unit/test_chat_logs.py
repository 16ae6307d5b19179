"""Logs of chats, one message a record: joined by their conversation's id, in whatever order they are sorted."""

import json
import random
import time

import pytest
from data_files import messages, note_keys, pairs, problem_keys, read_error, read_rows, write_jsonl

from playground.data import bare_messages
from playground.data.source import preview
from playground.i18n import LANGUAGES
from playground.settings import Data

EXPECTED = [("q1", "a1"), ("q2", "a2")]


def _log(id="conversation_id", ids=(1, 2, 1, 2), texts=("q1", "q2", "a1", "a2")):
    """Messages sorted by time, so that those of two conversations alternate."""
    roles = ("user" if text[0] == "q" else "assistant" for text in texts)
    return [{id: n, "role": role, "content": text} for n, role, text in zip(ids, roles, texts)]


def _read(tmp_path, records):
    return read_rows(write_jsonl(tmp_path / "a.jsonl", records))


def _values(rows, key):
    return [note.values for note in rows.notes if note.key == key]


@pytest.mark.parametrize(
    "id",
    [
        "conversation_id",
        "ticket_id",
        "Ticket No.",
        "case_id",
        "room_id",
        "thread_id",
        "session_id",
        "チケット番号",
        "会話ID",
        "お問い合わせ番号",
        "id",
    ],
)
def test_messages_sorted_by_time_are_joined_by_their_id(tmp_path, id):
    rows = _read(tmp_path, _log(id))
    assert pairs(rows) == EXPECTED and not any(row.before for row in rows.train) and not rows.dropped
    assert _values(rows, "note.messages_by_id") == [{"column": id}] and "note.columns_unused" not in note_keys(rows)
    assert pairs(_read(tmp_path, _log(id, (1, 1, 2, 2), ("q1", "a1", "q2", "a2")))) == EXPECTED


def test_a_conversation_that_is_taken_up_again_is_one_conversation(tmp_path):
    rows = _read(tmp_path, _log(ids=(1, 1, 2, 2, 1, 1), texts=("q1", "a1", "q2", "a2", "q3", "a3")))
    assert pairs(rows) == [("q1", "a1"), ("q3", "a3"), ("q2", "a2")]
    assert [(row.number, row.before) for row in rows.train] == [(1, ()), (1, (("q1", "a1"),)), (2, ())]


def test_an_id_of_each_message_is_not_one_of_a_conversation(tmp_path):
    rows = _read(tmp_path, _log("id", (1, 2, 3, 4), ("q1", "a1", "q2", "a2")))
    assert [row.before for row in rows.train] == [(), (("q1", "a1"),)]
    assert "note.messages_without_id" in note_keys(rows) and not _values(rows, "note.messages_by_id")
    spoken = _log("id", (7, 8, 7, 8), ("q1", "a1", "q2", "a2"))  # of a person: theirs alone
    assert "note.messages_without_id" in note_keys(_read(tmp_path, spoken))


def test_messages_without_an_id_are_said_to_be_one_conversation(tmp_path):
    rows = _read(tmp_path, messages("q1", "a1", "q2", "a2"))
    [note] = [note for note in rows.notes if note.key == "note.messages_without_id"]
    assert all("conversation_id" in note.text(lang) for lang in LANGUAGES) and rows.train[1].before == (("q1", "a1"),)


def test_a_message_without_an_id_belongs_to_the_one_before_it(tmp_path):
    assert pairs(_read(tmp_path, _log(ids=(1, None, 2, ""), texts=("q1", "a1", "q2", "a2")))) == EXPECTED


def test_ids_that_are_numbers_or_their_texts_are_the_same(tmp_path):
    assert pairs(_read(tmp_path, _log(ids=(1, 2, "1", "2")))) == EXPECTED


def test_a_conversation_is_held_out_as_its_messages_are(tmp_path):
    log = [{**message, "split": "test" if message["conversation_id"] == 2 else "train"} for message in _log()]
    rows = _read(tmp_path, log)
    assert pairs(rows) == EXPECTED[:1] and [row.output for row in rows.held_out] == ["a2"]
    assert "note.own_held_out" in note_keys(rows) and "note.columns_unused" not in note_keys(rows)


def test_beyond_the_limit_conversations_are_cut_and_counted(tmp_path, monkeypatch):
    ids, texts = (1, 1, 2, 2, 3, 3, 1, 1), ("q1", "a1", "q2", "a2", "q3", "a3", "q4", "a4")
    whole = _read(tmp_path, _log(ids=ids, texts=texts))
    assert len({row.number for row in whole.train}) == 3 and "note.conversations_cut" not in note_keys(whole)
    monkeypatch.setattr(bare_messages, "MAX_HELD", 4)
    cut = _read(tmp_path, _log(ids=ids, texts=texts))
    assert sorted(pairs(cut)) == sorted(pairs(whole)) and cut.train[-1].before == () and cut.train[-1].number == 4
    [note] = [note for note in cut.notes if note.key == "note.conversations_cut"]
    assert note.values == {"count": 1, "most": 4, "column": "conversation_id"}
    assert all("conversation_id" in note.text(lang) for lang in LANGUAGES)


def test_the_conversation_that_is_idle_for_longest_is_passed_on_first(tmp_path, monkeypatch):
    monkeypatch.setattr(bare_messages, "MAX_HELD", 4)
    rows = _read(tmp_path, _log(ids=(1, 2, 2, 1, 3, 3, 1, 1), texts=("q1", "q2", "a2", "a1", "q3", "a3", "q4", "a4")))
    assert [row.before for row in rows.train if row.output == "a4"] == [(("q1", "a1"),)]
    assert "note.conversations_cut" not in note_keys(rows)


def test_what_is_held_is_limited_in_characters_too(tmp_path, monkeypatch):
    monkeypatch.setattr(bare_messages, "MAX_HELD_CHARS", 40)
    long = "a" * 30
    rows = _read(tmp_path, _log(ids=(1, 1, 2, 2, 1, 1), texts=("q1", long, "q2", long, "q3", "a3")))
    assert pairs(rows) == [("q1", long), ("q2", long), ("q3", "a3")] and "note.conversations_cut" in note_keys(rows)
    one = _read(tmp_path, _log(ids=(1, 1, 1, 1), texts=("q1", long, "q3", long)))
    assert len({row.number for row in one.train}) == 1


def test_a_preview_holds_less_and_says_nothing_of_its_own_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(bare_messages, "MAX_HELD_STREAMED", 4)
    texts = ("q1", "a1", "q2", "a2", "q3", "a3", "q4", "a4")
    path = write_jsonl(tmp_path / "a.jsonl", _log(ids=(1, 1, 2, 2, 3, 3, 1, 1), texts=texts))
    seen, rows = preview(Data(source=str(path))), read_rows(path)
    assert len(seen.records) == 4 and "note.conversations_cut" not in [note.key for note in seen.notes]
    assert len({row.number for row in rows.train}) == 3


def test_a_preview_of_a_long_log_is_quick(tmp_path):
    chooser, path = random.Random(0), tmp_path / "a.jsonl"
    turns = ((n, role) for n in range(60_000) for role in ("user", "assistant"))
    lines = [json.dumps({"ticket_id": n, "role": role, "content": f"{role} {n}"}) + "\n" for n, role in turns]
    keyed = sorted((place // 2 + chooser.random() * 20_000, place) for place in range(len(lines)))
    path.write_text("".join(lines[place] for _, place in keyed))
    start = time.perf_counter()
    seen = preview(Data(source=str(path)))
    assert time.perf_counter() - start < 2.5 and len(seen.records) == 20


def test_a_broken_line_behind_a_log_leaves_what_was_read(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", _log() * 50)
    path.write_text(path.read_text() + "{broken\n" * 5)
    assert set(problem_keys(read_error(path))) == {"error.json"}
    assert preview(Data(source=str(path))).rows
