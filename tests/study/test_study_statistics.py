"""Contrasts against formulas written out, other programs' tests, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.study.statistics import Variance, contrast, holm, over_tasks

DIFFERENCE = {"new": 1.0, "base": -1.0}


def results(arms=("base", "new"), seeds=3, draws=200, seed=0, seed_sd=0.02, row_sd=0.02):
    """Metrics and resamples of arms, random."""
    rng = np.random.default_rng(seed)
    values = {arm: {s: 0.8 + seed_sd * rng.normal() for s in range(seeds)} for arm in arms}
    common = rng.normal(size=draws)
    resampled = {
        arm: {s: value + row_sd * (common + 0.3 * rng.normal(size=draws)) for s, value in of_arm.items()}
        for arm, of_arm in values.items()
    }
    return values, resampled


def given_parts(differences, draws):
    """A contrast of these differences per seed, with these resamples `[seeds, B]`."""
    seeds = range(len(differences))
    values = {"new": dict(zip(seeds, differences, strict=True)), "base": dict.fromkeys(seeds, 0.0)}
    resampled = {"new": dict(zip(seeds, draws, strict=True)), "base": dict.fromkeys(seeds, 0 * draws[0])}
    return values, resampled


def test_estimator_written_out():
    values, resampled = results(seeds=4)
    got = contrast(DIFFERENCE, values, resampled, units=50)
    d = np.array([values["new"][s] - values["base"][s] for s in range(4)])
    draws = np.stack([resampled["new"][s] - resampled["base"][s] for s in range(4)])
    of_mean = draws.mean(axis=0).var(ddof=1) * 50 / 49
    of_one = draws.var(axis=1, ddof=1).mean() * 50 / 49
    shared = (of_one - of_mean) / 3
    assert d.var(ddof=1) / 4 > shared  # no limit holds here
    assert of_mean > shared
    assert got.standard_error**2 == pytest.approx(d.var(ddof=1) / 4 + of_mean - shared)
    assert got.estimate == pytest.approx(d.mean())
    half = stats.t.ppf(0.975, got.degrees_of_freedom) * got.standard_error
    assert got.interval == pytest.approx((d.mean() - half, d.mean() + half))
    assert got.over_seeds and got.seeds == 4


def test_each_part_is_right_on_average():
    """Parts of known size: the mean of many estimates is the variance that the mean over seeds has."""
    rng, seeds, units = np.random.default_rng(1), 3, 40
    a, r, i = 4.0, 3.0, 2.0  # variance between seeds, of rows, of seeds by rows
    estimates, totals = [], []
    for _ in range(1500):
        of_rows = rng.normal(0, np.sqrt(r * units), units)
        of_both = rng.normal(0, np.sqrt(i * units), (seeds, units))
        contributions = rng.normal(0, np.sqrt(a), seeds)[:, None] + of_rows + of_both
        drawn = rng.multinomial(units, np.full(units, 1 / units), 100)
        values, resampled = given_parts(contributions.mean(axis=1), contributions @ drawn.T / units)
        got = contrast(DIFFERENCE, values, resampled, units=units)
        estimates.append(got.estimate)
        totals.append([got.variance.seeds, got.variance.rows])
    assert np.var(estimates) == pytest.approx(a / seeds + r + i / seeds, rel=0.12)
    of_seeds, of_rows = np.mean(totals, axis=0)
    assert of_rows == pytest.approx(r, rel=0.05)
    # S^2/n of three seeds has an exponential distribution, here of mean 2; its limit of 2/3 lifts the mean.
    assert of_seeds == pytest.approx(2 / 3 + 2 * np.exp(-1 / 3), rel=0.1)


def test_without_doubt_over_rows_it_is_the_paired_t_test():
    values, resampled = results(seeds=5, row_sd=0.0)
    got = contrast(DIFFERENCE, values, resampled, units=1000)
    paired = stats.ttest_rel(*[[values[arm][s] for s in range(5)] for arm in ("new", "base")])
    assert got.p_value == pytest.approx(paired.pvalue, rel=1e-6)
    assert got.interval == pytest.approx(tuple(paired.confidence_interval()), rel=1e-6)
    assert got.degrees_of_freedom == pytest.approx(4)


def test_without_doubt_over_seeds_it_is_the_bootstrap_of_rows():
    draws = np.random.default_rng(2).normal(0, 0.01, 500)
    got = contrast(DIFFERENCE, *given_parts([0.02] * 3, np.tile(draws, (3, 1))), units=101)
    assert got.standard_error == pytest.approx(draws.std(ddof=1) * np.sqrt(101 / 100))
    assert got.degrees_of_freedom == pytest.approx(100)
    assert got.variance.seeds == pytest.approx(0, abs=1e-18)


@given(st.integers(0, 10**6), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_variance_is_never_below_that_of_seeds_or_that_of_rows(seed, seeds):
    rng = np.random.default_rng(seed)
    d, draws = rng.normal(size=seeds), rng.normal(size=(seeds, 20)) * rng.exponential()
    got = contrast(DIFFERENCE, *given_parts(d, draws), units=30)
    total = got.standard_error**2 * (1 + 1e-9)
    assert total >= d.var(ddof=1) / seeds
    assert total >= draws.mean(axis=0).var(ddof=1) * 30 / 29
    assert got.degrees_of_freedom >= min(seeds - 1, 29)


def test_a_single_seed_claims_nothing_over_seeds():
    values, resampled = results(seeds=1)
    got = contrast(DIFFERENCE, values, resampled, units=80)
    draws = resampled["new"][0] - resampled["base"][0]
    assert not got.over_seeds and got.effect_size is None and got.seeds == 1
    assert (got.variance.seeds, got.variance.seed_degrees) == (0.0, 0.0)
    assert got.standard_error == pytest.approx(draws.std(ddof=1) * np.sqrt(80 / 79))
    assert got.degrees_of_freedom == 79


def test_only_seeds_that_all_arms_have_are_used():
    values, resampled = results(arms=("base", "new", "other"), seeds=5)
    del values["new"][1], values["other"][0]
    three = contrast(DIFFERENCE, values, resampled, units=50)
    assert three.seeds == 4  # an arm without a weight does not count
    weights = {"new": 0.5, "other": 0.5, "base": -1.0}
    assert contrast(weights, values, resampled, units=50).seeds == 3
    assert contrast({**DIFFERENCE, "other": 0.0}, values, resampled, units=50) == three


@given(st.permutations(range(4)), st.permutations(["a", "b", "c", "d"]), st.floats(-1, 1))
@settings(max_examples=40, deadline=None)
def test_orders_and_what_all_arms_gain_in_a_seed_do_not_matter(seeds, arms, constant):
    weights = {"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}
    values, resampled = results(arms=("a", "b", "c", "d"), seeds=4)
    straight = contrast(weights, values, resampled, units=50)
    shuffled = contrast(
        {arm: weights[arm] for arm in arms},
        {arm: {s: values[arm][s] + constant * s for s in seeds} for arm in arms},
        {arm: {s: resampled[arm][s] + constant for s in seeds} for arm in arms},
        units=50,
    )
    assert shuffled.estimate == pytest.approx(straight.estimate)
    assert shuffled.interval == pytest.approx(straight.interval)
    assert shuffled.p_value == pytest.approx(straight.p_value)


@given(st.floats(0.01, 100), st.booleans())
@settings(max_examples=40, deadline=None)
def test_scale_and_direction(scale, turned):
    values, resampled = results()
    one = contrast(DIFFERENCE, values, resampled, units=50)
    factor = -scale if turned else scale
    weights = {arm: factor * weight for arm, weight in DIFFERENCE.items()}
    other = contrast(weights, values, resampled, units=50)
    assert other.estimate == pytest.approx(factor * one.estimate)
    assert other.standard_error == pytest.approx(scale * one.standard_error)
    assert other.p_value == pytest.approx(one.p_value)
    assert other.effect_size == pytest.approx(one.effect_size * np.sign(factor))


@pytest.mark.parametrize("seeds", [1, 3])
def test_arms_that_never_differ_are_alike_by_the_rule_of_three(seeds):
    values, resampled = results(seeds=seeds)
    values["new"], resampled["new"] = values["base"], resampled["base"]
    got = contrast(DIFFERENCE, values, resampled, units=300)
    assert (got.estimate, got.p_value, got.effect_size) == (0.0, 1.0, None)
    assert got.interval == pytest.approx((-3 / 300, 3 / 300), rel=0.02)


def test_mean_over_tasks_by_hand():
    one = contrast(DIFFERENCE, *results(seed=3), units=50)
    two = contrast(DIFFERENCE, *results(seed=4, seeds=5), units=500)
    got = over_tasks([one, two])
    assert got.estimate == pytest.approx((one.estimate + two.estimate) / 2)
    assert got.standard_error == pytest.approx(np.hypot(one.standard_error, two.standard_error) / 2)
    assert (got.seeds, got.over_seeds, got.effect_size) == (3, True, None)
    s, w = one.variance, two.variance
    expected = (s.seeds + w.seeds) ** 2 / (s.seeds**2 / 2 + w.seeds**2 / 4)
    assert got.variance.seed_degrees == pytest.approx(expected)


def test_mean_over_tasks_of_one_task_is_the_task_and_of_alike_ones_knows_more():
    one = contrast(DIFFERENCE, *results(seed=5), units=50)
    same = over_tasks([one])
    assert (same.estimate, same.p_value) == pytest.approx((one.estimate, one.p_value))
    four = over_tasks([one] * 4)
    assert four.standard_error == pytest.approx(one.standard_error / 2)
    assert four.variance.seed_degrees == pytest.approx(4 * 2)


def test_a_task_with_a_single_seed_takes_the_claim_over_seeds_from_the_mean():
    tasks = [contrast(DIFFERENCE, *results(seeds=seeds), units=50) for seeds in (1, 3)]
    assert not over_tasks(tasks).over_seeds
    assert over_tasks(tasks).variance.seed_degrees == 2


def test_effect_size_is_the_small_sample_corrected_d_z():
    """The correction by its definition through the mean of a chi distribution: with five seeds 0.798."""
    values, resampled = results(seeds=5)
    d = [values["new"][s] - values["base"][s] for s in range(5)]
    got = contrast(DIFFERENCE, values, resampled, units=50).effect_size
    assert got == pytest.approx(0.797885 * np.mean(d) / np.std(d, ddof=1), rel=1e-5)
    assert contrast(DIFFERENCE, *results(seeds=2), units=50).effect_size is None
    draws = np.random.default_rng(0).normal(size=(3, 50))
    assert contrast(DIFFERENCE, *given_parts([0.1] * 3, draws), units=50).effect_size is None


def test_effect_size_is_right_on_average():
    rng, true = np.random.default_rng(6), 0.8
    draws = np.zeros((4, 2))
    sizes = [
        contrast(DIFFERENCE, *given_parts(rng.normal(true, 1, 4), draws), units=9).effect_size
        for _ in range(4000)
    ]
    assert np.mean(sizes) == pytest.approx(true, abs=3 * np.std(sizes) / np.sqrt(4000))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p_values, random):
    adjusted = holm(p_values)
    for one, other in zip(p_values, adjusted, strict=True):
        assert one <= other <= min(1.0, len(p_values) * one)
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [other for _, other in pairs] == sorted(adjusted)
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[number] for number in order]) == [adjusted[number] for number in order]


def test_degrees_of_freedom_of_one_part_are_that_parts():
    assert Variance(1.0, 0.0, 2.0, 99.0).degrees_of_freedom == 2
    assert Variance(0.0, 1.0, 2.0, 99.0).degrees_of_freedom == pytest.approx(99)
    assert Variance(0.0, 1.0, 0.0, 99.0).degrees_of_freedom == 99


def test_what_cannot_be_contrasted_is_refused():
    values, resampled = results()
    for weights in ({"new": 1.0, "base": -0.5}, {"new": 0.0}, {}):
        with pytest.raises(ConfigError, match="sum to 0"):
            contrast(weights, values, resampled, units=50)
    with pytest.raises(DataError, match="no results of other"):
        contrast({"other": 1.0, "base": -1.0}, values, resampled, units=50)
    with pytest.raises(DataError, match="1 rows"):
        contrast(DIFFERENCE, values, resampled, units=1)
    cut = {s: draws[:10] for s, draws in resampled["new"].items()}
    with pytest.raises(DataError, match=r"numbers of resamples are \[10, 200\]"):
        contrast(DIFFERENCE, values, {**resampled, "new": cut}, units=50)
    with pytest.raises(DataError, match="missing of new, seed 0"):
        contrast(DIFFERENCE, values, {**resampled, "new": {}}, units=50)
    with pytest.raises(DataError, match="no seed in common"):
        contrast(DIFFERENCE, {**values, "new": {7: 0.5}}, resampled, units=50)
    with pytest.raises(DataError, match="no tasks"):
        over_tasks([])
