"""Metrics and their intervals against values worked out by hand."""

import math

import pytest

from playground.data.source import Row
from playground.eval.metrics import (
    Answer,
    answer_figures,
    compare_sides,
    distinct,
    loss_figures,
    most_changed_rows,
    names_fact,
    score_rows,
)

SKY = Row(instruction="What colour?", output="abd", key=("blue",))


@pytest.mark.parametrize(
    ("answer", "named"),
    [("At 6:40 sharp", True), ("At 16:40", False), ("At 6:405", False), ("at 6:40PM", True), ("Never", False)],
)
def test_a_fact_counts_only_as_a_whole_word(answer, named):
    assert names_fact(answer, Row(instruction="When?", output="At 6:40.", key=("6:40",))) is named


def test_distinct_counts_different_ngrams():
    assert (distinct([7, 8, 7, 8], 1), distinct([7, 8, 7, 8], 2)) == ((2, 4), (2, 3))
    assert (distinct([7], 2), distinct([], 1)) == ((0, 0), (0, 0))


def test_a_metric_is_the_ratio_of_sums_not_the_mean_of_ratios():
    result = compare_sides([(6.0, 2), (1.0, 8)], [(2.0, 2), (0.5, 8)])
    assert (result["base"], result["tuned"], result["difference"], result["rows"]) == (0.7, 0.25, -0.45, 2)


def test_the_bootstrap_is_paired():
    """Every row gains exactly 1, however far apart rows are: the difference is certain."""
    rows = [(float(n), 1) for n in range(20)]
    intervals = compare_sides(rows, [(value + 1, 1) for value, _ in rows])["intervals"]
    assert intervals["difference"] == [1.0, 1.0] and intervals["base"][1] - intervals["base"][0] > 3
    assert [round(bound - 1, 5) for bound in intervals["tuned"]] == intervals["base"]


def test_an_interval_of_a_share_has_the_theoretical_width_and_is_reproducible():
    half = [(n % 2, 1) for n in range(400)]
    low, high = compare_sides(half, half)["intervals"]["base"]
    margin = 1.96 * math.sqrt(0.25 / 400)
    assert low == pytest.approx(0.5 - margin, abs=0.006) and high == pytest.approx(0.5 + margin, abs=0.006)
    assert compare_sides(half, half) == compare_sides(half, half)


def test_one_row_has_no_interval_and_no_rows_no_result():
    assert compare_sides([(1, 1)], [(3, 1)]) == {
        "base": 1.0,
        "tuned": 3.0,
        "difference": 2.0,
        "intervals": None,
        "rows": 1,
    }
    assert compare_sides([(0, 0)], [(0, 0)]) is None and compare_sides([], []) is None
    assert loss_figures([(2000.0, 1)], [(1.0, 1)]).keys() == {"loss"}  # an infinite perplexity is left out


def test_perplexity_and_its_interval_are_the_exponential_of_the_loss():
    figures = loss_figures([(4.0, 2), (9.0, 3)], [(1.0, 2), (3.0, 3)])
    assert figures["perplexity"]["base"] == pytest.approx(math.exp(13 / 5), rel=1e-4)
    assert figures["perplexity"]["intervals"]["base"] == pytest.approx([math.exp(2), math.exp(3)], rel=1e-4)


def test_chrf_equals_a_value_worked_out_by_hand():
    """ "abc" for "abd": 2 of 3 characters, 1 of 2 pairs, no triple; spaces don't count, and Japanese needs none."""
    [row] = score_rows([SKY], [Answer("a b c", [5, 6, 7], False)], [Answer("Blue!", [5], True)])
    assert row["base"]["chrf"] == round(100 * (2 / 3 + 1 / 2 + 0) / 3, 2)
    assert row["base"]["named"] is False and row["tuned"]["named"] is True
    [row] = score_rows([Row(instruction="?", output="青です")], [Answer("", [], False)], [Answer("青です", [5], True)])
    assert (row["base"]["chrf"], row["tuned"]["chrf"], row["base"]["named"]) == (0, 100, None)


def test_answer_figures_are_shares_and_means():
    rows = [SKY, Row(instruction="And then?", output="yes")]
    figures = answer_figures(
        score_rows(
            rows,
            [Answer("xxxx", [4, 4, 4, 4], False), Answer("yes", [5], True)],
            [Answer("blue", [4, 5], True), Answer("", [], True)],
        )
    )
    values = {name: (figure["base"], figure["tuned"]) for name, figure in figures.items()}
    assert values["closed"] == (0.5, 1.0) and values["characters"] == (3.5, 2.0) and values["tokens"] == (2.5, 1.0)
    assert values["distinct_1"] == (0.625, 1.0)
    assert values["distinct_2"] == (0.33333, 1.0)  # only the first row has pairs; the second's tuned answer is empty
    assert values["recall"] == (0.0, 1.0) and figures["recall"]["rows"] == 1
    assert values["chrf"][0] == 50 and 0 < figures["chrf"]["whole"]["base"] < 100


def test_most_changed_rows_are_ranked_by_fact_then_chrf():
    rows = [
        SKY,
        Row(instruction="b", output="same"),
        Row(instruction="c", output="lost"),
        Row(instruction="d", output="x" * 900, key=("blue",)),
    ]
    base = [Answer("abd", [1], True), Answer("same", [1], True), Answer("lost", [1], True), Answer("no", [1], True)]
    tuned = [Answer("ab", [1], True), Answer("same", [1], True), Answer("", [], True), Answer("blue", [1], True)]
    changed = most_changed_rows(score_rows(rows, base, tuned))
    assert [row["question"] for row in changed["helped"]] == ["d"]
    assert [row["question"] for row in changed["hurt"]] == ["c", "What colour?"]
    assert changed["counts"] == {"helped": 1, "hurt": 2, "same": 1}
    assert len(changed["helped"][0]["reference"]) == 600
