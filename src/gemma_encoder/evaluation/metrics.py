"""Official metrics by name: what each applies to, and scores judged by them.

Rows may be judged in groups: the answers to one question, the candidates of one list, the two sentences of a
minimal pair. In a ranking task each row is a candidate and its group the list it competes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from ..errors import ConfigError, DataError
from ..losses import ProblemType
from ..scoring import labels_on
from ..tasks.base import CANDIDATE, GROUP
from . import metric_functions as functions
from .metric_functions import Array, Judged

Kind = Literal["binary", "classes", "multi_label", "numbers", "lists"]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, what it applies to, which way is up, and what rows must have.

    `by_chance` is what a random order is expected to score, for metrics of a whole order.
    """

    function: Callable[[Judged], Any]
    kinds: tuple[Kind, ...]
    higher_is_better: bool = True
    needs_groups: bool = False
    needs_candidates: bool = False
    by_chance: Callable[[Judged], float] | None = None


_ALL_CLASSES: tuple[Kind, ...] = ("binary", "classes", "multi_label")

METRICS: dict[str, Metric] = {
    "accuracy": Metric(functions.accuracy, (*_ALL_CLASSES, "lists")),
    "f1": Metric(functions.f1("binary"), ("binary",)),
    "f1_macro": Metric(functions.f1("macro"), _ALL_CLASSES),
    "f1_micro": Metric(functions.f1("micro"), _ALL_CLASSES),
    "matthews": Metric(functions.by_row(sk.matthews_corrcoef), ("binary", "classes")),
    "exact_match": Metric(functions.exact_match, _ALL_CLASSES, needs_groups=True),
    "gender_parity": Metric(functions.gender_parity, ("binary", "classes"), needs_groups=True),
    "answer_f1": Metric(functions.over_answers(functions.token_f1), ("lists",), needs_candidates=True),
    "answer_exact_match": Metric(
        functions.over_answers(functions.same_answer), ("lists",), needs_candidates=True
    ),
    "ndcg@10": Metric(functions.ndcg, ("lists",), by_chance=functions.ndcg_by_chance),
    "rr@10": Metric(functions.reciprocal_rank, ("lists",), by_chance=functions.reciprocal_rank_by_chance),
    "pearson": Metric(functions.correlation(stats.pearsonr, "pearson"), ("numbers",)),
    "spearman": Metric(functions.correlation(stats.spearmanr, "spearman"), ("numbers",)),
    "mse": Metric(functions.by_row(sk.mean_squared_error), ("numbers",), higher_is_better=False),
    "mae": Metric(functions.by_row(sk.mean_absolute_error), ("numbers",), higher_is_better=False),
}


def compute_metrics(
    names: Sequence[str],
    scores: Array,
    labels: Any,
    *,
    groups: Any = None,
    candidates: Sequence[str] | None = None,
) -> dict[str, float]:
    """Judge scores.

    The class predicted is the one with the highest score (the first of equal ones); in multi-label data every
    label that applies (`scoring.labels_on`). `f1` is that of class 1; `f1_macro` is the mean over the classes
    that occur in labels or predictions (multi-label: over all labels), a class without a hit counting 0;
    multi-label `accuracy` wants the whole row right. `matthews` of constant predictions is 0, and so are
    `pearson` and `spearman` where they are not defined (constant labels or predictions, a single row), with a
    RuntimeWarning.

    One score a row and `groups` are lists: the candidate with the highest score of its list is chosen (the
    first of equal ones), and `accuracy` is the share of lists where it is right. `answer_f1` and
    `answer_exact_match` compare the words of the chosen candidate with those of the right ones, and take the
    best. `ndcg@10` and `rr@10` are means over lists, of which one without a relevant candidate counts 0; the
    ideal of `ndcg@10` is that of the list, which lacks what was not retrieved. They take the least relevant
    of equal scores first, so that the order of the rows tells nothing. `exact_match` is the share of groups
    in which all rows are right, `gender_parity` the share whose rows get the same answer.

    Args:
        names: Which metrics, of `METRICS`.
        scores: `[N, num_labels]` logits; for regression `[N, 1]` or `[N]`.
        labels: `[N]` class numbers, `[N]` numbers, or `[N, num_labels]` zeros and ones.
        groups: Which rows are judged together, int `[N]`.
        candidates: What each row stands for, `[N]`.

    Returns:
        A value for each name, in the order of `names`.

    Raises:
        ConfigError: A metric has an unknown name, or does not fit the data.
        DataError: There are no rows, shapes don't match, a score is not finite, a label is no class.
    """
    judged = judged_rows(names, scores, labels, groups=groups, candidates=candidates)
    return {name: float(METRICS[name].function(judged)) for name in names}


