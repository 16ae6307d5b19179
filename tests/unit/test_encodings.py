"""Detect encodings, check a chosen one, and report where bytes are invalid."""

import pytest
from data_files import note_keys, pairs, problem_keys, read_error, read_rows
from toys import PROJECT

from playground.data import encodings
from playground.data.source import preview
from playground.errors import PlaygroundError
from playground.settings import Data, Settings, problems

SENTENCES = PROJECT.parent / "shared" / "data" / "ud_japanese_gsd.test.txt"
TABLE = "instruction,output\n船はいつ出ますか？,毎朝七時です。\n港はどこですか,駅の裏です\n"
TABLE_PAIRS = [("船はいつ出ますか？", "毎朝七時です。"), ("港はどこですか", "駅の裏です")]


@pytest.mark.parametrize(
    "encoding,guessed",
    [
        ("utf-8", False),
        ("utf-8-sig", False),
        ("utf-16", False),
        ("utf-32", False),
        ("cp932", True),
        ("euc_jp", True),
        ("iso2022_jp", True),
    ],
)
def test_a_text_is_read_in_its_encoding_and_a_guess_is_noted(tmp_path, encoding, guessed):
    path = tmp_path / "a.csv"
    path.write_bytes(TABLE.encode(encoding))
    rows, seen = read_rows(path), preview(Data(source=str(path)))
    assert pairs(rows) == TABLE_PAIRS
    assert ("note.encoding_guessed" in note_keys(rows), seen.encoding_guessed) == (guessed, guessed)
    assert seen.encoding == encoding and pairs(read_rows(path, encoding=encoding)) == TABLE_PAIRS


def test_western_text_from_a_spreadsheet_is_guessed(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,answer\nWhere’s the café?,“Naïve” rue 9 – 10 €\n".encode("cp1252"))
    assert pairs(read_rows(tmp_path / "a.csv")) == [("Where’s the café?", "“Naïve” rue 9 – 10 €")]


@pytest.mark.skipif(not SENTENCES.is_file(), reason="ud_japanese_gsd.test.txt is not in ../shared/data")
@pytest.mark.parametrize("encoding", ["cp932", "euc_jp"])
def test_one_japanese_sentence_is_enough_to_detect_its_encoding(tmp_path, encoding):
    path, wrong = tmp_path / "a.txt", []
    for sentence in filter(lambda text: not text.isascii(), SENTENCES.read_text(encoding="utf-8").splitlines()[::4]):
        try:
            path.write_bytes(sentence[:24].encode(encoding))
        except UnicodeEncodeError:
            continue
        if encodings.detect(path).name != encoding:
            wrong.append(sentence[:24])
    assert wrong == []


def test_bytes_of_no_encoding_are_reported_with_their_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"instruction": "a", "output": "b"}\n{"instruction": "\xff\x00\x81", "output": "b"}\n'
    )
    error = read_error(tmp_path / "a.jsonl")
    assert problem_keys(error) == ["error.encoding"] and "line 2, byte 53" in str(error)


def test_a_wrong_choice_of_encoding_is_reported_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(TABLE.encode("cp932"))
    error = read_error(tmp_path / "a.csv", encoding="utf-8")
    assert problem_keys(error) == ["error.encoding_chosen"] and "line 2 (byte 19)" in str(error)
    for name in ("klingon", "zlib", "hex", "undefined", "a\0b"):
        assert problem_keys(read_error(tmp_path / "a.csv", encoding=name)) == ["error.encoding_unknown"]
        assert [p.key for p in problems(Settings(data=Data(encoding=name)))] == ["error.encoding_unknown"]


def test_a_character_split_between_two_chunks_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "CHUNK", 5)
    for encoding in ("utf-8", "cp932", "euc_jp", "utf-16"):
        (tmp_path / "a.csv").write_bytes(TABLE.encode(encoding))
        assert encodings.detect(tmp_path / "a.csv", encoding).name == encoding
    (tmp_path / "b.txt").write_bytes("船は\n港の".encode() + b"\xff")
    with pytest.raises(PlaygroundError) as caught:
        encodings.detect(tmp_path / "b.txt", "utf-8")
    assert "line 2 (byte 13)" in str(caught.value)
    (tmp_path / "c.txt").write_bytes(b"abcd\xe6A")  # invalid from the byte before the second chunk
    with pytest.raises(PlaygroundError) as caught:
        encodings.detect(tmp_path / "c.txt", "utf-8")
    assert "line 1 (byte 4)" in str(caught.value)


