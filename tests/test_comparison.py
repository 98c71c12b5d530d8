"""The paired permutation test against the exact sign test, and its rate of false alarms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gemma_encoder.errors import DataError
from gemma_encoder.evaluation.comparison import compare


def answers(right: np.ndarray) -> np.ndarray:
    """Scores of a model on rows of class 1 that it answers rightly or not."""
    return np.stack([~right, right], axis=1).astype(float)


def accuracy(scores: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == 1).mean())


@pytest.mark.parametrize(("only_first", "only_second"), [(30, 15), (12, 10), (40, 5), (0, 8)])
def test_accuracy_of_one_seed_is_the_sign_test(only_first, only_second):
    both = 50
    first = np.repeat([True, True, False], [both, only_first, only_second])
    second = np.repeat([True, False, True], [both, only_first, only_second])
    got = compare([answers(first)], [answers(second)], accuracy, resamples=4999)
    assert got.difference == pytest.approx((only_first - only_second) / (both + only_first + only_second))
    exact = stats.binomtest(only_first, only_first + only_second).pvalue
    assert got.p_value == pytest.approx(exact, abs=0.03)


def test_false_alarms_are_as_frequent_as_they_should_be():
    """Two seeds of two models that are alike: p is below 0.1 in about a tenth of the cases."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        hard = rng.random(60)
        models = [answers(rng.random(60) > hard) for _ in range(4)]
        p_values.append(compare(models[:2], models[2:], accuracy, resamples=199).p_value)
    assert 0.03 <= np.mean(np.array(p_values) <= 0.1) <= 0.17  # three standard errors around it


def test_rows_of_a_group_are_swapped_together():
    """Ten copies of each row know no more than one does: p must not shrink."""
    first, second = np.array([True] * 7 + [False]), np.array([False] * 7 + [True])
    alone = compare([answers(first)], [answers(second)], accuracy)
    groups = np.repeat(np.arange(8), 10)
    copies = [answers(np.repeat(right, 10)) for right in (first, second)]
    together = compare([copies[0]], [copies[1]], accuracy, groups=groups)
    assert together.p_value == pytest.approx(alone.p_value, abs=0.02)
    assert compare([copies[0]], [copies[1]], accuracy).p_value < together.p_value / 5


def test_more_seeds_count_and_one_may_stand_against_several():
    rng = np.random.default_rng(1)
    good, bad = [answers(rng.random(100) < rate) for rate in (0.9, 0.8)], answers(rng.random(100) < 0.5)
    got = compare(good, [bad], accuracy, resamples=199)
    assert got.difference == pytest.approx(np.mean([accuracy(scores) for scores in good]) - accuracy(bad))
    assert got.p_value < 0.02
    assert compare([bad], [bad], accuracy, resamples=199).p_value == 1.0


def test_other_rows_are_refused():
    with pytest.raises(DataError, match="different shapes"):
        compare([np.zeros((3, 2))], [np.zeros((4, 2))], accuracy)
