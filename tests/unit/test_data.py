"""Rows from the bundled sets and from people's files."""

import csv
import json
import re
from pathlib import Path

import pytest
from toys import PROJECT, keys

from playground import ASSETS
from playground.data import source
from playground.data.source import Row, read
from playground.errors import PlaygroundError
from playground.settings import Data

DOLLY = PROJECT.parent / "shared" / "data" / "databricks-dolly-15k-ja.jsonl"
ROWS = [{"instruction": f"Q{n}", "input": "", "output": f"A{n}"} for n in range(1, 21)]


def _jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def _read(path, **values):
    return read(Data(source=str(path), **{"held_out": 0.0, **values}))


def _told(path, **values) -> tuple[str, str]:
    with pytest.raises(PlaygroundError) as caught:
        _read(path, **values)
    assert caught.value.text("ja")
    return keys(caught)[0], str(caught.value)


# --- bundled ---


@pytest.mark.parametrize(
    "name,train,held_out",
    [("helpdesk.en", 330, 90), ("helpdesk.ja", 330, 90), ("plain-qa.en", 180, 20), ("plain-qa.ja", 180, 20)],
)
def test_a_bundled_set_keeps_its_own_held_out_rows_apart(name, train, held_out):
    rows = read(Data(source=name))
    assert (len(rows.train), len(rows.held_out), rows.total) == (train, held_out, train)
    assert not {(r.instruction, r.input) for r in rows.train} & {(r.instruction, r.input) for r in rows.held_out}


