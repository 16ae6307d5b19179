"""Tokenizers that make texts grow, or have an endless token, are refused from their file alone."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.errors import PlaygroundError
from playground.model import tokenizer_growth
from playground.model.tokenizer_growth import check_growth

TENFOLD = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
GROWS = {"type": "Sequence", "normalizers": [TENFOLD] * 9}
MODEL = {"type": "BPE", "vocab": {"Replace": 0, "type": 1}}


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_a_tokenizer_that_makes_texts_grow_is_refused(tmp_path, part):
    kinds = {"normalizer": "normalizers", "decoder": "decoders"}
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    (tmp_path / "tokenizer.json").write_text(json.dumps({part: {"type": "Sequence", kinds[part]: [replace] * 9}}))
    with pytest.raises(PlaygroundError, match=part):
        check_growth(tmp_path)
    many = [{"type": "Prepend", "prepend": "a" * 900}] * 3
    (tmp_path / "tokenizer.json").write_text(json.dumps({part: {"type": "Sequence", kinds[part]: many}}))
    with pytest.raises(PlaygroundError, match=part):
        check_growth(tmp_path)
    usual = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({part: {"type": "Sequence", kinds[part]: [usual] * 9}}))
    check_growth(tmp_path)


def test_a_tokenizer_with_an_endless_token_is_refused(tmp_path):
    """One token of the answer would be as long as the file."""
    file, long = tmp_path / "tokenizer.json", "x" * 1_000_000
    for written in ({"model": {"vocab": {long: 0}}}, {"added_tokens": [{"id": 0, "content": long}]}):
        for separators in ((",", ":"), (", ", ": ")):
            file.write_text(json.dumps(written, separators=separators))
            with pytest.raises(PlaygroundError) as error:
                check_growth(tmp_path)
            assert [one.key for one in error.value.problems] == ["error.tokenizer_text"]
    for indent in (None, 2):
        table = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": long}}
        file.write_text(json.dumps(table | {"model": {"vocab": {" " * 500: 0}}}, indent=indent))
        check_growth(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"model": MODEL, "normalizer": GROWS}),
        json.dumps({"normalizer": GROWS, "model": MODEL}),
        json.dumps({"normalizer": GROWS}, separators=(" ,", " :\n ")),
        json.dumps({"model": MODEL, "normalizer": GROWS}).replace('Replace", "pat', 'Repl\\u0061ce", "pat'),
        json.dumps({"model": MODEL, "normalizer": GROWS}).replace('type": "Rep', '\\u0074ype": "Rep'),
        json.dumps({"added_tokens": [{"model": 1}], "normalizer": GROWS, "model": MODEL}),
        json.dumps({"pre_tokenizer": {"model": MODEL}, "decoder": GROWS | {"decoders": [TENFOLD] * 9}}),
    ],
)
def test_it_is_refused_however_its_file_is_written(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(PlaygroundError) as error:
        check_growth(tmp_path)
    assert [one.key for one in error.value.problems] == ["error.tokenizer_grows"]


def test_the_vocabulary_is_not_parsed_where_it_comes_last(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(tokenizer_growth.json, "loads", lambda data: parsed.append(bytes(data)) or {})
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": blank, "model": MODEL}, ensure_ascii=False))
    check_growth(tmp_path)
    assert [b"vocab" in data for data in parsed] == [False]


@given(st.lists(st.sampled_from([b'"', b"a", b"aaaa", b'"precompiled_charsmap":"', b'"aaaaa"']), max_size=30))
def test_the_first_long_text_is_that_which_a_search_byte_by_byte_finds(pieces):
    pattern, data = re.compile(tokenizer_growth.LONG_TEXT.pattern.replace(b"20000", b"5")), b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_growth, "LONG", 5)
        patch.setattr(tokenizer_growth, "LONG_TEXT", pattern)
        found = pattern.search(data)
        assert tokenizer_growth._long_text(data) == (found[0] if found else b"")
