"""Columns and marks that change what a row means: honoured, or left out and said; never taught in silence."""

import json

import pytest
from data_files import messages, note_keys, pairs, problem_keys, read_error, read_rows, write_jsonl

from playground.data.row import Row
from playground.i18n import LANGUAGES, dropped_text


def _read(tmp_path, *records, **settings):
    return read_rows(write_jsonl(tmp_path / "a.jsonl", records), **settings)


def _note(rows, key):
    return next(note for note in rows.notes if note.key == key)


ASKED = {"role": "user", "content": "q"}
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"question": "q", "chosen": GOOD, "rejected": BAD},
        {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "q", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"messages": [ASKED], "chosen": GOOD, "rejected": BAD},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        {"prompt": "q", "messages": [ASKED, GOOD], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        {"prompt": "q", "chosen": json.dumps([ASKED, GOOD]), "rejected": json.dumps([ASKED, BAD])},
        {"instruction": "q", "input": "", "output": "x", "chosen": "good", "rejected": "bad"},
        {"質問": "q", "良い回答": "good", "悪い回答": "bad"},
    ],
)
def test_the_chosen_answer_is_taught_after_its_conversation_and_the_rejected_one_never(tmp_path, record):
    rows = _read(tmp_path, record, {**record, "id": 2}, drop_duplicates=False)
    assert pairs(rows) == [("q", "good")] * 2
    assert len(_note(rows, "note.rejected").values["columns"]) == 1


def test_earlier_answers_of_a_preference_pair_are_context(tmp_path):
    asked = messages("q1", "a1", "q2")
    rows = _read(tmp_path, {"chosen": [*asked, GOOD], "rejected": [*asked, BAD]})
    assert rows.train == [Row("q2", "good", before=(("q1", "a1"),))]


def test_a_chosen_answer_behind_another_answer_is_left_out(tmp_path):
    rows = _read(tmp_path, {"messages": [ASKED, BAD], "chosen": GOOD}, {"messages": [ASKED], "chosen": GOOD})
    assert pairs(rows) == [("q", "good")] and rows.where == {"answered": [1]}


def test_a_column_of_rejected_answers_alone_is_no_text(tmp_path):
    assert problem_keys(read_error(write_jsonl(tmp_path / "a.jsonl", [{"rejected": "bad"}]))) == ["error.columns"]


@pytest.mark.parametrize(
    "good,bad", [(True, False), (1, 0), ("good", "bad"), ("○", "×"), ("正解", "不正解"), (1.0, -1.0)]
)
@pytest.mark.parametrize("name", ["label", "score", "is_correct", "判定"])
def test_rows_that_are_judged_bad_are_left_out_and_counted(tmp_path, name, good, bad):
    records = [{"prompt": "q", "completion": "a", name: good}, {"prompt": "q2", "completion": "b", name: bad}]
    rows = _read(tmp_path, *records)
    assert pairs(rows) == [("q", "a")] and rows.where == {f"judged:{name}": [2]}
    assert all(name in dropped_text(lang, f"judged:{name}") for lang in LANGUAGES)
    assert len(_read(tmp_path, *records, columns="label=").train) == 2


def test_judged_conversations_are_left_out(tmp_path):
    rows = _read(tmp_path, {"messages": [ASKED, GOOD], "label": True}, {"messages": [ASKED, BAD], "label": False})
    assert pairs(rows) == [("q", "good")] and rows.dropped == {"judged:label": 1}