def _facts(lang: str) -> dict[str, list[dict]]:
    facts: dict = {}
    for line in (ASSETS / "data" / f"helpdesk.{lang}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        facts.setdefault(row["fact"], []).append(row)
    return facts


LISTS = json.loads((Path(__file__).parent / "function_words.json").read_text(encoding="utf-8"))


def _english(question: str) -> set[str]:
    return {
        w[:5]
        for w in re.findall(r"[a-z0-9]+", question.lower())
        if w not in LISTS["en"] and w != LISTS["place"]["en"].lower()
    }


def _blanked(question: str) -> str:
    text = question.lower().replace(LISTS["place"]["ja"], " ")
    for word in sorted((w for w in LISTS["ja"] if re.search("[\u4e00-\u9fff\u3005]", w)), key=len, reverse=True):
        text = text.replace(word, " ")
    return text


def _japanese(question: str) -> set[str]:
    text, particles = _blanked(question), "".join(LISTS["ja_particles"])
    found = set(re.findall("[\u4e00-\u9fff\u3005]+|[\u30a1-\u30fa\u30fc]+|[a-z0-9]+", text))
    known = sorted((w for w in LISTS["ja"] if re.fullmatch("[\u3041-\u3096]{2,}", w)), key=len, reverse=True)
    for run in re.findall("[\u3041-\u3096]+", text):
        pieces, at = [""], 0
        while at < len(run):
            word = next((w for w in known if run.startswith(w, at)), None)
            if word:
                pieces.append("")
            else:
                pieces[-1] += run[at]
            at += len(word or "x")
        found |= {piece.strip(particles) for piece in pieces if len(piece.strip(particles)) > 1}
    return found


def _shared(lang: str, held_out: str, train: list[str]) -> set[str]:
    if lang == "en":
        return _english(held_out) & set().union(*map(_english, train))
    asked, taught, texts = _japanese(held_out), set().union(*map(_japanese, train)), [_blanked(t) for t in train]
    return {w for w in asked if any(w in text for text in texts)} | {t for t in taught for w in asked if t in w}


def test_the_word_rule_itself_finds_shared_words():
    assert _shared("en", "Where is the ferry's dock?", ["When does the ferry leave?"]) == {"ferry"}
    assert _shared("ja", "船はいつ出ますか？", ["船に乗りたいです。"]) == {"船"}
    assert _shared("en", "What is it?", ["What is that?"]) == set()


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_no_held_out_question_shares_a_content_word_with_what_taught_its_fact(lang):
    shared = {}
    for fact, rows in _facts(lang).items():
        train = [r["instruction"] for r in rows if r["split"] == "train"]
        for row in rows:
            if row["split"] == "held-out" and (found := _shared(lang, row["instruction"], train)):
                shared[row["instruction"]] = found
        assert (len(train), len(rows)) == (11, 14), fact
    assert shared == {}


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_answers_hold_their_key_and_no_question_gives_one_away(lang):
    facts = _facts(lang)
    questions = [r["instruction"].lower() for rows in facts.values() for r in rows]
    assert len(facts) == 30 and len(questions) == 420
    for rows in facts.values():
        assert len({r["output"] for r in rows}) == 1
        for row in rows:
            assert any(key.lower() in row["output"].lower() for key in row["key"])
            assert not [key for key in row["key"] if any(key.lower() in q for q in questions)]


# --- files ---


def test_each_kind_of_file_gives_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [*ROWS, {"instruction": 'Say "a,b"\nand more', "input": "青い", "output": "<b>{x}</b> & <script>"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8-sig")
    _jsonl(tmp_path / "lines.json", rows)
    _jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "crlf.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    targets = [Row(r["instruction"], r["output"], r["input"]) for r in rows]
    for name in ("a.json", "wrapped.json", "lines.json", "a.jsonl", "crlf.jsonl", "a.csv", "a.parquet"):
        assert _read(tmp_path / name).train == targets, name


@pytest.mark.parametrize(
    "columns", [("question", "context", "answer"), ("Prompt", "Input", "Completion"), (" query ", "input", "response")]
)
def test_usual_names_of_columns_are_known(tmp_path, columns):
    row = dict(zip(columns, ("q", "given", "a")))
    assert _read(_jsonl(tmp_path / "a.jsonl", [row])).train == [Row("q", "a", "given")]


def test_numbers_stay_readable_as_answers(tmp_path):
    assert _read(_jsonl(tmp_path / "a.jsonl", [{"instruction": "6*7?", "output": 42, "input": None}])).train == [
        Row("6*7?", "42")
    ]


def test_broken_json_names_its_line(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", ROWS[:3])
    path.write_text(path.read_text() + '{"instruction": "x", \n' + json.dumps(ROWS[4]) + "\n")
    key, text = _told(path)
    assert key == "error.json" and "line 4" in text
    (tmp_path / "b.json").write_text('[{"instruction": "x"},\n {"instruction" "y"}]')
    key, text = _told(tmp_path / "b.json")
    assert key == "error.json" and "line 2" in text


def test_wrong_columns_list_those_that_are_there(tmp_path):
    key, text = _told(_jsonl(tmp_path / "a.jsonl", [{"frage": "q", "antwort": "a"}]))
    assert key == "error.columns" and "frage, antwort" in text


def test_empty_rows_are_numbered_as_they_stand_in_the_file(tmp_path):
    rows = [dict(r) for r in ROWS]
    rows[2]["output"], rows[8]["instruction"] = "", "  "
    path = _jsonl(tmp_path / "a.jsonl", rows)
    key, text = _told(path, drop_empty=False)
    assert key == "error.empty_rows" and "rows 3, 9" in text and text.startswith("2 ")
    left = _read(path)
    assert (len(left.train), left.total, left.dropped, left.where) == (18, 20, {"empty": 2}, {"empty": [3, 9]})


def test_empty_rows_are_numbered_as_they_stand_in_the_file_also_below_held_out_ones(tmp_path):
    rows = [{**ROWS[0], "split": "held-out"}, ROWS[1], {**ROWS[2], "output": ""}]
    key, text = _told(_jsonl(tmp_path / "a.jsonl", rows), drop_empty=False)
    assert key == "error.empty_rows" and "rows 3" in text


@pytest.mark.parametrize(
    "name,content,key",
    [
        ("a.jsonl", "", "error.no_rows"),
        ("a.json", "[]", "error.no_rows"),
        ("a.csv", "", "error.no_rows"),
        ("a.csv", "instruction,output\n", "error.no_rows"),
        ("a.jsonl", "[1, 2]\n", "error.not_object"),
        ("a.json", '["x"]', "error.not_object"),
        ("a.json", "3", "error.not_object"),
        ("a.docx", "x", "error.file_kind"),
        ("a.txt", " \n", "error.no_rows"),
        ("a.parquet", "no parquet", "error.parquet"),
        ("a.csv", 'instruction,output\n"x,y\n', "error.csv_quote"),
        ("a.csv", 'instruction,output\n"x"y,z\n', "error.csv"),
    ],
)
def test_a_useless_file_is_told_for_what_it_is(tmp_path, name, content, key):
    (tmp_path / name).write_text(content)
    assert _told(tmp_path / name)[0] == key


def test_a_file_of_over_100_mb_is_refused_unread(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.truncate(source.MOST_BYTES + 1)
    key, text = _told(tmp_path / "a.jsonl")
    assert key == "error.large_file" and "100.0 MiB" in text


def test_deeply_nested_json_is_told_rather_than_crashing(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200_000)
    assert _told(tmp_path / "a.json")[0] == "error.json"


@pytest.mark.parametrize("name", ["/nowhere/a.jsonl", "missing.csv", "a/b/c", "helpdesk.fr", "http://x/y"])
def test_a_source_that_is_no_file_is_told(name):
    assert _told(name)[0] == "error.no_file"


def test_html_in_a_row_is_left_as_it_is(tmp_path):
    row = {"instruction": "<img src=x onerror=alert(1)>", "output": "&amp; <b>"}
    assert _read(_jsonl(tmp_path / "a.jsonl", [row])).train == [Row(row["instruction"], row["output"])]


# --- slices and splits ---


def test_a_slice_counts_from_one_and_takes_in_both_ends(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", ROWS)
    rows = _read(path, start_row=3, end_row=5)
    assert [r.instruction for r in rows.train] == ["Q3", "Q4", "Q5"] and rows.total == 20
    assert [r.instruction for r in _read(path, start_row=20, end_row=20).train] == ["Q20"]
    assert len(_read(path, start_row=19, end_row=400).train) == 2


def test_a_slice_behind_the_end_is_told_with_the_number_of_rows(tmp_path):
    key, text = _told(_jsonl(tmp_path / "a.jsonl", ROWS), start_row=21)
    assert key == "error.empty_slice" and "20 rows" in text


def test_one_row_cannot_be_split(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", ROWS)
    assert _told(path, start_row=4, end_row=4, held_out=0.1)[0] == "error.too_few"
    assert len(_read(path, start_row=4, end_row=4).train) == 1


@pytest.mark.parametrize("share,apart", [(0.01, 1), (0.1, 2), (0.5, 10)])
def test_a_split_is_whole_disjoint_and_repeats_with_its_seed(tmp_path, share, apart):
    path = _jsonl(tmp_path / "a.jsonl", ROWS)
    rows = _read(path, held_out=share, seed=1)
    assert len(rows.held_out) == apart
    assert sorted(r.instruction for r in rows.train + rows.held_out) == sorted(r["instruction"] for r in ROWS)
    assert _read(path, held_out=share, seed=1) == rows
    assert share < 0.1 or _read(path, held_out=share, seed=2) != rows


def test_rows_that_ask_the_same_thing_never_stand_on_both_sides(tmp_path):
    rows = [{"instruction": f"Q{n % 6}", "output": f"A{n}"} for n in range(60)]
    path = _jsonl(tmp_path / "a.jsonl", rows)
    for seed in range(8):
        found = _read(path, held_out=0.3, seed=seed)
        assert found.held_out and len(found.train) + len(found.held_out) == 60
        assert not {r.instruction for r in found.train} & {r.instruction for r in found.held_out}
    assert _told(_jsonl(tmp_path / "same.jsonl", [ROWS[0]] * 9), held_out=0.3)[0] == "error.too_few"


def test_a_sample_is_drawn_from_the_slice_without_repeats(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", ROWS)
    drawn = [r.instruction for r in _read(path, start_row=6, end_row=15, sample=5).train]
    assert len(set(drawn)) == 5 and set(drawn) <= {f"Q{n}" for n in range(6, 16)}
    assert _told(path, start_row=6, end_row=15, sample=11)[0] == "error.sample"


@pytest.mark.skipif(not DOLLY.is_file(), reason="databricks-dolly-15k-ja.jsonl is not in ../shared/data")
def test_a_real_set_of_fifteen_thousand_rows_is_read():
    rows = read(Data(source=str(DOLLY), start_row=1, end_row=1000, held_out=0.1))
    assert rows.total == 15015 and len(rows.train) + len(rows.held_out) == 1000
    assert any(r.input for r in rows.train) and all(r.output.strip() for r in rows.train)
