"""Metrics of classes from a confusion matrix: those of `metrics`, fast enough for thousands of resamples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def confusion(labels: Array, predicted: Array, classes: int) -> Array:
    """How often each class (row) was called each class (column), int `[classes, classes]`."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _accuracy(matrix: Array) -> float:
    return float(np.trace(matrix) / matrix.sum())


def _f1_of_classes(matrix: Array) -> Array:
    """F1 of each class that occurs in labels or predictions."""
    occurs = matrix.sum(axis=0) + matrix.sum(axis=1)
    return 2 * np.diag(matrix)[occurs > 0] / occurs[occurs > 0]


def _f1(matrix: Array) -> float:
    occurs = matrix[1].sum() + matrix[:, 1].sum()
    return float(2 * matrix[1, 1] / occurs) if occurs else 0.0


def _matthews(matrix: Array) -> float:
    labels, predicted, total = matrix.sum(axis=1), matrix.sum(axis=0), matrix.sum()
    covariance = np.trace(matrix) * total - labels @ predicted
    spread = (total**2 - labels @ labels) * (total**2 - predicted @ predicted)
    return float(covariance / np.sqrt(spread)) if spread else 0.0


FROM_CONFUSION: dict[str, Callable[[Array], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": lambda matrix: float(_f1_of_classes(matrix).mean()),
    "f1_micro": _accuracy,  # where each row has one class and one answer
    "matthews": _matthews,
}
"""Metrics by name, as `metrics.METRICS` computes them for rows of one class each."""
