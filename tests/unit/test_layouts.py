"""Public layouts of data sets: what is taught and what is left out are those of a plain parse of the same file."""

from collections import Counter

import pytest
from toy_layouts import FOLDER, PARSES, parse, records_of, taught_by_program

from playground.data.source import read
from playground.settings import Data


@pytest.mark.parametrize("name", PARSES)
def test_a_layout_teaches_what_a_plain_parse_finds(name):
    expected = parse(name)
    rows = read(Data(source=str(FOLDER / name), held_out=0.0, drop_duplicates=False))
    assert taught_by_program(rows.train) == expected.taught
    reasons = Counter[str]()
    for reason, count in rows.left_out.items():
        reasons[reason.partition(":")[0]] += count
    assert reasons == expected.left_out


def test_each_layout_has_twenty_rows_and_teaches_something():
    assert {name: len(records_of(FOLDER / name)) for name in PARSES} == dict.fromkeys(PARSES, 20)
    assert all(len(parse(name).taught) >= 10 for name in PARSES)
    reasons = {reason for name in PARSES for reason in parse(name).left_out}
    assert reasons == {"empty", "judged", "tool_calls", "images", "unanswered", "orphan"}
