"""Official metrics by name, on scikit-learn and scipy; the baseline that knows no text; intervals over
seeds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from ..errors import ConfigError, DataError
from ..losses import ProblemType
from ..scoring import labels_on

Array = np.ndarray
Kind = Literal["binary", "classes", "multi_label", "numbers"]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed from `(labels, predictions)`, what it applies to and which way is up."""

    function: Callable[[Array, Array], Any]
    kinds: tuple[Kind, ...]
    higher_is_better: bool = True


def _f1(average: str) -> Callable[[Array, Array], Any]:
    def score(labels: Array, predicted: Array) -> Any:
        # scikit-learn takes a single column for two classes and would judge label 0 as well.
        kind = "binary" if labels.ndim == 2 and labels.shape[1] == 1 else average
        return sk.f1_score(labels, predicted, average=kind, zero_division=0)

    return score


def _correlation(function: Callable[[Array, Array], Any], name: str) -> Callable[[Array, Array], float]:
    def correlate(labels: Array, predicted: Array) -> float:
        if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predicted) == 0:
            message = f"{name} is not defined for one row or constant values; it counts as 0"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
            return 0.0
        return float(function(labels, predicted).statistic)

    return correlate


_ALL_CLASSES: tuple[Kind, ...] = ("binary", "classes", "multi_label")

METRICS: dict[str, Metric] = {
    "accuracy": Metric(sk.accuracy_score, _ALL_CLASSES),
    "f1": Metric(_f1("binary"), ("binary",)),
    "f1_macro": Metric(_f1("macro"), _ALL_CLASSES),
    "f1_micro": Metric(_f1("micro"), _ALL_CLASSES),
    "matthews": Metric(sk.matthews_corrcoef, ("binary", "classes")),
    "pearson": Metric(_correlation(stats.pearsonr, "pearson"), ("numbers",)),
    "spearman": Metric(_correlation(stats.spearmanr, "spearman"), ("numbers",)),
    "mse": Metric(sk.mean_squared_error, ("numbers",), higher_is_better=False),
    "mae": Metric(sk.mean_absolute_error, ("numbers",), higher_is_better=False),
}


def compute_metrics(names: Sequence[str], scores: Array, labels: Any) -> dict[str, float]:
    """Judge scores.

    The class predicted is the one with the highest score (the first of equal ones); in multi-label data every
    label that applies (`scoring.labels_on`). `f1` is that of class 1; `f1_macro` is the mean over the classes
    that occur in labels or predictions (multi-label: over all labels), a class without a hit counting 0;
    multi-label `accuracy` wants the whole row right. `matthews` of constant predictions is 0, and so are
    `pearson` and `spearman` where they are not defined (constant labels or predictions, a single row), with a
    RuntimeWarning.

    Args:
        names: Which metrics, of `METRICS`.
        scores: `[N, num_labels]` logits; for regression `[N, 1]` or `[N]`.
        labels: `[N]` class numbers, `[N]` numbers, or `[N, num_labels]` zeros and ones.

    Returns:
        A value for each name, in the order of `names`.

    Raises:
        ConfigError: A metric has an unknown name, or does not fit the data.
        DataError: There are no rows, shapes don't match, a score is not finite, a label is no class.
    """
    kind, labels, predicted = _prepare(names, np.asarray(scores), np.asarray(labels))
    _check(names, kind)
    return {name: float(METRICS[name].function(labels, predicted)) for name in names}


def check_metrics(names: Sequence[str], problem_type: ProblemType, num_labels: int) -> None:
    """Refuse unknown or unfitting metrics before hours are spent on training.

    Raises:
        ConfigError: Names the metric and those that fit.
    """
    classes: Kind = "binary" if num_labels == 2 else "classes"
    kinds: dict[ProblemType, Kind] = {
        "single_label_classification": classes,
        "multi_label_classification": "multi_label",
        "regression": "numbers",
    }
    _check(names, kinds[problem_type])


def higher_is_better(name: str) -> bool:
    """Which way is up for a metric."""
    _check((name,), None)
    return METRICS[name].higher_is_better


def majority_baseline(
    labels: Any,
    names: Sequence[str],
    problem_type: ProblemType,
    *,
    num_labels: int | None = None,
) -> dict[str, float]:
    """What a predictor that never looks at the text scores.

    It answers with the commonest class of the rows it is judged by (of equally common ones the lowest), with
    their mean, or with the labels that are on in more than half of them.

    Args:
        labels: Labels to judge by, as in `compute_metrics`.
        names: Which metrics.
        problem_type: What the labels are.
        num_labels: How many classes there are; by default the highest class number seen, and at least two.
    """
    labels = np.asarray(labels)
    if not labels.size:
        raise DataError("there are no rows to judge", fix="give at least one")
    if problem_type == "regression":
        scores = np.full((len(labels), 1), labels.astype(np.float64).mean())
    elif problem_type == "multi_label_classification":
        scores = np.tile(labels.mean(axis=0) - 0.5, (len(labels), 1))
    else:
        width = num_labels or max(2, int(labels.max()) + 1)
        scores = np.tile(np.bincount(labels, minlength=width).astype(np.float64), (len(labels), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that its correlation is not defined is no news
        return compute_metrics(names, scores, labels)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    """Mean over seeds and half the width of its Student t interval (n - 1 degrees of freedom).

    Returns:
        `(mean, half_width)`; the half width is None for a single value, which says nothing about spread.

    Raises:
        DataError: There are no values.
        ConfigError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}", fix="give a number between 0 and 1")
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise DataError("there are no values to take the mean of", fix="give at least one")
    mean = float(numbers.mean())
    if numbers.size == 1:
        return mean, None
    standard_error = float(numbers.std(ddof=1)) / np.sqrt(numbers.size)
    return mean, float(stats.t.ppf((1 + confidence) / 2, numbers.size - 1) * standard_error)


def _prepare(names: Sequence[str], scores: Array, labels: Array) -> tuple[Kind, Array, Array]:
    """What kind of data this is, the labels, and the predictions that stand against them."""
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
    }
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"there is no metric {name!r}", fix=f"use one of {', '.join(METRICS)}")
        if kind and kind not in METRICS[name].kinds:
            fitting = ", ".join(other for other, metric in METRICS.items() if kind in metric.kinds)
            raise ConfigError(
                f"metric {name!r} does not fit data with {data[kind]}", fix=f"use one of {fitting}"
            )
