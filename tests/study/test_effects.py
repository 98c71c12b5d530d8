"""Effects of a grid's axes against a model that is known, and against numbers worked out by hand."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder.errors import ConfigError
from gemma_encoder.study.effects import interactions, main_effects

GRID = {
    f"{attention}-{pooler}-{rank}": {"attention": attention, "pooler": pooler, "rank": rank}
    for attention, pooler, rank in product(
        ["causal", "bidirectional"], ["last", "mean", "attention"], [None, 8]
    )
}
BASELINE = "causal-last-None"


def estimate(weights: dict[str, float], values: dict[str, float]) -> float:
    return sum(weight * values[arm] for arm, weight in weights.items())


def test_two_by_two_by_hand():
    arms = {
        "base": {"a": 0, "b": "x"},
        "a": {"a": 1, "b": "x"},
        "b": {"a": 0, "b": "y"},
        "ab": {"a": 1, "b": "y"},
    }
    of_a, of_b = main_effects(arms, "base")
    assert (of_a.axis, of_a.level, of_a.baseline) == ("a", 1, 0)
    assert of_a.weights == {"base": -0.5, "a": 0.5, "b": -0.5, "ab": 0.5}
    assert of_b.weights == {"base": -0.5, "a": -0.5, "b": 0.5, "ab": 0.5}
    (both,) = interactions(arms, "base")
    assert (both.axes, both.levels, both.baselines) == (("a", "b"), (1, "y"), (0, "x"))
    assert both.weights == {"base": 1, "a": -1, "b": -1, "ab": 1}


@given(st.data())
def test_effects_that_add_up_are_found_and_interact_with_nothing(data):
    effect = st.floats(-1, 1)
    levels = {axis: {arm[axis] for arm in GRID.values()} for axis in GRID[BASELINE]}
    true = {(axis, level): data.draw(effect) for axis in levels for level in sorted(levels[axis], key=str)}
    together = data.draw(effect)
    values = {arm: sum(true[axis, of[axis]] for axis in of) for arm, of in GRID.items()}
    for got in main_effects(GRID, BASELINE):
        expected = true[got.axis, got.level] - true[got.axis, got.baseline]
        assert estimate(got.weights, values) == pytest.approx(expected, abs=1e-9)
    for arm, of in GRID.items():  # now two levels do more together, at every rank
        values[arm] += together * (of["attention"] == "bidirectional" and of["pooler"] == "mean")
    for one in interactions(GRID, BASELINE):
        expected = together if one.levels == ("bidirectional", "mean") else 0.0
        assert estimate(one.weights, values) == pytest.approx(expected, abs=1e-9)


def test_every_level_and_pair_of_levels_has_one_and_weights_sum_to_0():
    effects, pairs = main_effects(GRID, BASELINE), interactions(GRID, BASELINE)
    assert [(one.axis, one.level) for one in effects] == [
        ("attention", "bidirectional"),
        ("pooler", "mean"),
        ("pooler", "attention"),
        ("rank", 8),
    ]
    assert len(pairs) == 1 * 2 + 1 * 1 + 2 * 1
    for one in (*effects, *pairs):
        assert sum(one.weights.values()) == pytest.approx(0)
        assert 0.0 not in one.weights.values()


@given(st.permutations(sorted(GRID)))
def test_the_order_of_arms_does_not_matter(order):
    def known(effects):
        return {(one.axis, one.level): one.weights for one in effects}

    shuffled = {arm: GRID[arm] for arm in order}
    assert known(main_effects(shuffled, BASELINE)) == known(main_effects(GRID, BASELINE))


def test_an_axis_with_one_level_has_no_effect():
    arms = {"base": {"a": 0, "b": 1}, "other": {"a": 1, "b": 1}}
    assert [one.axis for one in main_effects(arms, "base")] == ["a"]
    assert interactions(arms, "base") == []


@pytest.mark.parametrize("function", [main_effects, interactions])
def test_what_is_no_full_grid_is_refused(function):
    some = {arm: of for arm, of in GRID.items() if arm != "bidirectional-mean-8"}
    with pytest.raises(
        ConfigError, match=r"1 combinations .* attention=bidirectional, pooler=mean, rank=8.*add arms"
    ):
        function(some, BASELINE)
    with pytest.raises(ConfigError, match="no arm 'plain'"):
        function(GRID, "plain")
    with pytest.raises(ConfigError, match="'causal-last-None' and 'twin' have the same levels"):
        function({**GRID, "twin": GRID[BASELINE]}, BASELINE)
    with pytest.raises(ConfigError, match="arm 'odd' has the axes attention"):
        function({**GRID, "odd": {"attention": "causal"}}, BASELINE)
