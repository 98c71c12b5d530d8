"""Resamples against `compute_metrics` on the rows of each resample, put together one by one."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.evaluation import METRICS, compute_metrics
from gemma_encoder.study.resampling import Resamples

WORDS = np.array(["the red fox", "a red fox", "blue fox", "red", "the blue, blue fox"])
KINDS = {
    "binary": "single_label_classification",
    "classes": "single_label_classification",
    "multi_label": "multi_label_classification",
    "numbers": "regression",
    "lists": "ranking",
}
CASES = [
    (name, kind, grouped)
    for name, metric in METRICS.items()
    for kind in metric.kinds
    for grouped in (False, True)
    if (grouped or not (metric.needs_groups or kind == "lists"))
    and not (grouped and kind == "numbers")  # a column of scores with groups is a list to `compute_metrics`
    and (name, kind) != ("exact_match", "multi_label")  # it can't do that
]


def rows(kind: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores with ties and errors."""
    if kind == "numbers":
        labels = rng.integers(0, 5, count).astype(float)
        return labels, np.round(labels + rng.normal(size=count), 1)[:, None]
    if kind == "lists":
        return rng.integers(0, 3, count), rng.integers(0, 4, (count, 1)).astype(float)
    if kind == "multi_label":
        labels = rng.integers(0, 2, (count, 3))
        return labels, labels - 0.5 + rng.normal(size=labels.shape)
    classes = 2 if kind == "binary" else 4
    labels = rng.integers(0, classes, count)
    return labels, 1.5 * np.eye(classes)[labels] + rng.normal(size=(count, classes))


def slow(resamples: Resamples, scores: np.ndarray) -> list[float]:
    """The metric of each resample's rows; a group that is drawn twice becomes two groups."""
    labels, groups = np.asarray(resamples.labels), resamples.groups
    unit = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = unit.max() + 1
    rng, values = np.random.default_rng(resamples.seed), []
    for _ in range(resamples.count):
        drawn = np.sort(rng.integers(count, size=count))
        taken = np.concatenate([np.flatnonzero(unit == one) for one in drawn])
        number = np.repeat(np.arange(count), [np.sum(unit == one) for one in drawn])
        candidates = None if resamples.candidates is None else np.asarray(resamples.candidates)[taken]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            judged = compute_metrics(
                [resamples.metric],
                scores[taken],
                labels[taken],
                groups=None if groups is None else number,
                candidates=candidates,
            )
        values.append(judged[resamples.metric])
    return values