def test_a_preview_detects_the_same_encoding_as_reading_when_the_last_character_is_cut(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"plain words\nand the end\xc2")
    seen = preview(Data(source=str(tmp_path / "a.txt")))
    assert (seen.encoding, seen.encoding_guessed) == ("cp1252", True) and [r.output for r in seen.rows] == [
        r.output for r in read_rows(tmp_path / "a.txt").train
    ]


GOOD = '{"question": "What’s item %d? Is it Café?", "answer": "It’s résumé %d."}\n'
GOOD_JA = '{"question": "%d番の船はいつ？", "answer": "朝%d時です。"}\n'


@pytest.mark.parametrize("good", [GOOD, GOOD_JA])
@pytest.mark.parametrize("bad", [b"caf\xe9?", "東京はどこ".encode("cp932"), b"cut \xe3\x81"])
def test_a_damaged_row_of_a_utf8_file_is_reported_and_no_other_encoding_garbles_the_rest(tmp_path, good, bad):
    rows = "".join(good % (n, n) for n in range(30)).encode()
    (tmp_path / "a.jsonl").write_bytes(rows + b'{"question": "' + bad + b'", "answer": "z"}\n' + rows)
    error = read_error(tmp_path / "a.jsonl")
    assert problem_keys(error) == ["error.encoding_damaged"] and "line 31" in str(error) and "place" in str(error)
    assert read_rows(tmp_path / "a.jsonl", encoding="latin-1").total == 61  # as whoever chooses it wants


def test_damage_is_found_wherever_chunks_and_the_limit_of_a_preview_cut_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes("é à ’ ü\n".encode() * 40 + b"caf\xe9\n")
    for chunk in (3, 8, 64):
        monkeypatch.setattr(encodings, "CHUNK", chunk)
        with pytest.raises(PlaygroundError) as caught:
            encodings.detect(tmp_path / "a.txt")
        assert caught.value.problems[0].values["line"] == 41
        assert encodings.detect(tmp_path / "a.txt", limit=60).name == "utf-8"
    assert encodings.FileDecoder(tmp_path / "a.txt").utf8_runs() == (160, 1)


def test_a_western_text_with_a_few_places_that_look_like_utf8_is_still_guessed(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,answer\nWas ist „Spaß“?,Freude für alle\n".encode("cp1252"))
    assert pairs(read_rows(tmp_path / "a.csv")) == [("Was ist „Spaß“?", "Freude für alle")]


@pytest.mark.parametrize(
    "encoding,rows",
    [
        ("cp949", [("서울은 어디입니까", "한국입니다")]),
        ("cp949", [("비밀번호를 잊어버렸어요 어떻게 하나요", "설정에서 재설정할 수 있습니다")]),
        ("gb18030", [("北京在哪里", "在中国的北部")]),
        ("gb18030", [("你好吗，今天天气怎么样？", "我很好，谢谢。")]),
    ],
)
@pytest.mark.parametrize("extra", ["", "What is the opening time on Sundays,We are closed on Sundays all year\n" * 9])
def test_korean_and_chinese_are_not_taken_for_japanese_kanji(tmp_path, encoding, rows, extra):
    table = "question,answer\n" + "".join(f"{q},{a}\n" for q, a in rows) + extra
    (tmp_path / "a.csv").write_bytes(table.encode(encoding))
    read = read_rows(tmp_path / "a.csv")
    assert pairs(read)[:1] == rows and "note.encoding_guessed" in note_keys(read)


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp"])
def test_japanese_without_kana_stays_japanese(tmp_path, encoding):
    table = "question,answer\n日本国首都,東京都千代田区\n大阪府庁所在地,大阪市中央区大手前\n"
    (tmp_path / "a.csv").write_bytes(table.encode(encoding))
    assert pairs(read_rows(tmp_path / "a.csv"))[0] == ("日本国首都", "東京都千代田区")
