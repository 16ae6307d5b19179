"""Slice, sample, filter, deduplicate and hold out rows, and count what is dropped by reason."""

import json
import re
import threading

import pytest
from data_files import problem_keys, read_error, read_rows, write_jsonl
from toys import PROJECT

from playground.background import Stopped, run_in_background
from playground.data import selection
from playground.data.source import Row, preview, read
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES
from playground.settings import Data, Settings, problems

DOLLY = PROJECT.parent / "shared" / "data" / "databricks-dolly-15k-ja.jsonl"
QUESTIONS = [{"instruction": f"Q{n}", "input": "", "output": f"A{n}"} for n in range(1, 21)]
ROWS = [
    {"instruction": f"Q{n}", "input": "", "output": f"A{n}" * n, "category": "even" if n % 2 == 0 else "odd"}
    for n in range(1, 21)
]


def _write(tmp_path, records) -> str:
    return str(write_jsonl(tmp_path / "a.jsonl", records))


def _read(tmp_path, records, **values):
    return read_rows(_write(tmp_path, records), **values)


def _error(tmp_path, records, **values) -> PlaygroundError:
    return read_error(_write(tmp_path, records), **values)


def _numbers(rows) -> list[int]:
    return [row.number for row in rows]


def test_a_slice_counts_from_one_and_includes_both_ends(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", QUESTIONS)
    rows = read_rows(path, start_row=3, end_row=5)
    assert [r.instruction for r in rows.train] == ["Q3", "Q4", "Q5"] and rows.total == 20
    assert [r.instruction for r in read_rows(path, start_row=20, end_row=20).train] == ["Q20"]
    assert len(read_rows(path, start_row=19, end_row=400).train) == 2


def test_a_slice_behind_the_end_is_reported_with_the_number_of_rows(tmp_path):
    error = read_error(write_jsonl(tmp_path / "a.jsonl", QUESTIONS), start_row=21)
    assert problem_keys(error) == ["error.empty_slice"] and "20 rows" in str(error)


def test_one_row_cannot_be_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", QUESTIONS)
    assert problem_keys(read_error(path, start_row=4, end_row=4, held_out=0.1)) == ["error.too_few"]
    assert len(read_rows(path, start_row=4, end_row=4).train) == 1


@pytest.mark.parametrize("share,apart", [(0.01, 1), (0.1, 2), (0.5, 10)])
def test_a_split_is_complete_disjoint_and_repeats_with_its_seed(tmp_path, share, apart):
    path = write_jsonl(tmp_path / "a.jsonl", QUESTIONS)
    rows = read_rows(path, held_out=share, seed=1)
    assert len(rows.held_out) == apart
    assert sorted(r.instruction for r in rows.train + rows.held_out) == sorted(r["instruction"] for r in QUESTIONS)
    assert read_rows(path, held_out=share, seed=1) == rows
    assert share < 0.1 or read_rows(path, held_out=share, seed=2) != rows


def test_rows_with_the_same_question_stay_on_one_side(tmp_path):
    rows = [{"instruction": f"Q{n % 6}", "output": f"A{n}"} for n in range(60)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    for seed in range(8):
        found = read_rows(path, held_out=0.3, seed=seed)
        assert found.held_out and len(found.train) + len(found.held_out) == 60
        assert not {r.instruction for r in found.train} & {r.instruction for r in found.held_out}
    assert problem_keys(read_error(write_jsonl(tmp_path / "same.jsonl", [QUESTIONS[0]] * 9), held_out=0.3)) == [
        "error.too_few"
    ]


SAME = ["What's A?", "what's a? ", "WHAT'S  A?", "What's\u00a0A?", "\uff37hat's A\uff1f", "What\u200b's A?"]


def test_questions_that_differ_in_case_blanks_or_width_alone_stay_on_one_side(tmp_path):
    asked = [*SAME, *(f"Q{n}" for n in range(4))]
    path = write_jsonl(tmp_path / "a.jsonl", [{"instruction": text, "output": "o"} for text in asked])
    for seed in range(8):
        found = read_rows(path, held_out=0.5, seed=seed)
        sides = [[row.instruction for row in side] for side in (found.train, found.held_out)]
        assert sorted(len(set(side) & set(SAME)) for side in sides) == [0, len(SAME)]
        assert sorted(sides[0] + sides[1]) == sorted(asked)  # as they were written
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in ("One  text", "one text", "two")])
    assert {len(read_rows(texts, held_out=0.5, seed=seed).held_out) for seed in range(8)} == {1, 2}
    same = write_jsonl(tmp_path / "same.jsonl", [{"text": text} for text in SAME])
    assert problem_keys(read_error(same, held_out=0.5)) == ["error.too_few"]


