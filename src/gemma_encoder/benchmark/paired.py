"""The main model against another one, and against the majority, on the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import numpy as np

from ..errors import DataError
from ..evaluation import compute_metrics
from ..evaluation.baseline import majority_scores
from ..evaluation.comparison import Comparison, compare
from ..evaluation.confusion import FROM_CONFUSION, confusion
from ..tasks import Task, get_task
from .judged import Judged, common_splits

MANY_ROWS = 100_000
"""A comparison over more rows than these (ReCoRD's candidates) is resampled a tenth as often."""

Columns = dict[str, Any]


def against(main: Sequence[Judged], other: Sequence[Judged], resamples: int) -> Comparison:
    """The main model's score less another one's, by the rows of all splits, seeds averaged.

    Raises:
        DataError: They weren't judged by the same rows, or scores are missing.
    """
    splits = common_splits(main)
    if splits != common_splits(other):
        raise DataError("they were not judged by the same splits")
    loaded = [[judged.load(split) for split in splits] for judged in (*main, *other)]
    _check_same_rows(loaded)
    scores = [_below_each_other(data) for data in loaded]
    task = get_task(main[0].task)
    return _compare(task, task.metrics, loaded[0], scores[: len(main)], scores[len(main) :], resamples)


def majority_metrics(task: str) -> tuple[str, ...]:
    """By what a model is compared with the majority: accuracy where the task has it, else all of its metrics.

    None on MultiRC: the majority's F1 is 0 there, and any other answers lift it, right or not. For the same
    reason F1 doesn't count beside accuracy, nor does gender parity, which is perfect for a constant.
    """
    names = get_task(task).metrics
    if "accuracy" in names:
        return ("accuracy",)
    return () if "f1" in names else names


def against_majority(main: Sequence[Judged], resamples: int) -> Comparison:
    """The main model against the predictor that knows no text and gives one answer to every row of a split,
    by `majority_metrics`, of which there must be one.

    Raises:
        DataError: Seeds weren't judged by the same rows, or scores are missing.
    """
    splits, task = common_splits(main), get_task(main[0].task)
    loaded = [[judged.load(split) for split in splits] for judged in main]
    _check_same_rows(loaded)
    constant = [
        majority_scores(
            data["labels"], task.problem_type, num_labels=len(task.labels), groups=data.get("groups")
        )
        for data in loaded[0]
    ]
    scores = [_below_each_other(data) for data in loaded]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that a constant has no correlation is no news
        names = majority_metrics(task.name)
        return _compare(task, names, loaded[0], scores, [np.concatenate(constant)], resamples)


def _check_same_rows(loaded: Sequence[Sequence[Columns]]) -> None:
    for judged in loaded[1:]:
        for data, first in zip(judged, loaded[0], strict=True):
            if not np.array_equal(data["labels"], first["labels"]):
                raise DataError("they were not judged by the same rows")


def _below_each_other(splits: Sequence[Columns]) -> np.ndarray:
    return np.concatenate([data["scores"] for data in splits])


def _compare(
    task: Task,
    metrics: Sequence[str],
    splits: Sequence[Columns],
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    resamples: int,
) -> Comparison:
    statistic, groups = _statistic(task, metrics, splits)
    if len(groups) > MANY_ROWS:
        resamples //= 10
    return compare(first, second, statistic, groups=groups, resamples=resamples)


def _statistic(
    task: Task, names: Sequence[str], splits: Sequence[Columns]
) -> tuple[Callable[[np.ndarray], float], Any]:
    """The mean of metrics and splits as a function of the scores of all splits, one below the other; and
    which of the rows are judged together."""
    classes = task.problem_type == "single_label_classification"
    fast = [name for name in names if classes and name in FROM_CONFUSION]
    slow = [name for name in names if name not in fast]
    ends = np.cumsum([len(split["labels"]) for split in splits])[:-1]

    def statistic(scores: np.ndarray) -> float:
        values = []
        for part, split in zip(np.split(scores, ends), splits, strict=True):
            of_split = []
            if fast:
                matrix = confusion(split["labels"], part.argmax(axis=1), part.shape[1])
                of_split += [FROM_CONFUSION[name](matrix) for name in fast]
            if slow:
                together = {"groups": split.get("groups"), "candidates": split.get("candidates")}
                of_split += compute_metrics(slow, part, split["labels"], **together).values()
            values.append(mean(of_split))
        return mean(values)

    groups, offset = [], 0
    for split in splits:
        own = split.get("groups", np.arange(len(split["labels"])))
        groups.append(own + offset)
        offset += int(own.max()) + 1
    return statistic, np.concatenate(groups)
