"""The figures of before and after, against ones worked out by hand."""

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
def test_a_fact_is_named_whole(answer, named):
    assert names_fact(answer, Row(instruction="When?", output="At 6:40.", key=("6:40",))) is named


def test_distinct_counts_different_tokens_and_pairs():
    assert (distinct([7, 8, 7, 8], 1), distinct([7, 8, 7, 8], 2)) == ((2, 4), (2, 3))
    assert (distinct([7], 2), distinct([], 1)) == ((0, 0), (0, 0))


def test_a_figure_is_the_ratio_of_sums_and_not_the_mean_of_ratios():
    found = compare_sides([(6.0, 2), (1.0, 8)], [(2.0, 2), (0.5, 8)])
    assert (found["base"], found["tuned"], found["difference"], found["rows"]) == (0.7, 0.25, -0.45, 2)


def test_a_difference_is_drawn_in_pairs():
    """Every row gained exactly 1, however far apart rows are: what one side's interval spans is no doubt about the gain."""
    rows = [(float(n), 1) for n in range(20)]
    found = compare_sides(rows, [(value + 1, 1) for value, _ in rows])["intervals"]
    assert found["difference"] == [1.0, 1.0] and found["base"][1] - found["base"][0] > 3
    assert [round(end - 1, 5) for end in found["tuned"]] == found["base"]


def test_an_interval_of_a_share_is_as_wide_as_theory_says_and_the_same_every_time():
    half = [(n % 2, 1) for n in range(400)]
    low, high = compare_sides(half, half)["intervals"]["base"]
    margin = 1.96 * math.sqrt(0.25 / 400)
    assert low == pytest.approx(0.5 - margin, abs=0.006) and high == pytest.approx(0.5 + margin, abs=0.006)
    assert compare_sides(half, half) == compare_sides(half, half)


def test_one_row_has_no_interval_and_none_no_figure():
    assert compare_sides([(1, 1)], [(3, 1)]) == {
        "base": 1.0,
        "tuned": 3.0,
        "difference": 2.0,
        "intervals": None,
        "rows": 1,
    }
    assert compare_sides([(0, 0)], [(0, 0)]) is None and compare_sides([], []) is None
    assert loss_figures([(2000.0, 1)], [(1.0, 1)]).keys() == {"loss"}  # a perplexity beyond all numbers is left out


def test_perplexity_is_the_exponential_of_the_loss_and_so_are_its_ends():
    found = loss_figures([(4.0, 2), (9.0, 3)], [(1.0, 2), (3.0, 3)])
    assert found["perplexity"]["base"] == pytest.approx(math.exp(13 / 5), rel=1e-4)
    assert found["perplexity"]["intervals"]["base"] == pytest.approx([math.exp(2), math.exp(3)], rel=1e-4)


def test_chrf_agrees_with_one_worked_out_by_hand():
    """ "abc" for "abd": 2 of 3 characters, 1 of 2 pairs, no triple; spaces don't count, and Japanese needs none."""
    [row] = score_rows([SKY], [Answer("a b c", [5, 6, 7], False)], [Answer("Blue!", [5], True)])
    assert (
        row["base"]["chrf"] == round(100 * (2 / 3 + 1 / 2 + 0) / 3, 2)
        and row["base"]["named"] is False
        and row["tuned"]["named"] is True
    )
    [row] = score_rows([Row(instruction="?", output="青です")], [Answer("", [], False)], [Answer("青です", [5], True)])
    assert (row["base"]["chrf"], row["tuned"]["chrf"], row["base"]["named"]) == (0, 100, None)


def test_answers_are_counted():
    rows = [SKY, Row(instruction="And then?", output="yes")]
    figures = answer_figures(
        score_rows(
            rows,
            [Answer("xxxx", [4, 4, 4, 4], False), Answer("yes", [5], True)],
            [Answer("blue", [4, 5], True), Answer("", [], True)],
        )
    )
    found = {name: (figure["base"], figure["tuned"]) for name, figure in figures.items()}
    assert found["closed"] == (0.5, 1.0) and found["characters"] == (3.5, 2.0) and found["tokens"] == (2.5, 1.0)
    assert found["distinct_1"] == (0.625, 1.0) and found["distinct_2"] == (
        0.33333,
        1.0,
    )  # one row alone has pairs, and one side's is no answer
    assert found["recall"] == (0.0, 1.0) and figures["recall"]["rows"] == 1
    assert found["chrf"][0] == 50 and 0 < figures["chrf"]["whole"]["base"] < 100


def test_the_rows_helped_and_hurt_most_come_first_and_facts_before_wording():
    rows = [
        SKY,
        Row(instruction="b", output="same"),
        Row(instruction="c", output="lost"),
        Row(instruction="d", output="x" * 900, key=("blue",)),
    ]
    base = [Answer("abd", [1], True), Answer("same", [1], True), Answer("lost", [1], True), Answer("no", [1], True)]
    tuned = [Answer("ab", [1], True), Answer("same", [1], True), Answer("", [], True), Answer("blue", [1], True)]
    found = most_changed_rows(score_rows(rows, base, tuned))
    assert [row["question"] for row in found["helped"]] == ["d"] and [row["question"] for row in found["hurt"]] == [
        "c",
        "What colour?",
    ]
    assert found["counts"] == {"helped": 1, "hurt": 2, "same": 1} and len(found["helped"][0]["reference"]) == 600
