"""Metrics against values worked out by hand, from the definitions written out, and by properties."""

from __future__ import annotations

import itertools
import math
import statistics
import warnings

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.evaluation import (
    METRICS,
    check_metrics,
    compute_metrics,
    higher_is_better,
    majority_baseline,
    mean_interval,
)
from gemma_encoder.evaluation.evaluate import evaluate
from gemma_encoder.tasks import Split, get_task


def one_hot(classes: list[int], width: int) -> np.ndarray:
    return np.eye(width, dtype=np.float32)[classes]


# Predicted against true: TP 3, FN 1, FP 2, TN 4.
TRUE = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTED = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_binary_metrics_by_hand():
    got = compute_metrics(["accuracy", "f1", "f1_macro", "f1_micro", "matthews"], one_hot(PREDICTED, 2), TRUE)
    assert got["accuracy"] == pytest.approx(7 / 10)
    assert got["f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert got["f1_macro"] == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert got["f1_micro"] == pytest.approx(7 / 10)
    assert got["matthews"] == pytest.approx((3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))
    assert list(got) == ["accuracy", "f1", "f1_macro", "f1_micro", "matthews"]
    assert all(type(value) is float for value in got.values())


def test_f1_counts_class_1_as_positive():
    flipped = compute_metrics(["f1"], one_hot([1 - p for p in PREDICTED], 2), [1 - t for t in TRUE])
    assert flipped["f1"] == pytest.approx(2 * 4 / (2 * 4 + 2 + 1))


def test_three_classes_by_hand():
    got = compute_metrics(["accuracy", "f1_macro"], one_hot([0, 0, 1, 2, 2, 1], 3), [0, 1, 1, 2, 2, 2])
    assert got["accuracy"] == pytest.approx(4 / 6)
    assert got["f1_macro"] == pytest.approx((2 / 3 + 1 / 2 + 4 / 5) / 3)


def test_macro_f1_leaves_out_a_class_that_never_occurs():
    assert compute_metrics(["f1_macro"], one_hot([0, 1], 3), [0, 1])["f1_macro"] == 1.0


def test_the_first_of_equal_scores_wins():
    assert compute_metrics(["accuracy"], np.zeros((4, 2)), [0, 0, 0, 1])["accuracy"] == 0.75


def test_multi_label_by_hand():
    scores = np.array([[2.0, -1.0, 0.5], [-0.1, 3.0, -2.0], [1.0, -1.0, -1.0]])  # predicted: 101, 010, 100
    labels = [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    got = compute_metrics(["f1_micro", "f1_macro", "accuracy"], scores, labels)
    assert got["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert got["f1_macro"] == pytest.approx((2 / 4 + 1 + 1) / 3)
    assert got["accuracy"] == pytest.approx(1 / 3)


def test_multi_label_of_one_label_by_hand():
    scores = np.array([[2.0], [1.0], [-1.0], [-1.0], [-3.0]])  # predicted: 1, 1, 0, 0, 0
    got = compute_metrics(["f1_micro", "f1_macro", "accuracy"], scores, [[1], [0], [1], [0], [0]])
    assert got == {"f1_micro": pytest.approx(0.5), "f1_macro": pytest.approx(0.5), "accuracy": 3 / 5}
    never = compute_metrics(["f1_micro", "f1_macro"], np.array([[-1.0], [-2.0]]), [[0], [0]])
    assert never == {"f1_micro": 0.0, "f1_macro": 0.0}


def test_regression_by_hand():
    labels, scores = [1.0, 2.0, 3.0, 4.0], np.array([[1.0], [3.0], [2.0], [10.0]])
    got = compute_metrics(["pearson", "spearman", "mse", "mae"], scores, labels)
    dx, dy = [-1.5, -0.5, 0.5, 1.5], [-3.0, -1.0, -2.0, 6.0]
    covariance = sum(a * b for a, b in zip(dx, dy, strict=True))
    assert got["pearson"] == pytest.approx(
        covariance / math.sqrt(sum(a * a for a in dx) * sum(b * b for b in dy))
    )
    assert got["spearman"] == pytest.approx(1 - 6 * (0 + 1 + 1 + 0) / (4 * 15))
    assert got["mse"] == pytest.approx((0 + 1 + 1 + 36) / 4)
    assert got["mae"] == pytest.approx((0 + 1 + 1 + 6) / 4)
    assert compute_metrics(["mse"], scores[:, 0], labels)["mse"] == got["mse"]


def test_spearman_shares_the_rank_of_ties():
    # Ranks 1.5, 1.5, 3 against 1, 2, 3: Pearson of the ranks.
    got = compute_metrics(["spearman"], np.array([7.0, 7.0, 9.0]), [1.0, 2.0, 3.0])["spearman"]
    assert got == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=30), st.floats(0.1, 10)
)
def test_correlations_ignore_scale_and_stay_in_bounds(pairs, scale):
    labels, scores = np.array(pairs).round(3).T
    if np.ptp(labels) == 0 or np.ptp(scores) == 0:
        return
    got = compute_metrics(["pearson", "spearman"], scores, labels)
    moved = compute_metrics(["pearson", "spearman"], scores * scale + 3, labels)
    assert moved["pearson"] == pytest.approx(got["pearson"], abs=1e-6)
    assert all(-1.000001 <= value <= 1.000001 for value in got.values())


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("scores", "labels"), [([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [5.0, 5.0]), ([1.0], [2.0])]
)
def test_undefined_correlation_is_zero_and_says_so(name, scores, labels):
    with pytest.warns(RuntimeWarning, match="not defined"):
        assert compute_metrics([name], np.array(scores), labels) == {name: 0.0}


def test_matthews_of_constant_predictions_is_zero():
    assert compute_metrics(["matthews"], one_hot([1, 1, 1], 2), [0, 1, 1]) == {"matthews": 0.0}


@pytest.mark.parametrize(
    ("names", "scores", "labels", "error", "says"),
    [
        (["bleu"], [[0.0, 1.0]], [1], ConfigError, "no metric 'bleu'"),
        (["f1"], [[0.0, 1.0, 2.0]], [1], ConfigError, "'f1' does not fit data with more than two classes"),
        (["pearson"], [[0.0, 1.0]], [1], ConfigError, "'pearson' does not fit data with two classes"),
        (["accuracy"], [[0.5]], [1.0], ConfigError, "'accuracy' does not fit data with numbers"),
        (["matthews", "accuracy"], [[0.5, 1.0]], [[1, 0]], ConfigError, "several labels a row"),
        (["accuracy"], np.zeros((0, 2)), [], DataError, "0 rows of scores and 0 labels"),
        (["accuracy"], [[0.0, 1.0]], [1, 0], DataError, "1 rows of scores and 2 labels"),
        (["accuracy"], [[0.0, 1.0], [math.nan, 1.0]], [1, 0], DataError, "row 2"),
        (["accuracy"], [[0.0, 1.0], [0.0, 1.0]], [1, -1], DataError, "label -1 is no class of the 2"),
        (["accuracy"], [[0.0, 1.0]], [2], DataError, "label 2 is no class"),
        (["accuracy"], [[0.0, 1.0]], [0.5], DataError, "no class numbers"),
        (["mse"], [[0.0], [1.0]], [0.5, math.nan], DataError, "row 2"),
        (["f1_micro"], [[0.0, 1.0, 1.0]], [[1, 0]], DataError, "one score for each label"),
    ],
)
def test_bad_input_is_refused(names, scores, labels, error, says):
    with pytest.raises(error, match=says):
        compute_metrics(names, np.array(scores), labels)


def test_check_metrics_before_training():
    for problem_type, width, fitting in [
        ("single_label_classification", 2, {"accuracy", "f1", "f1_macro", "f1_micro", "matthews"}),
        ("single_label_classification", 3, {"accuracy", "f1_macro", "f1_micro", "matthews"}),
        ("multi_label_classification", 2, {"accuracy", "f1_macro", "f1_micro"}),
        ("regression", 1, {"pearson", "spearman", "mse", "mae"}),
        ("ranking", 1, {"accuracy", "ndcg@10", "rr@10"}),
    ]:
        for name in METRICS:
            if name in fitting:
                check_metrics([name], problem_type, width)
            else:
                with pytest.raises(ConfigError):
                    check_metrics([name], problem_type, width)


def test_direction():
    assert higher_is_better("matthews") and not higher_is_better("mse")
    with pytest.raises(ConfigError):
        higher_is_better("bleu")


def test_majority_baseline_of_classes():
    assert majority_baseline([1, 1, 0], ["accuracy", "f1", "matthews"], "single_label_classification") == {
        "accuracy": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "matthews": 0.0,
    }
    only_one = majority_baseline([0, 0], ["accuracy"], "single_label_classification", num_labels=3)
    assert only_one["accuracy"] == 1.0


def test_majority_baseline_of_numbers_and_label_sets():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = majority_baseline([0.0, 2.0, 4.0], ["pearson", "mse"], "regression")
    assert got == {"pearson": 0.0, "mse": pytest.approx((4 + 0 + 4) / 3)}
    rows = [[1, 0], [1, 1], [1, 0]]  # the first label is on in most rows, the second is not
    assert majority_baseline(rows, ["accuracy"], "multi_label_classification")["accuracy"] == pytest.approx(
        2 / 3
    )
    with pytest.raises(DataError):
        majority_baseline([], ["accuracy"], "single_label_classification")


def test_interval_by_the_printed_t_table():
    values = [0.80, 0.83, 0.88]
    mean, half = mean_interval(values)
    assert mean == pytest.approx(statistics.fmean(values))
    assert half == pytest.approx(4.303 * statistics.stdev(values) / math.sqrt(3), rel=1e-3)  # t(0.975, 2)
    assert mean_interval(values, 0.9)[1] == pytest.approx(
        2.920 * statistics.stdev(values) / math.sqrt(3), rel=1e-3
    )


def test_interval_of_one_value_of_none_and_of_a_wrong_confidence():
    assert mean_interval([0.5]) == (0.5, None)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.0)
    with pytest.raises(DataError):
        mean_interval([])
    with pytest.raises(ConfigError, match="confidence"):
        mean_interval([0.5, 0.6], 95)


