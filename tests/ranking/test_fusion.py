"""Fused runs, against numbers worked out by hand and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import zscore

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking.fusion import reciprocal_rank_fusion, standard_score_fusion, teach
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.ranking.runs import ranked

ONE = {"q1": {"a": 9.0, "b": 4.0, "c": 2.0}, "q2": {"a": 1.0}}
TWO = {"q1": {"b": 0.9, "d": 0.1}}


def test_reciprocal_ranks_are_summed():
    fused = reciprocal_rank_fusion([ONE, TWO])
    expected = {"a": 1 / 61, "b": 1 / 62 + 1 / 61, "c": 1 / 63, "d": 1 / 62}
    assert fused["q1"] == pytest.approx(expected) and fused["q2"] == {"a": 1 / 61}


def test_standard_scores_are_averaged_and_what_is_missing_is_last():
    fused = standard_score_fusion([ONE, TWO])
    one = dict(zip("abc", zscore([9.0, 4.0, 2.0]), strict=True))
    two = dict(zip("bd", zscore([0.9, 0.1]), strict=True))
    expected = {
        "a": (one["a"] + two["d"]) / 2,
        "b": (one["b"] + two["b"]) / 2,
        "c": (one["c"] + two["d"]) / 2,
        "d": (one["c"] + two["d"]) / 2,
    }
    assert fused["q1"] == pytest.approx(expected)
    assert fused["q2"] == {"a": 0.0}  # one document alone has no spread


def test_weights_say_how_much_a_run_counts():
    fused = reciprocal_rank_fusion([ONE, TWO], [3.0, 1.0])
    assert fused["q1"]["b"] == pytest.approx(3 / 62 + 1 / 61) and fused["q1"]["a"] == pytest.approx(3 / 61)
    one, two = zscore([9.0, 4.0, 2.0]), zscore([0.9, 0.1])
    fused = standard_score_fusion([ONE, TWO], [3.0, 1.0])
    assert fused["q1"]["b"] == pytest.approx((3 * one[1] + two[0]) / 4)
    assert fused["q2"] == {"a": 0.0}, "a run that lacks the query has no say, whatever its weight"


@pytest.mark.parametrize("fuse", [reciprocal_rank_fusion, standard_score_fusion])
@pytest.mark.parametrize(
    ("weights", "says"), [([1.0], "1 weights for 2 runs"), ([1.0, 0.0], "is 0"), ([1.0, np.nan], "is nan")]
)
def test_weights_that_mean_nothing_are_refused(fuse, weights, says):
    with pytest.raises(ConfigError, match=says):
        fuse([ONE, TWO], weights)


scores = st.dictionaries(st.sampled_from("abcdef"), st.integers(-50, 50).map(float), min_size=1)


@given(run=scores, scale=st.integers(1, 9), shift=st.integers(-9, 9))
def test_a_run_fused_with_itself_on_another_scale_keeps_its_order(run, scale, shift):
    other = {name: scale * score + shift for name, score in run.items()}
    for fuse in (reciprocal_rank_fusion, standard_score_fusion):
        fused = fuse([{"q": run}, {"q": other}])["q"]
        best = [score for _, score in ranked({name: run[name] for name in fused})]
        values = [fused[name] for name, _ in ranked(run)]
        assert fused.keys() == run.keys() and best == sorted(best, reverse=True)
        assert all(first >= second - 1e-9 for first, second in itertools.pairwise(values))


def test_a_teacher_labels_every_candidate():
    candidates = CandidateList("q1", "why", ("c", "x", "a"), ("1", "2", "3"), (1.0, 0.0, 0.0))
    assert teach(candidates, ONE).labels == (2.0, 2.0, 9.0)
    with pytest.raises(DataError, match="no scores for query 'q1'"):
        teach(candidates, {"q1": {}})


@pytest.mark.parametrize("fuse", [reciprocal_rank_fusion, standard_score_fusion])
def test_nothing_to_fuse_is_refused(fuse):
    with pytest.raises(ConfigError, match="no run to fuse"):
        fuse([])
    assert fuse([{}]) == {} and np.isfinite(list(fuse([ONE])["q1"].values())).all()