def test_a_label_whose_meaning_is_unknown_is_said(tmp_path):
    rows = _read(tmp_path, {"text": "great film", "label": 1}, {"text": "bad film", "label": 0})
    assert len(rows.train) == 2 and _note(rows, "note.label_unknown").values == {
        "column": "label",
        "values": ["1", "0"],
    }
    scored = [{"question": "q", "answer": "a", "score": 0.3}, {"question": "p", "answer": "b", "score": 4}]
    rows = _read(tmp_path, *scored)
    assert len(rows.train) == 2 and _note(rows, "note.label_unknown").values["column"] == "score"
    rows = _read(
        tmp_path, {"text": "great", "label": 1}, {"text": "bad", "label": 0}, columns="instruction=text,output=label"
    )
    assert pairs(rows) == [("great", "1"), ("bad", "0")] and "note.label_as_answer" in note_keys(rows)


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"loss": False}, {"train": False}, {"train": "false"}, {"mask": True}]
)
def test_answers_that_are_not_to_be_trained_on_are_context(tmp_path, mark):
    turns = messages("q1", "WRONG", "q2", "right")
    turns[1] |= mark
    rows = _read(tmp_path, {"messages": turns})
    assert rows.train == [Row("q2", "right", before=(("q1", "WRONG"),))] and rows.dropped == {"not_trained": 1}
    for turns in ([ASKED, BAD | mark, GOOD], [ASKED, GOOD, BAD | mark]):  # an answer in two messages
        path = write_jsonl(tmp_path / "b.jsonl", [{"messages": turns}])
        assert "error.nothing_left" in problem_keys(read_error(path))


@pytest.mark.parametrize(
    "history",
    [
        [["q1", "a1"], ["q2", "a2"]],
        messages("q1", "a1", "q2", "a2"),
        ["q1", "a1", "q2", "a2"],
        json.dumps([["q1", "a1"], ["q2", "a2"]]),
        [{"user": "q1", "assistant": "a1"}, {"user": "q2", "assistant": "a2"}],
    ],
)
def test_history_is_context_and_system_the_system_prompt(tmp_path, history):
    first = {"instruction": "q3", "input": "i", "output": "a3", "system": "s", "history": history}
    rows = _read(tmp_path, first, {"instruction": "q", "input": "", "output": "a", "system": "", "history": []})
    before = (("q1", "a1"), ("q2", "a2"))
    assert rows.train[-2:] == [Row("q3", "a3", "i", before=before, system="s"), Row("q", "a")]
    assert pairs(rows)[:2] == list(before)  # every answer of a conversation is a row


@pytest.mark.parametrize(
    "extra,best",
    [
        ({"output": ["good", "bad"]}, "good"),
        ({"output": ["bad", "good"], "scores": [0.1, 0.9]}, "good"),
        ({"output": [{"text": "bad", "rank": 2}, {"text": "good", "rank": 1}]}, "good"),
        ({"responses": ["good", "bad", "worse"]}, "good"),
    ],
)
def test_of_ranked_answers_the_best_is_taught(tmp_path, extra, best):
    rows = _read(tmp_path, {"instruction": "q"} | extra, {"instruction": "q2"} | extra)
    assert pairs(rows) == [("q", best), ("q2", best)]
    assert [note.values["count"] for note in rows.notes if note.key == "note.ranked"] == [2]


def test_tool_calls_are_left_out_and_later_answers_keep_the_turns_before_them(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "w"}}]}
    used = [ASKED, call, {"role": "tool", "content": "20"}, {"role": "assistant", "content": "20 degrees"}]
    rows = _read(tmp_path, {"messages": used})
    [row] = rows.train
    assert (
        (row.instruction, row.output) == ("20", "20 degrees") and row.before[0][0] == "q" and '"w"' in row.before[0][1]
    )
    assert rows.dropped == {"tool_calls": 1} and "note.tool_results" in note_keys(rows)
    shared = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "20"},
        {"from": "gpt", "value": "20 degrees"},
    ]
    assert pairs(_read(tmp_path, {"conversations": shared})) == [("20", "20 degrees")]
    parts = [
        ASKED,
        {"role": "assistant", "content": [{"type": "text", "text": "t"}, {"type": "tool_use", "name": "w"}]},
    ]
    rows = _read(tmp_path, {"messages": parts}, {"messages": [ASKED, GOOD]})
    assert pairs(rows) == [("q", "good")] and rows.dropped == {"tool_calls": 1}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, GOOD]},
        {
            "image": "a.jpg",
            "conversations": messages("<image>what?", "a cat", names=("from", "value"), roles=("human", "gpt")),
        },
        {"question": "what?", "answer": "a cat", "images": [{"bytes": "x"}]},
        {"messages": [{"role": "user", "content": [{"image": {"format": "png"}}, {"text": "what?"}]}, GOOD]},
    ],
)
def test_rows_about_pictures_are_left_out(tmp_path, record):
    error = read_error(write_jsonl(tmp_path / "a.jsonl", [record]))
    assert error.problems[0].values["dropped"] == {"images": 1}


