"""The Data tab's facts as HTML: figures that add up, names without paths, and no markup from a row."""

import functools
import re

import pytest

from playground.data.source import Row, save_pasted
from playground.errors import problem
from playground.i18n import LANGUAGES, data_name, translate
from playground.ui import rows_view

COUNTS = {"train": 330, "held_out": 90, "left_out": {}, "total": 420, "where": {}, "notes": []}


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("left_out", [{}, {"duplicate": 3, "outside": 1200}])
def test_the_figures_shown_add_up_to_all_rows(lang, left_out):
    counts = COUNTS | {"left_out": left_out, "total": 420 + sum(left_out.values())}
    page = rows_view.counts(functools.partial(translate, lang), counts)
    *parts, total = [int(text.replace(",", "")) for text in re.findall("<dd>([0-9,]+)</dd>", page)]
    assert sum(parts) == total == counts["total"] and len(parts) == 2 + bool(left_out)
    for reason, count in left_out.items():
        assert f"{translate(lang, f'dropped.{reason}')}: <b>{count:,}</b>" in page


def test_rows_are_shown_as_text_with_their_numbers_as_buttons():
    rows = [Row("<b>?</b>", "x" * 400, number=7, before=(("earlier?", "yes"),)), Row("second?", "2")]
    page = rows_view.first_rows(functools.partial(translate, "en"), rows)
    assert "<b>" not in page and "&lt;b&gt;?&lt;/b&gt;" in page and "earlier?" in page
    assert re.findall('data-row="([0-9]+)"', page) == ["7", "2"] and "x" * 300 + "…" in page and "x" * 301 not in page


@pytest.mark.parametrize("lang", LANGUAGES)
def test_pasted_rows_are_named_so_wherever_their_file_would_be(lang, tmp_path):
    path = save_pasted("question,answer\na,b\n", tmp_path)
    words = translate(lang, "rows.pasted")
    assert data_name(lang, path.name) == words and data_name(lang, "mine.csv") == "mine.csv"
    broken = problem("error.json", file=path.name, line=3, detail="odd").text(lang)
    assert words in broken and path.stem not in broken
