"""The baseline that knows no text."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from ..losses import ProblemType
from .metrics import METRICS, judged_rows


def majority_baseline(
    labels: Any,
    names: Sequence[str],
    problem_type: ProblemType,
    *,
    num_labels: int | None = None,
    groups: Any = None,
    candidates: Sequence[str] | None = None,
) -> dict[str, float]:
    """What a predictor that never looks at the text scores.

    It answers with the commonest class of the rows it is judged by (of equally common ones the lowest), with
    their mean, with the labels that are on in more than half of them, or with the candidate at the place in
    its list that is most often right. A whole order (`ndcg@10`, `rr@10`) it draws at random, and the value is
    the expected one: files often have the relevant documents first, and their order would tell everything.

    Args:
        labels: Labels to judge by, as in `compute_metrics`.
        names: Which metrics.
        problem_type: What the labels are.
        num_labels: How many classes there are; by default the highest class number seen, and at least two.
        groups: As in `compute_metrics`.
        candidates: As in `compute_metrics`.
    """
    scores = majority_scores(labels, problem_type, num_labels=num_labels, groups=groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that its correlation is not defined is no news
        judged = judged_rows(names, scores, labels, groups=groups, candidates=candidates)
        chosen = [METRICS[name] for name in names]
        values = [float((metric.by_chance or metric.function)(judged)) for metric in chosen]
    return dict(zip(names, values, strict=True))


def majority_scores(
    labels: Any, problem_type: ProblemType, *, num_labels: int | None = None, groups: Any = None
) -> np.ndarray:
    """The scores of that predictor, float64 `[N, C]`: row by row, for a paired comparison with it.

    Args:
        labels: As in `majority_baseline`, like the others.
        problem_type: What the labels are.
        num_labels: How many classes there are.
        groups: Which rows are a list; needed in ranking.

    Raises:
        DataError: There are no rows.
    """
    labels = np.asarray(labels)
    if not labels.size:
        raise DataError("there are no rows to judge", fix="give at least one")
    if problem_type == "regression":
        return np.full((len(labels), 1), labels.astype(np.float64).mean())
    if problem_type == "ranking":
        places = _places(np.asarray(groups))
        commonest = np.bincount(places[labels > 0], minlength=1).argmax()
        return (places == commonest)[:, None].astype(np.float64)
    if problem_type == "multi_label_classification":
        return np.tile(labels.mean(axis=0) - 0.5, (len(labels), 1))
    width = num_labels or max(2, int(labels.max()) + 1)
    return np.tile(np.bincount(labels, minlength=width).astype(np.float64), (len(labels), 1))


def _places(groups: np.ndarray) -> np.ndarray:
    """Each row's place in its group, from 0."""
    seen: Counter[int] = Counter()
    places = []
    for group in groups.tolist():
        places.append(seen[group])
        seen[group] += 1
    return np.asarray(places)