@pytest.mark.parametrize(
    "beside",
    [
        {"reasoning_content": "add"},
        {"thinking": "add"},
        {"content": [{"type": "thinking", "thinking": "add"}, {"type": "text", "text": "2"}]},
    ],
)
def test_reasoning_beside_an_answer_is_said_not_taught(tmp_path, beside):
    rows = _read(tmp_path, {"messages": [ASKED, {"role": "assistant", "content": "2"} | beside]})
    assert pairs(rows) == [("q", "2")] and _note(rows, "note.reasoning").values == {"count": 1, "rows": [1]}


def test_weights_between_nothing_and_all_are_said(tmp_path):
    rows = _read(tmp_path, {"messages": [ASKED, GOOD | {"weight": 0.5}]}, {"messages": [ASKED, BAD | {"weight": 1}]})
    assert len(rows.train) == 2 and _note(rows, "note.weights").values == {"count": 1, "rows": [1]}


def test_parts_of_any_service_are_read(tmp_path):
    bedrock = {
        "system": [{"text": "s"}],
        "messages": [{"role": "user", "content": [{"text": "q"}]}, {"role": "assistant", "content": [{"text": "a"}]}],
    }
    gemini = {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}],
    }
    chatgpt = {
        "system": "s",
        "messages": [
            {"author": {"role": "user"}, "content": {"parts": ["q"]}},
            {"author": {"role": "assistant"}, "content": {"parts": ["a"]}},
        ],
    }
    for record in (bedrock, gemini, chatgpt):
        assert _read(tmp_path, record).train == [Row("q", "a", system="s")]


def test_one_line_says_which_columns_are_not_used(tmp_path):
    records = [{"id": n, "question": f"q{n}", "answer": "a", "source": "web" if n else None} for n in range(3)]
    rows = _read(tmp_path, *records)
    assert _note(rows, "note.columns_unused").values == {"columns": ["id (3)", "source (2)"], "count": 2}
    rows = _read(tmp_path, {"messages": [ASKED | {"name": "x"}, GOOD], "empty": None})
    assert _note(rows, "note.columns_unused").values["columns"] == ["messages.name (1)"]
    assert "note.columns_unused" not in note_keys(_read(tmp_path, {"question": "q", "answer": "a"}))
    assert "note.columns_unused" not in note_keys(read_rows("helpdesk.en"))


def test_answers_without_any_question_are_texts(tmp_path):
    rows = _read(tmp_path, {"messages": [GOOD]}, {"messages": [{"role": "assistant", "content": "I play"}]})
    assert pairs(rows) == [("", "good"), ("", "I play")] and "note.answers_only" in note_keys(rows)


def test_an_empty_system_prompt_is_kept_as_one(tmp_path):
    rows = _read(
        tmp_path, {"messages": [{"role": "system", "content": ""}, ASKED, GOOD]}, {"messages": messages("p", "a")}
    )
    assert [(row.system, row.empty_system) for row in rows.train] == [("", True), ("", False)]


