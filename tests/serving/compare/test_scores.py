"""Scores and intervals are what their definitions say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longserve.serving.compare.evidence import Place, Reach, place_of, reach_of
from longserve.serving.compare.scores import answer_f1, exact_match, macro_f1_of, mean_of, normalize_answer
from longserve.serving.compare.uncertainty import mcnemar, paired_difference

LABELS = st.sampled_from("abcd")


def plain_macro_f1(predicted: list[str], right: list[str]) -> float:
    """By the definition, label by label."""
    values = []
    for label in {*predicted, *right}:
        hits = sum(p == r == label for p, r in zip(predicted, right, strict=True))
        precision = hits / max(1, predicted.count(label))
        recall = hits / max(1, right.count(label))
        values.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(values) / len(values)


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_macro_f1_also_of_a_resample(pairs: list[tuple[str, str]], random_: random.Random) -> None:
    predicted, right = [p for p, _ in pairs], [r for _, r in pairs]
    drawn = [random_.randrange(len(pairs)) for _ in pairs]
    weights = np.array([[1] * len(pairs), np.bincount(drawn, minlength=len(pairs))], dtype=float)
    expected = [
        plain_macro_f1(predicted, right),
        plain_macro_f1([predicted[i] for i in drawn], [right[i] for i in drawn]),
    ]
    assert macro_f1_of(predicted, right)(weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The Miller.", ["miller"], 1.0, 1.0),
        ("old miller", ["the miller of Hull", "miller"], 0.0, 2 / 3),
        ("a  miller of Hull", ["miller of the Hull!"], 1.0, 1.0),
        ("fox", ["miller"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("miller", [], 0.0, 0.0),
        ("the", ["miller"], 0.0, 0.0),
        ("in in Hull", ["in Hull"], 0.0, 0.8),
    ],
)
def test_answers_as_squad_scores_them(answer: str, right: list[str], exact: float, f1: float) -> None:
    assert exact_match(answer, right) == exact
    assert answer_f1(answer, right) == pytest.approx(f1)


def test_articles_within_words_stay() -> None:
    assert normalize_answer("An anthem: the A-team") == "anthem ateam"


def test_mcnemar_counts_only_what_differs() -> None:
    same = [True] * 50 + [False] * 50
    assert mcnemar(same, same) == 1.0
    assert mcnemar([True] * 10, [False] * 10) == pytest.approx(2 / 2**10)
    assert mcnemar(same + [True] * 10, same + [False] * 10) == pytest.approx(2 / 2**10)
    # a table's value: 1 against 8 of 9, two-sided
    assert mcnemar([True] * 8 + [False], [False] * 8 + [True]) == pytest.approx(2 * (1 + 9) / 2**9)


def test_an_interval_holds_the_difference_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(60):
        first = (generator.random(200) < 0.8).astype(float)
        second = np.where(generator.random(200) < 0.5, first, generator.random(200) < 0.7)
        difference = paired_difference(
            mean_of(first.tolist()),
            mean_of(second.tolist()),
            (first.astype(bool).tolist(), second.astype(bool).tolist()),
            seed=trial,
        )
        assert difference.low <= difference.value <= difference.high
        held += difference.low <= 0.05 <= difference.high  # 0.8 against 0.75
    assert 50 <= held <= 60


def test_equal_models_do_not_differ() -> None:
    values = [1.0, 0.0, 1.0]
    difference = paired_difference(mean_of(values), mean_of(values), ([True, False, True],) * 2)
    assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("evidence", "place"),
    [
        ([(0, 10)], Place.FIRST),
        ([(40, 60)], Place.MIDDLE),
        ([(95, 100)], Place.LAST),
        ([(99, 100)], Place.LAST),
        ([(0, 5), (10, 20)], Place.FIRST),
        ([(0, 5), (90, 95)], Place.SPREAD),
        ([(0, 100)], Place.MIDDLE),
    ],
)
def test_place(evidence: list[tuple[int, int]], place: Place) -> None:
    assert place_of(evidence, 100) is place


def test_reach() -> None:
    windows = [(0, 50), (40, 90), (80, 130)]
    assert reach_of([(0, 5), (45, 50)], windows) is Reach.FIRST_WINDOW
    assert reach_of([(45, 60)], windows) is Reach.LATER_WINDOW
    assert reach_of([(120, 130)], windows) is Reach.LATER_WINDOW
    assert reach_of([(30, 60)], windows) is Reach.NO_WINDOW
    assert reach_of([(0, 5), (120, 130)], windows) is Reach.NO_WINDOW