def test_a_sets_own_held_out_rows_that_are_taught_in_another_case_are_dropped(tmp_path):
    records = [{"instruction": "What's A?", "output": "o"}, {"instruction": "b", "output": "o"}]
    records += [{"split": "held-out", "instruction": text, "output": "o"} for text in ("WHAT'S A? ", "c")]
    found = read_rows(write_jsonl(tmp_path / "a.jsonl", records))
    assert [row.instruction for row in found.held_out] == ["c"] and found.dropped == {"taught": 1}


def test_a_sample_is_drawn_from_the_slice_without_repeats(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", QUESTIONS)
    drawn = [r.instruction for r in read_rows(path, start_row=6, end_row=15, sample=5).train]
    assert len(set(drawn)) == 5 and set(drawn) <= {f"Q{n}" for n in range(6, 16)}
    assert problem_keys(read_error(path, start_row=6, end_row=15, sample=11)) == ["error.sample"]


@pytest.mark.skipif(not DOLLY.is_file(), reason="databricks-dolly-15k-ja.jsonl is not in ../shared/data")
def test_a_real_set_of_fifteen_thousand_rows_is_read():
    rows = read(Data(source=str(DOLLY), start_row=1, end_row=1000, held_out=0.1))
    assert rows.total == 15015 and len(rows.train) + len(rows.held_out) == 1000
    assert any(r.input for r in rows.train) and all(r.output.strip() for r in rows.train)


@pytest.mark.parametrize(
    "values,kept,dropped",
    [
        ({"category": "even"}, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20], {"category": 10}),
        ({"contains": "a7"}, [7], {"contains": 19}),
        ({"contains": "q2"}, [2, 20], {"contains": 18}),
        ({"min_chars": 44}, list(range(14, 21)), {"shortest": 13}),
        ({"max_chars": 8}, [1, 2, 3], {"longest": 17}),
        ({"min_chars": 4, "max_chars": 4}, [1], {"shortest": 0, "longest": 19}),
        ({"category": "odd", "max_chars": 20, "start_row": 3}, [3, 5, 7, 9], {"category": 9, "longest": 5}),
    ],
)
def test_filters_keep_matching_rows_and_count_the_rest_by_reason(tmp_path, values, kept, dropped):
    rows = _read(tmp_path, ROWS, **values)
    assert _numbers(rows.train) == kept and rows.total == 20
    assert rows.dropped == {reason: count for reason, count in dropped.items() if count}
    assert sum(rows.dropped.values()) + len(kept) == 21 - values.get("start_row", 1)
    assert all(f"{count}" in rows.notes[-1].text(lang) for lang in ("en", "ja") for count in rows.dropped.values())


def test_a_sample_is_drawn_from_the_filtered_rows(tmp_path):
    drawn = _read(tmp_path, ROWS, category="even", sample=4, seed=3)
    assert len(drawn.train) == 4 and all(n % 2 == 0 for n in _numbers(drawn.train))
    assert problem_keys(_error(tmp_path, ROWS, category="even", sample=11)) == ["error.sample"]


def test_the_first_of_duplicate_rows_is_kept(tmp_path):
    records = [ROWS[0], ROWS[1], {**ROWS[0], "category": "another"}, {**ROWS[0], "input": "x"}, ROWS[0]]
    rows = _read(tmp_path, records)
    assert (
        _numbers(rows.train) == [1, 2, 4] and rows.dropped == {"duplicate": 2} and rows.where == {"duplicate": [3, 5]}
    )
    assert _numbers(_read(tmp_path, records, drop_duplicates=False).train) == [1, 2, 3, 4, 5]
    rows = _read(tmp_path, records, drop_duplicates=False, held_out=0.3)
    assert (
        not {r.instruction + r.input for r in rows.train} & {r.instruction + r.input for r in rows.held_out}
        and len(rows.train + rows.held_out) == 5
    )