# ------------------------------------------------------------------------- rows that are judged together


def test_multirc_by_hand():
    """Two questions; of the first one answer is wrong, of the second all are right."""
    labels, predicted, groups = [1, 0, 1, 1, 0], [1, 1, 1, 1, 0], [7, 7, 7, 3, 3]
    got = compute_metrics(["f1", "exact_match"], one_hot(predicted, 2), labels, groups=groups)
    assert got["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 0))  # over all answers, TP 3, FP 1, FN 0
    assert got["exact_match"] == 0.5


def test_gender_parity_counts_equal_answers_right_or_wrong():
    predicted, groups = [1, 1, 0, 1, 0, 0], [0, 0, 1, 1, 2, 2]
    got = compute_metrics(
        ["gender_parity", "accuracy"], one_hot(predicted, 2), [0, 0, 1, 1, 0, 0], groups=groups
    )
    assert got == {"gender_parity": pytest.approx(2 / 3), "accuracy": pytest.approx(3 / 6)}


def test_the_candidate_with_the_highest_score_of_its_list_is_chosen():
    scores = np.array([[0.1], [5.0], [0.3], [0.2], [1.0], [1.0]])
    labels, groups = (
        [0.0, 1.0, 0.0, 1.0, 1.0, 0.0],
        [0, 0, 1, 1, 2, 2],
    )  # right, wrong, right (first of equals)
    assert compute_metrics(["accuracy"], scores, labels, groups=groups) == {"accuracy": pytest.approx(2 / 3)}


RECORD = ["answer_f1", "answer_exact_match"]


@pytest.mark.parametrize(
    ("chosen", "f1", "exact"),
    [
        (0, 1.0, 1.0),  # "The United States" is "United States": articles and case don't count
        (1, 2 * 1 / (1 + 2), 0.0),  # "States" shares one word of two
        (2, 0.0, 0.0),
        (3, 1.0, 1.0),
    ],
)
def test_record_takes_the_best_of_the_right_answers(chosen, f1, exact):
    candidates = ["The United States", "states", "Obama", "U.S."]
    right = [0.0, 0.0, 0.0, 1.0, 1.0]
    candidates.append("United States")
    scores = one_hot([chosen], 5).T
    got = compute_metrics(RECORD, scores, right, groups=[0] * 5, candidates=candidates)
    assert got == {"answer_f1": pytest.approx(f1), "answer_exact_match": exact}


def test_a_list_without_a_right_candidate_counts_as_wrong():
    scores, groups = np.array([[1.0], [0.0]]), [0, 1]
    got = compute_metrics([*RECORD, "accuracy"], scores, [0.0, 1.0], groups=groups, candidates=["a b", "c"])
    assert got == {"answer_f1": 0.5, "answer_exact_match": 0.5, "accuracy": 0.5}


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-50, 50)), min_size=1), st.randoms())
def test_the_order_of_rows_does_not_matter(rows, random):
    scores = np.array([[score + place / 1000] for place, (_, _, score) in enumerate(rows)])  # no two equal
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    results = []
    for order in (range(len(rows)), shuffled):
        groups = [rows[row][0] for row in order]
        labels = [int(rows[row][1]) for row in order]
        names = [str(rows[row][2]) for row in order]
        results.append(
            compute_metrics(
                ["accuracy", *RECORD], scores[list(order)], labels, groups=groups, candidates=names
            )
            | compute_metrics(
                ["exact_match", "f1"], np.hstack([-scores, scores])[list(order)], labels, groups=groups
            )
        )
    assert results[0] == pytest.approx(results[1])


