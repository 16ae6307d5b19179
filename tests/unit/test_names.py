"""Roles and headers are known by their names in the field, in English and Japanese, whatever their case and width."""

import pytest
from data_files import pairs, read_rows, write_jsonl

from playground.data.row import Row
from playground.i18n import LANGUAGES

ASKED, GOOD = {"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}


def _read(tmp_path, *records):
    return read_rows(write_jsonl(tmp_path / "a.jsonl", records))


def _note(rows, key):
    return next(note for note in rows.notes if note.key == key)


@pytest.mark.parametrize(
    "user,assistant",
    [
        ("User", "Chatbot"),
        ("human", "bot"),
        ("ユーザー", "アシスタント"),
        ("Ｑ", "Ａ"),
        ("質問", "回答"),
        ("問い", "答え"),
        ("HUMAN ", "Model"),
        ("Prompter", "GPT"),
    ],
)
@pytest.mark.parametrize("names", [("role", "content"), ("from", "value"), ("speaker", "text"), ("話者", "発言")])
def test_roles_are_known_by_their_names_in_the_field(tmp_path, user, assistant, names):
    turns = [dict(zip(names, pair)) for pair in (("System", "s"), (user, "q"), (assistant, "a"))]
    assert _read(tmp_path, {"messages": turns}).train == [Row("q", "a", system="s")]


def test_a_narrator_speaks_as_the_system_and_an_unknown_role_is_named(tmp_path):
    narrated = [{"role": "narrator", "content": "It rains."}, ASKED, GOOD]
    rows = _read(tmp_path, {"messages": narrated}, {"messages": [{"role": "Zarathustra", "content": "x"}, ASKED, GOOD]})
    assert rows.train == [Row("q", "good", system="It rains.")] and rows.dropped == {"role:Zarathustra": 1}
    assert all("Zarathustra" in _note(rows, "note.dropped").text(lang) for lang in LANGUAGES)


def test_a_set_of_many_unknown_roles_keeps_the_list_of_reasons_short(tmp_path):
    records = [{"messages": [{"role": f"someone {n}", "content": "x"}, ASKED, GOOD]} for n in range(100)]
    rows = _read(tmp_path, {"messages": [ASKED, GOOD]}, *records)
    assert len(rows.dropped) <= 41 and sum(rows.dropped.values()) == 100


@pytest.mark.parametrize(
    "question,answer",
    [
        ("質問", "回答"),
        ("問い", "答え"),
        ("Ｑ", "Ａ"),
        ("入力文", "出力文"),
        ("ユーザー", "アシスタント"),
        ("User Message", "Bot-Response"),
        ("【質問】", "回答："),
        ("ＱＵＥＳＴＩＯＮ", "Ａｎｓｗｅｒ"),
        ("human", "model_output"),
    ],
)
def test_headers_are_known_by_their_names_in_the_field(tmp_path, question, answer):
    assert pairs(_read(tmp_path, {question: "q", answer: "a"})) == [("q", "a")]
    assert pairs(_read(tmp_path, {"指示": "q", "入力": "i", "出力": "a"})) == [("q", "a")]


def test_empty_twins_of_keys_are_skipped(tmp_path):
    twins = {"role": None, "content": None}
    turns = [{"from": "human", "value": "q"} | twins, {"from": "gpt", "value": "a"} | twins]
    assert pairs(_read(tmp_path, {"conversations": turns})) == [("q", "a")]
    empty = {"from": "", "value": ""}
    assert pairs(_read(tmp_path, {"conversations": [ASKED | empty, GOOD | empty]})) == [("q", "good")]