def judged_rows(
    names: Sequence[str],
    scores: Array,
    labels: Any,
    *,
    groups: Any = None,
    candidates: Sequence[str] | None = None,
) -> Judged:
    """What metrics compare: the model's answers beside the right ones. As `compute_metrics`."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    groups = None if groups is None else np.asarray(groups)
    if groups is not None and scores.size == len(scores):
        _check(names, "lists")
        judged = _chosen(_finite(scores, labels), labels, groups, candidates)
    else:
        kind, labels, predicted = _prepare(names, scores, labels)
        _check(names, kind)
        judged = Judged(labels, predicted, groups, candidates)
    _check_columns(names, groups is not None, candidates is not None)
    return judged


def _chosen(scores: Array, grades: Array, groups: Array, candidates: Sequence[str] | None) -> Judged:
    """Each list's candidate with the highest score, the first of equal ones."""
    order = np.lexsort((-scores[:, 0], groups))  # stable: equal scores stay in their order
    firsts = order[np.unique(groups[order], return_index=True)[1]]
    predicted = np.zeros(len(groups), dtype=bool)
    predicted[firsts] = True
    return Judged(grades > 0, predicted, groups, candidates, grades, scores[:, 0])


def check_metrics(
    names: Sequence[str],
    problem_type: ProblemType,
    num_labels: int,
    *,
    groups: bool = False,
    candidates: bool = False,
) -> None:
    """Refuse unknown or unfitting metrics before hours are spent on training.

    Args:
        names: Which metrics.
        problem_type: What the labels are.
        num_labels: How many classes there are.
        groups: Whether rows come in groups.
        candidates: Whether rows say what they stand for.

    Raises:
        ConfigError: Names the metric and those that fit.
    """
    classes: Kind = "binary" if num_labels == 2 else "classes"
    kinds: dict[ProblemType, Kind] = {
        "single_label_classification": classes,
        "multi_label_classification": "multi_label",
        "regression": "numbers",
        "ranking": "lists",
    }
    _check(names, kinds[problem_type])
    _check_columns(names, groups, candidates)


def higher_is_better(name: str) -> bool:
    """Which way is up for a metric."""
    _check((name,), None)
    return METRICS[name].higher_is_better


def _finite(scores: Array, labels: Array) -> Array:
    """Scores as `[N, num_labels]`, one row for each label and each of them finite."""
    if not len(labels) or len(labels) != len(scores):
        raise DataError(
            f"there are {len(scores)} rows of scores and {len(labels)} labels", fix="give as many of both"
        )
    scores = scores.astype(np.float64).reshape(len(labels), -1)
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(
            f"a score is {scores[row].tolist()}, not finite", where=f"row {row + 1} of those scored"
        )
    return scores


def _prepare(names: Sequence[str], scores: Array, labels: Array) -> tuple[Kind, Array, Array]:
    """What kind of data this is, the labels, and the predictions that stand against them."""
    scores = _finite(scores, labels)
    if labels.ndim == 2 and any("multi_label" in METRICS[name].kinds for name in names if name in METRICS):
        if labels.shape != scores.shape:
            raise DataError(
                f"scores are {scores.shape}, labels {labels.shape}", fix="give one score for each label"
            )
        return "multi_label", labels.astype(np.int64), labels_on(scores).astype(np.int64)
    if scores.shape[1] == 1:
        labels = labels.astype(np.float64).reshape(-1)
        if not np.isfinite(labels).all():
            row = int(np.argmin(np.isfinite(labels)))
            raise DataError(f"a label is {labels[row]}, not finite", where=f"row {row + 1} of those scored")
        return "numbers", labels, scores[:, 0]
    if labels.ndim != 1 or not np.equal(np.mod(labels, 1), 0).all():
        raise DataError(
            f"labels of shape {labels.shape} are no class numbers", fix="give one class number a row"
        )
    outside = (labels < 0) | (labels >= scores.shape[1])
    if outside.any():
        row = int(np.argmax(outside))
        what = f"label {labels[row]} is no class of the {scores.shape[1]} scored"
        raise DataError(
            what, where=f"row {row + 1} of those scored", fix="-1 marks rows without a label: leave them out"
        )
    return ("binary" if scores.shape[1] == 2 else "classes"), labels.astype(np.int64), scores.argmax(axis=1)


def _check(names: Sequence[str], kind: Kind | None) -> None:
    data = {
        "binary": "two classes",
        "classes": "more than two classes",
        "multi_label": "several labels a row",
        "numbers": "numbers",
        "lists": "lists of candidates",
    }
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"there is no metric {name!r}", fix=f"use one of {', '.join(METRICS)}")
        if kind and kind not in METRICS[name].kinds:
            fitting = ", ".join(other for other, metric in METRICS.items() if kind in metric.kinds)
            raise ConfigError(
                f"metric {name!r} does not fit data with {data[kind]}", fix=f"use one of {fitting}"
            )


def _check_columns(names: Sequence[str], groups: bool, candidates: bool) -> None:
    for name in names:
        for column, there, needed in (
            (GROUP, groups, METRICS[name].needs_groups),
            (CANDIDATE, candidates, METRICS[name].needs_candidates),
        ):
            if needed and not there:
                raise ConfigError(
                    f"metric {name!r} judges rows together, and these have no {column!r}",
                    fix="leave it out; a few built-in tasks have it",
                )
