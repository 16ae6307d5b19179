"""The drawing of a cutoff's cost: a bar for every length, and every figure in words, in both languages."""

import functools
import re
from html import escape

import numpy as np
import pytest
from hypothesis import given, strategies
from toy_rows import write_numbered_rows

from playground.data.lengths import Lengths, histogram
from playground.i18n import LANGUAGES, translate
from playground.planning import rows as row_questions
from playground.settings import Settings
from playground.speed.machine_rates import known_peak_rates
from playground.ui import cost_view
from playground.ui.tables import duration

GIB = 2**30
HISTOGRAM = {"width": 5, "counts": [1], "over": [0], "open": False, "longest": 1, "median": 1.0, "mean": 1.0}
COST = {
    "rows": 1,
    "counted": 1,
    "histogram": HISTOGRAM,
    "kept": 1,
    "left_out": 0,
    "truncated": 0,
    "lost_share": 0.0,
    "tokens": 90,
    "trained": 50,
    "uncut": 90,
    "cutoff": 40,
    "padding": {"tokens": 90, "padded": 100, "saved": 0.1},
    "steps": 1,
    "epochs": 1.0,
    "memory": None,
    "trouble": None,
    "estimates": [],
    "measured": None,
}


def page(cost: dict, lang: str) -> str:
    return cost_view.draw(functools.partial(translate, lang), lang, cost)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_length_has_a_bar_and_longer_rows_are_marked(toy, tmp_path, lang):
    file = write_numbered_rows(tmp_path / "rows.jsonl")
    settings = Settings().with_values(
        {
            "load": {"model": str(toy(chat=True)), "bits": 16},
            "data": {"source": str(file), "held_out": 0.0},
            "train": {"batch_size": 4},
        }
    )
    cost = row_questions.cutoff_cost(settings, cutoff=60, capacity=8 * GIB, card="rtx-4090")
    text, bars = page(cost, lang), cost["histogram"]
    within = sum(count > over for count, over in zip(bars["counts"], bars["over"]))
    assert text.count('<i class="over" style') == sum(map(bool, bars["over"])) > 0
    assert text.count('<i class="within" style') == within > 0
    assert translate(lang, "cost.cutoff", cutoff="60") in text and translate(lang, "plan.verdict.fits") in text
    assert text.count("<li>") >= 6 and f"{cost['truncated'] / 120:.1%}" in text
    assert all(peak["name"] in text for peak in known_peak_rates("rtx-4090"))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_sample_is_labelled_as_one(lang):
    assert translate(lang, "cost.sample", counted="30", rows="120") in page(COST | {"counted": 30, "rows": 120}, lang)


def test_without_an_estimate_the_page_says_when_there_will_be_one():
    memory = {
        "bytes": GIB,
        "gpus": 1,
        "capacity": 0,
        "verdict": None,
        "checkpointing": "off",
        "batching": "padded",
        "streamed": None,
    }
    assert translate("en", "cost.no_estimate") in page(COST | {"memory": memory | {"tokens": 9, "rows": 1}}, "en")


def test_a_measured_speed_is_labelled_as_measured():
    measured = {"run": "r", "tokens_per_s": 50.0, "seconds": 5.4}
    text = page(COST | {"measured": measured}, "en")
    assert "50 tokens/s measured in run" in text and "0:05" in text


@pytest.mark.parametrize("source, key", [("measured", "cost.predicted"), ("rough", "cost.rough")])
def test_a_predicted_duration_says_how_far_it_can_be_trusted(source, key):
    estimate = {"card": "A card", "seconds": 90.0, "bound": "compute", "source": source, "sheet": ""}
    assert escape(translate("en", key, card="A card", time="1:30")) in page(COST | {"estimates": [estimate]}, "en")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_error_is_shown_with_the_counts(lang):
    trouble = {"problems": [{"key": "error.length", "values": {"length": 600, "longest": 512}}]}
    assert "600" in page(COST | {"trouble": trouble}, lang)


def _histogram(sizes: list[int], cutoff: int) -> dict:
    lengths = Lengths(np.array(sizes, np.int32) - 1, np.ones(len(sizes), np.int32))
    return histogram(lengths, cutoff)


@given(
    sizes=strategies.lists(strategies.integers(2, 900), min_size=1, max_size=60),
    cutoff=strategies.integers(1, 1000),
    outlier=strategies.sampled_from([None, 5000]),
)
def test_the_line_of_the_cutoff_stands_between_rows_within_and_longer_ones(sizes, cutoff, outlier):
    bars = _histogram(sizes * 300 + [outlier] if outlier else sizes, cutoff)
    count, width = len(bars["counts"]), bars["width"]
    text = cost_view.histogram(functools.partial(translate, "en"), COST | {"histogram": bars, "cutoff": cutoff})
    line = re.search(r'class="cutoff (?:before|after)" style="left:([0-9.]+)%', text)
    if cutoff >= count * width:  # no row of a bar of its own is longer: the line would be right of the drawing
        assert line is None and 'class="cutoff beyond"' in text
        return
    assert line and float(line.group(1)) == pytest.approx(100 * (cutoff + 1) / (count * width), abs=0.001)
    drawn = re.findall(r'<i class="(within|over)" style="left:([0-9.]+)%;width:([0-9.]+)%', text)
    for look, left, size in drawn:
        left, right = float(left), float(left) + float(size)
        assert left < float(line.group(1)) if look == "within" else right > float(line.group(1)) - 0.01


def test_ticks_are_round_numbers_at_the_bars_that_begin_there():
    bars = {"width": 20, "counts": [1] * 13, "over": [0] * 13, "open": False, "longest": 250, "median": 9.0}
    text = cost_view.histogram(functools.partial(translate, "en"), COST | {"histogram": bars, "cutoff": 128})
    ticks = re.findall(r'<span style="left:([0-9.]+)%">([0-9,]+)</span>', text)
    assert [int(n) for _, n in ticks] == [0, 100, 200]
    assert float(ticks[1][0]) == pytest.approx(100 * 100.5 / 260, abs=0.001)
    assert 'style="left:49.615%"' in text  # the cutoff: 128 tokens are within, 129 are not


@pytest.mark.parametrize(
    "seconds,text", [(0.2, "0:01"), (5.4, "0:05"), (90, "1:30"), (3599.6, "1:00:00"), (3725, "1:02:05")]
)
def test_durations_are_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_memory_of_several_gpus_is_said_to_be_that_of_each(lang):
    memory = {
        "bytes": 3 * GIB,
        "gpus": 4,
        "verdict": None,
        "checkpointing": "all",
        "batching": "padded",
        "streamed": None,
    }
    text = page(COST | {"memory": memory}, lang)
    assert translate(lang, "cost.memory_each", need_bytes=3 * GIB, count=4, checkpointing="all") in text