@pytest.mark.parametrize(("name", "kind", "grouped"), CASES)
def test_equal_to_metrics_of_the_rows_of_each_resample(name, kind, grouped):
    """Many rows, and so few that resamples lack classes or are constant."""
    rng = np.random.default_rng(0)
    for count in (4, 40):
        labels, scores = rows(kind, count, rng)
        groups = rng.integers(0, max(2, count // 3), count) if grouped else None
        if grouped:
            groups[:2] = 0, 1
        candidates = WORDS[rng.integers(0, len(WORDS), count)].tolist() if kind == "lists" else None
        resamples = Resamples(name, KINDS[kind], labels, groups, candidates, count=40, seed=count)
        assert resamples.values(scores) == pytest.approx(slow(resamples, scores), abs=1e-9)


@given(st.data(), st.integers(2, 8), st.sampled_from(["pearson", "spearman"]))
@settings(max_examples=60, deadline=None)
def test_correlations_of_a_few_tied_rows(data, count, name):
    numbers = st.lists(st.sampled_from([0.1, 0.2, 0.3, 7.0]), min_size=count, max_size=count)
    labels, scores = np.array(data.draw(numbers)), np.array(data.draw(numbers))[:, None]
    resamples = Resamples(name, "regression", labels, count=20)
    assert resamples.values(scores) == pytest.approx(slow(resamples, scores), abs=1e-9)


@given(st.permutations(range(24)), st.sampled_from(["accuracy", "matthews", "exact_match"]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_numbered_rows_does_not_matter(order, name):
    rng = np.random.default_rng(1)
    labels, scores = rows("binary", 24, rng)
    groups = np.repeat(np.arange(12), 2)
    straight = Resamples(name, KINDS["binary"], labels, groups, count=50)
    shuffled = Resamples(name, KINDS["binary"], labels[order], groups[order], count=50)
    assert shuffled.values(scores[order]) == pytest.approx(straight.values(scores))


def test_all_models_and_metrics_meet_the_same_rows():
    """A model's resamples less its own are 0, and those of accuracy and of its complement add to 1."""
    rng = np.random.default_rng(2)
    labels, scores = rows("binary", 50, rng)
    accuracy = Resamples("accuracy", KINDS["binary"], labels)
    assert np.array_equal(accuracy.values(scores), accuracy.values(scores))
    assert accuracy.values(scores) + accuracy.values(-scores) == pytest.approx(np.ones(1000))
    of_numbers = Resamples("mse", "regression", labels)
    wrong = (scores.argmax(axis=1) != labels).astype(float)
    assert of_numbers.values((labels + wrong)[:, None]) == pytest.approx(1 - accuracy.values(scores))
    other_seed = Resamples("accuracy", KINDS["binary"], labels, seed=1)
    assert not np.array_equal(accuracy.values(scores), other_seed.values(scores))


def test_spread_of_a_mean_is_the_textbooks():
    rng = np.random.default_rng(3)
    labels, scores = rows("binary", 300, rng)
    values = Resamples("accuracy", KINDS["binary"], labels, count=4000).values(scores)
    right = (scores.argmax(axis=1) == labels).mean()
    assert values.mean() == pytest.approx(right, abs=0.002)
    assert values.std() == pytest.approx(np.sqrt(right * (1 - right) / 300), rel=0.05)


def test_groups_are_drawn_whole():
    """Ten copies of each row vary as much as one of each."""
    rng = np.random.default_rng(4)
    labels, scores = rows("binary", 60, rng)
    alone = Resamples("accuracy", KINDS["binary"], labels)
    copies = Resamples("accuracy", KINDS["binary"], np.repeat(labels, 10), np.repeat(np.arange(60), 10))
    assert copies.units == alone.units == 60
    assert copies.values(np.repeat(scores, 10, axis=0)) == pytest.approx(alone.values(scores))


@pytest.mark.parametrize("name", ["accuracy", "f1", "f1_macro", "matthews"])
def test_a_thousand_resamples_of_a_thousand_rows_take_well_below_a_second(name):
    labels, scores = rows("binary", 1000, np.random.default_rng(5))
    resamples = Resamples(name, KINDS["binary"], labels)
    start = time.process_time()
    resamples.values(scores)
    assert time.process_time() - start < 0.5


def test_many_rows_are_resampled_in_parts(monkeypatch):
    labels, scores = rows("numbers", 30, np.random.default_rng(6))
    for name in ("spearman", "pearson", "mae"):
        resamples = Resamples(name, "regression", labels, count=25)
        together = resamples.values(scores)
        with monkeypatch.context() as patch:
            patch.setattr("gemma_encoder.study.resampling.AT_ONCE", 100)
            assert resamples.values(scores) == pytest.approx(together)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("bleu", "regression", np.zeros(3)), ConfigError, "no metric 'bleu'"),
        (("ndcg@10", "ranking", np.zeros(3)), ConfigError, "there are no groups"),
        (("exact_match", "single_label_classification", np.zeros(3)), ConfigError, "there are no groups"),
        (("mse", "regression", np.zeros(1)), DataError, "1 rows"),
        (("mse", "regression", np.zeros(0)), DataError, "0 rows"),
        (("accuracy", "single_label_classification", np.zeros(3), np.zeros(2)), DataError, "2 groups"),
        (("mse", "regression", np.zeros(3), None, None, 1), ConfigError, "count is 1"),
    ],
)
def test_what_cannot_be_resampled_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Resamples(*arguments)


def test_scores_that_do_not_fit_are_refused():
    resamples = Resamples("accuracy", "single_label_classification", np.array([0, 1, 1]))
    with pytest.raises(DataError, match="2 rows of scores and 3 labels"):
        resamples.values(np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="does not fit"):
        resamples.values(np.zeros((3, 1)))