def test_citation_marks_are_removed_from_all_texts(tmp_path):
    messages = [
        {"role": "user", "content": "who[1]?"},
        {"role": "assistant", "content": "he [2]."},
        {"role": "user", "content": "when"},
        {"role": "assistant", "content": "then"},
    ]
    records = [
        {"instruction": "q[12]", "input": "a [3], b[4][5]。", "output": "x [a] [要出典] y[1994]"},
        {"instruction": "q [1]", "input": "", "output": "[x]"},
    ]
    rows = _read(tmp_path, records, strip_citations=True)
    assert rows.train == [Row("q", "x [a] [要出典] y", "a, b。"), Row("q", "[x]")]
    assert rows.notes[-1].key == "note.marks" and (rows.notes[-1].values["count"], rows.notes[-1].values["asked"]) == (
        1,
        1,
    )
    assert _read(tmp_path, [{"messages": messages}], strip_citations=True).train == [
        Row("who?", "he."),
        Row("when", "then", before=(("who?", "he."),)),
    ]
    assert _read(tmp_path, records).train[0].input == "a [3], b[4][5]。"


def test_rows_of_invisible_characters_are_empty(tmp_path):
    records = [
        ROWS[0],
        {"instruction": "q", "output": "\u200b\ufeff\u202e \n"},
        {"instruction": "\u2060", "output": "a"},
        {"instruction": "e", "output": "👩\u200d💻"},
    ]
    rows = _read(tmp_path, records)
    assert (
        _numbers(rows.train) == [1, 4]
        and rows.where["empty"] == [2, 3]
        and [n.key for n in rows.notes] == ["note.dropped"]
    )


def test_a_slice_without_remaining_rows_reports_why(tmp_path):
    error = _error(tmp_path, [*ROWS, {"instruction": "", "output": ""}], contains="nowhere", category="even")
    assert problem_keys(error) == ["error.nothing_left", "error.category"]
    assert (
        "21" in str(error)
        and "other categories 10" in str(error)
        and "without the text 10" in str(error)
        and "odd, even" in str(error)
    )
    assert problem_keys(_error(tmp_path, [{"instruction": "q", "output": "a"}], category="x")) == [
        "error.nothing_left",
        "error.no_category",
    ]
    assert problem_keys(_error(tmp_path, [{"instruction": "", "output": ""}] * 3)) == ["error.nothing_left"]
    seen = preview(Data(source=_write(tmp_path, ROWS), contains="nowhere"))
    assert (
        len(seen.records) == 20
        and seen.rows == []
        and [p.key for p in seen.problems] == ["error.nothing_left"]
        and seen.categories == ["odd", "even"]
    )


def test_a_set_of_one_row(tmp_path):
    assert len(_read(tmp_path, ROWS[:1]).train) == 1
    assert problem_keys(_error(tmp_path, ROWS[:1], held_out=0.1)) == ["error.too_few"]


def test_a_sets_own_held_out_rows_are_filtered_and_never_trained_on(tmp_path):
    records = [
        *ROWS,
        *({**ROWS[n], "split": "held-out", "output": "other"} for n in (1, 2)),
        {"split": "held-out", "instruction": "new", "output": "o", "category": "even"},
    ]
    rows = _read(tmp_path, records, category="even", held_out=0.1)
    assert [r.instruction for r in rows.held_out] == ["new"] and len(rows.train) == 10 and rows.total == 23
    assert rows.dropped == {"category": 11, "taught": 1} and rows.where["taught"] == [21]


@pytest.mark.parametrize("column", ["split", "Split", "set", "データ分割"])
@pytest.mark.parametrize(
    "value", ["test", "Valid", "validation", "VAL", "dev", "eval", "held_out", "held-out", "検証", "テスト", "評価用"]
)
def test_rows_that_a_set_holds_out_are_not_trained_on_and_said(tmp_path, column, value):
    records = [{**row, column: "train"} for row in ROWS]
    records += [{"instruction": f"new {n}", "output": "o", column: value} for n in range(2)]
    rows = _read(tmp_path, records, held_out=0.25)
    assert [r.instruction for r in rows.held_out] == ["new 0", "new 1"] and len(rows.train) == len(ROWS)
    [note] = [note for note in rows.notes if note.key == "note.own_held_out"]
    assert note.values == {"count": 2, "column": [column], "values": [value]}
    assert all(column in note.text(lang) for lang in LANGUAGES)
    assert column not in rows.unused_columns


def test_a_split_that_is_unknown_is_named_as_unused(tmp_path):
    rows = _read(tmp_path, [{**row, "split": "fold 3"} for row in ROWS])
    assert len(rows.train) == len(ROWS) and rows.unused_columns == ("split",)
    assert "note.own_held_out" not in [note.key for note in rows.notes]