def test_metrics_of_groups_want_groups():
    for name, scores, options in (
        ("exact_match", [[0.0, 1.0]], {}),
        ("gender_parity", [[0.0, 1.0]], {}),
        ("answer_f1", [[1.0]], {"groups": [0]}),
    ):
        with pytest.raises(ConfigError, match=f"{name}.*judges rows together"):
            compute_metrics([name], np.array(scores), [1], **options)
    check_metrics(["exact_match"], "single_label_classification", 2, groups=True)
    check_metrics(RECORD, "ranking", 1, groups=True, candidates=True)


def test_baseline_of_lists_is_the_place_that_is_right_most_often():
    labels, groups = [0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 2, 2]
    assert majority_baseline(labels, ["accuracy"], "ranking", groups=groups)["accuracy"] == pytest.approx(
        2 / 3
    )


def test_equal_scores_count_against_the_model():
    """Positives come first in many files: a model that scores all alike must not look perfect."""
    names, grades, groups = ["ndcg@10", "rr@10"], [2, 1, 0, 0], [0, 0, 0, 0]
    alike = compute_metrics(names, np.zeros((4, 1)), grades, groups=groups)
    assert alike == compute_metrics(names, np.arange(4.0)[:, None], grades, groups=groups)
    assert alike["rr@10"] == pytest.approx(1 / 3)
    tied = compute_metrics(names, np.array([[1.0], [1.0], [2.0], [0.0]]), grades, groups=groups)
    assert tied["ndcg@10"] == pytest.approx((1 / np.log2(3) + 2 / 2) / (2 + 1 / np.log2(3)))


@pytest.mark.parametrize("grades", [[1, 0, 0], [2, 1, 0, 0, 0, -1], [1] + [0] * 11, [1, 1], [0, 0]])
def test_the_baseline_of_an_order_is_a_random_one(grades):
    """The mean over all orders; of twelve documents, over all places of the relevant one."""
    names, groups = ["ndcg@10", "rr@10"], [0] * len(grades)
    orders = (
        set(itertools.permutations(grades))
        if len(grades) < 12
        else [[float(place == right) for place in range(12)] for right in range(12)]
    )
    scores = -np.arange(len(grades), dtype=float)[:, None]
    values = [compute_metrics(names, scores, order, groups=groups) for order in orders]
    for order in (grades, grades[::-1]):
        baseline = majority_baseline(order, names, "ranking", groups=groups)
        for name in names:
            assert baseline[name] == pytest.approx(np.mean([value[name] for value in values]))


def test_nothing_to_judge():
    none = Split(Dataset.from_dict({"text": [], "label": [], "row": []}), "rows.csv")
    with pytest.raises(DataError, match=r"no rows to judge \[rows.csv\]"):
        evaluate(None, none, get_task("sst2"))
