"""Two answers and a column that names the better one."""

import pytest
from data_files import messages, pairs, read_rows, write_jsonl


def _read(tmp_path, *records):
    return read_rows(write_jsonl(tmp_path / "a.jsonl", records))


@pytest.mark.parametrize(
    "good_first,bad_first",
    [
        ({"response_a": "good", "response_b": "bad", "winner": "model_a"}, {"winner": "b"}),
        ({"response_0": "bad", "response_1": "good", "better_response_id": 1}, {"better_response_id": "0"}),
        ({"answer1": "good", "answer2": "bad", "preference": 1.0}, {"preference": "answer2"}),
        (
            {"output_A": "bad", "output_B": "good", "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
            {"winner_model_a": "True", "winner_model_b": "False"},
        ),
    ],
)
def test_the_better_answer_is_taught_and_the_other_never(tmp_path, good_first, bad_first):
    first = {"prompt": "q", **good_first}
    second = {name: {"good": "bad", "bad": "good"}.get(value, value) for name, value in first.items()} | bad_first
    rows = _read(tmp_path, first, second | {"prompt": "q2"})
    assert pairs(rows) == [("q", "good"), ("q2", "good")]
    assert {"note.compared", "note.rejected"} <= {note.key for note in rows.notes}


@pytest.mark.parametrize("tie", ["tie", "tie (bothbad)", "", None, "somebody"])
def test_a_pair_without_a_better_answer_is_left_out(tmp_path, tie):
    good, bad = messages("q", "good"), messages("q", "bad")
    decided = {"conversation_a": bad, "conversation_b": good, "winner": "model_b"}
    rows = _read(tmp_path, decided | {"winner": tie}, decided)
    assert pairs(rows) == [("q", "good")] and rows.dropped == {"undecided": 1} and rows.where["undecided"] == [1]


def test_one_answer_in_several_columns_without_a_winner_is_no_pair(tmp_path):
    rows = _read(tmp_path, {"question": "q", "answer": "x", "answer_1": "y", "answer_2": "z"})
    assert pairs(rows) == [("q", "x")] and "note.compared" not in [note.key for note in rows.notes]
