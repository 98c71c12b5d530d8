"""What is said of contrasts whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemma_encoder.errors import ConfigError
from gemma_encoder.study.statistics import Contrast, Variance
from gemma_encoder.study.verdicts import verdict


def made(
    estimate: float, seeds_part: float, rows_part: float, *, seeds: int = 5, units: int = 1001
) -> Contrast:
    """A contrast with standard errors of the two parts, in units of the metric."""
    variance = Variance(seeds_part**2, rows_part**2, seeds - 1.0, units - 1.0)
    degrees, error = variance.degrees_of_freedom, math.sqrt(variance.total)
    half = stats.t.ppf(0.975, degrees) * error
    p_value = 2 * stats.t.sf(abs(estimate) / error, degrees)
    interval = (estimate - half, estimate + half)
    return Contrast(estimate, error, degrees, interval, p_value, seeds > 1, seeds, variance, None)


def said(contrast: Contrast, **options):
    return verdict(contrast, contrast.p_value, **options)


def test_better_and_worse_follow_the_sign_the_metric_and_the_adjusted_p_value():
    up, down = made(0.05, 0.005, 0.005), made(-0.05, 0.005, 0.005)
    assert said(up).text == said(down, higher_is_better=False).text == "better"
    assert said(down).text == said(up, higher_is_better=False).text == "worse"
    assert verdict(up, 0.0499).kind == "better"
    assert verdict(up, 0.05).kind == "more seeds"


def test_alike_within_the_smallest_difference_of_interest_only():
    close = made(0.002, 0.001, 0.001)
    far_end = close.interval[1]
    got = said(close)
    assert got.kind == "alike" and got.bound == pytest.approx(far_end)
    assert got.text == f"no difference larger than {math.ceil(far_end * 1000) / 10:.1f} points shown"
    assert said(close, smallest_of_interest=far_end * 1.001).kind == "alike"
    assert said(close, smallest_of_interest=far_end * 0.999).kind != "alike"
    assert said(made(-0.002, 0.001, 0.001)).bound == pytest.approx(far_end)


def test_the_bound_said_is_never_below_the_interval():
    for estimate in np.linspace(0, 0.004, 17):
        got = said(made(estimate, 0.002, 0.0), smallest_of_interest=0.05)
        assert float(got.text.split()[4]) / 100 >= got.bound - 1e-12


def power(size: float, seeds_part: float, rows_part: float, seeds: int, level: float = 0.05) -> float:
    """By scipy's noncentral t, for few seeds and no doubt over rows, or known variances."""
    error = math.sqrt(seeds_part**2 + rows_part**2)
    degrees = seeds - 1 if not rows_part else 1000
    return float(stats.nct.sf(stats.t.ppf(1 - level / 2, degrees), degrees, size / error))


@pytest.mark.parametrize("estimate", [0.012, 0.02, 0.03])
def test_seeds_needed_have_the_power_of_a_t_test(estimate):
    now = made(estimate, 0.015, 0.0)
    needed = said(now).seeds
    assert said(now).text == f"not told apart; needs about {needed} seeds"
    spread = 0.015 * math.sqrt(5)
    assert power(estimate, spread / math.sqrt(needed), 0, needed) >= 0.78
    assert power(estimate, spread / math.sqrt(needed - 2), 0, needed - 2) < 0.82


def test_many_comparisons_need_more_seeds():
    now = made(0.02, 0.015, 0.0)
    assert said(now, comparisons=6).seeds > said(now).seeds


def test_a_small_estimate_asks_for_the_seeds_of_the_smallest_difference_of_interest():
    assert said(made(0.0001, 0.015, 0.001)).seeds == said(made(0.005, 0.015, 0.001)).seeds
    assert (
        said(made(0.0001, 0.015, 0.001), smallest_of_interest=0.02).seeds
        < said(made(0.0, 0.015, 0.001)).seeds
    )


def test_rows_alone_may_forbid_it():
    """At 80 % power a difference is told from 2.8 standard errors on."""
    assert said(made(0.004, 0.004, 0.01 / 2.79)).text == "the rows are too few to tell, whatever the seeds"
    assert said(made(0.004, 0.004, 0.01 / 2.85)).kind == "more seeds"
    assert said(made(0.004, 0.2, 0.01 / 2.85)).text == "not told apart; needs more than 1000 seeds"


def test_a_single_seed_is_not_called_better():
    got = said(made(0.3, 0.0, 0.01, seeds=1))
    assert (got.kind, got.text) == ("one seed", "one seed says nothing about other seeds")


@given(
    st.floats(-0.1, 0.1), st.floats(1e-4, 0.05), st.floats(1e-4, 0.05), st.integers(2, 10), st.integers(1, 8)
)
@settings(max_examples=100, deadline=None)
def test_seeds_needed_are_more_than_there_are_and_turning_the_sign_turns_the_words(
    estimate, seeds_part, rows_part, seeds, comparisons
):
    one, other = (made(sign * estimate, seeds_part, rows_part, seeds=seeds) for sign in (1, -1))
    options = {"comparisons": comparisons}
    turned = {"better": "worse", "worse": "better"}
    got = said(one, **options)
    assert said(other, **options).kind == turned.get(got.kind, got.kind)
    assert got.seeds is None or got.seeds > seeds


def test_wrong_options_are_refused():
    now = made(0.02, 0.015, 0.0)
    for options, message in (
        ({"smallest_of_interest": 0.0}, "smallest_of_interest is 0.0"),
        ({"comparisons": 0}, "comparisons is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            said(now, **options)
    with pytest.raises(ConfigError, match="adjust it with holm"):
        verdict(now, now.p_value / 2)