def test_a_set_of_test_rows_alone_is_trained_on(tmp_path):
    records = [{**row, "split": "test"} for row in ROWS]
    for held_out in (0.0, 0.25):
        rows = _read(tmp_path, records, held_out=held_out)
        assert len(rows.train) + len(rows.held_out) == len(ROWS) and bool(rows.held_out) == bool(held_out)
        assert rows.outside == 0 and rows.total == len(ROWS)
        assert [note.values for note in rows.notes if note.key == "note.own_held_out_used"] == [
            {"count": len(ROWS), "column": ["split"], "values": ["test"]}
        ]
    assert problem_keys(_error(tmp_path, records, end_row=5)) == ["error.all_held_out"]
    seen = preview(Data(source=_write(tmp_path, records)))
    assert len(seen.rows) == min(20, len(ROWS)) and not seen.problems


def test_texts_alone_are_held_out_by_their_content(tmp_path):
    rows = _read(tmp_path, [{"text": f"t{n % 10}"} for n in range(40)], held_out=0.2, drop_duplicates=False)
    assert len(rows.held_out) == 8 and not {r.output for r in rows.train} & {r.output for r in rows.held_out}


def test_a_slice_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "MAX_ROWS", 10)
    error = _error(tmp_path, ROWS)
    assert problem_keys(error) == ["error.large_slice"] and len(_read(tmp_path, ROWS, end_row=10).train) == 10
    monkeypatch.setattr(selection, "MAX_CHARS", 30)
    assert problem_keys(_error(tmp_path, ROWS, end_row=10)) == ["error.large_slice"]


def test_contradicting_bounds_are_reported_before_reading():
    assert [p.key for p in problems(Settings(data=Data(min_chars=5, max_chars=4)))] == ["problem.max_chars"]
    assert problems(Settings(data=Data(min_chars=5, max_chars=0))) == []


def test_reading_reports_progress_and_can_be_stopped(tmp_path):
    path, heard = _write(tmp_path, ROWS * 100), []
    read(Data(source=path), lambda *progress: heard.append(progress))
    assert len(heard) > 10 and heard == sorted(heard) and heard[-1] == (heard[-1][1], heard[-1][1], "bytes")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(run_in_background(lambda on_progress: read(Data(source=path), on_progress), stop))


def test_a_preview_reads_no_further_than_it_needs(tmp_path):
    path = _write(tmp_path, ROWS * 5000)
    with open(path, "a") as file:
        file.write("broken\n")
    seen = preview(Data(source=path, start_row=5), rows=4)
    assert (
        seen.numbers == [5, 6, 7, 8] == _numbers(seen.rows)
        and seen.total is None
        and not seen.whole
        and seen.problems == []
    )
    assert preview(Data(source=_write(tmp_path, ROWS))).total == 20


@pytest.mark.skipif(not DOLLY.is_file(), reason="databricks-dolly-15k-ja.jsonl is not in ../shared/data")
def test_rows_of_the_talks_data_set_are_counted():
    rows = read(Data(source=str(DOLLY), strip_citations=True))
    assert rows.total == 15015 and rows.dropped == {"duplicate": 12} and len(rows.train) + len(rows.held_out) == 15003
    marks = next(n for n in rows.notes if n.key == "note.marks")
    assert (marks.values["count"], marks.values["asked"]) == (2571, 5)
    assert not any(
        re.search(r"\[[0-9]+\]", t) for r in rows.train + rows.held_out for t in (r.instruction, r.input, r.output)
    )
    assert not {(r.instruction, r.input) for r in rows.train} & {(r.instruction, r.input) for r in rows.held_out}
    assert max(len(r.instruction) + len(r.input) + len(r.output) for r in rows.train + rows.held_out) > 10_000
    taken = read(Data(source=str(DOLLY), category="summarization", contains="東京", held_out=0))
    raw = [json.loads(line) for line in DOLLY.read_text(encoding="utf-8").splitlines()]
    wanted = [
        n
        for n, r in enumerate(raw, 1)
        if r["category"] == "summarization" and "東京" in r["instruction"] + "\0" + r["input"] + "\0" + r["output"]
    ]
    assert _numbers(taken.train) == wanted and taken.dropped["category"] == sum(
        r["category"] != "summarization" for r in raw
    )