def test_a_very_long_conversation_keeps_the_turns_before_each_answer_within_bounds(tmp_path):
    rows = _read(tmp_path, {"messages": messages(*map(str, range(800)))})
    assert len(rows.train) == 400 and max(len(row.before) for row in rows.train) == 256
    assert rows.train[-1].before[-1] == ("796", "797") and "note.long_conversation" in note_keys(rows)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["good"], "answer_start": [3]},
        [{"model": "m", "response": "bad", "overall_score": 2.0}, {"response": "good", "overall_score": 9.0}],
    ],
)
def test_the_answer_within_objects_is_taught_not_their_json(tmp_path, answers):
    rows = _read(tmp_path, {"question": "q", "answers": answers})
    assert pairs(rows) == [("q", "good")] and "note.nested" not in note_keys(rows)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": [], "answer_start": []},
        {"text": [None], "is_impossible": True},
        {"text": None, "answer_start": []},
        {"text": "", "answer_start": [-1]},
        {"text": [" "]},
        *([], {}, [None], [""], ["", None], [[]], [{}], [" \u200b"]),
    ],
)
def test_an_answer_in_which_nothing_is_said_is_no_answer(tmp_path, answers):
    rows = _read(tmp_path, {"question": "q1", "answers": answers}, {"question": "q2", "answers": ["a"]})
    assert pairs(rows) == [("q2", "a")] and rows.dropped == {"empty": 1} and rows.where["empty"] == [1]
    assert "note.nested" not in note_keys(rows)


@pytest.mark.parametrize(
    "answers,taught",
    [
        ([None, "good"], "good"),
        (["", "good", "bad"], "good"),
        ({"text": [None, "good"], "answer_start": [None, 3]}, "good"),
        ({"text": ["", "good"]}, "good"),
        ("[]", "[]"),  # texts, as of code, are taught as they are
        ("{}", "{}"),
        ({"name": None, "age": []}, '{"name": null, "age": []}'),  # what is extracted, as JSON
        ([None, 1, 2], "[null, 1, 2]"),
    ],
)
def test_an_answer_after_one_that_says_nothing_is_taught(tmp_path, answers, taught):
    assert pairs(_read(tmp_path, {"question": "q", "answers": answers})) == [("q", taught)]


def test_scores_stay_with_their_answers_where_one_says_nothing(tmp_path):
    rows = _read(tmp_path, {"prompt": "p", "responses": [None, "bad", "good"], "scores": [9, 1, 2]})
    assert pairs(rows) == [("p", "good")]


@pytest.mark.parametrize("value", [[], {}, [None], [[], {}], [""]])
def test_an_input_in_which_nothing_is_said_is_empty(tmp_path, value):
    rows = _read(tmp_path, {"instruction": "i", "input": value, "output": "o"})
    assert rows.train == [Row("i", "o")]


@pytest.mark.parametrize("name", ["reward", "rewards", "scores", "ratings"])
def test_a_score_of_one_answer_is_named_and_changes_nothing(tmp_path, name):
    rows = _read(tmp_path, {"prompt": "p", "response": "good", name: 0.9}, {"prompt": "p", "response": "bad", name: -3})
    assert len(rows.train) == 2 and _note(rows, "note.columns_unused").values["columns"] == [f"{name} (2)"]
    assert _note(rows, "note.label_unknown").values == {"column": name, "values": ["0.9", "-3"]}
    rows = _read(tmp_path, {"prompt": "p", "responses": ["bad", "good"], name: [-3, 0.9]})
    assert pairs(rows) == [("p", "good")] and "note.columns_unused" not in note_keys(rows)


def test_strings_of_a_right_answer_are_read_as_a_list_alone(tmp_path):
    asked = {"question": "q", "answer": "a"}
    assert _read(tmp_path, asked | {"key": ["a"]}).notes == _read(tmp_path, asked).notes
    assert _note(_read(tmp_path, asked | {"key": "k1"}), "note.columns_unused").values["columns"] == ["key (1)"]


def test_an_answer_that_is_the_number_of_a_choice_is_said(tmp_path):
    rows = _read(tmp_path, {"question": "q", "choices": ["x", "y"], "answer": 1})
    assert _note(rows, "note.label_as_answer").values == {"column": "answer", "values": ["1"]}
    assert "note.label_as_answer" not in note_keys(_read(tmp_path, {"question": "3 + 4?", "answer": 7}))


def test_a_set_of_questions_alone_is_said(tmp_path):
    assert _note(_read(tmp_path, {"prompt": "Why?"}), "note.only_questions").values == {"column": "prompt"}
    assert "note.only_questions" not in note_keys(_read(tmp_path, {"text": "Because."}))
