"""Bootstrap resamples of a task's rows, the same for every arm and seed that is judged on them.

Every metric but Spearman's is a function of sums over rows, or the mean of a value that each group has. So
the rows of a resample are never put together: how often each row was drawn, `[B, N]`, times what each row
adds, `[N, K]`, gives the sums of all resamples at once. Spearman's ranks are computed from the same counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, DataError
from ..evaluation.confusion import FROM_CONFUSION
from ..evaluation.metric_functions import Judged
from ..evaluation.metrics import METRICS, judged_rows

if TYPE_CHECKING:
    from ..losses import ProblemType

Array = np.ndarray

AT_ONCE = 4_000_000
"""Most counts that are held as float64 at a time: 32 MB."""
CONSTANT = 1e-12
"""A resample whose variance is this share of all rows' is constant but for rounding."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """Resamples of the rows that all arms of a task are judged on.

    Rows are drawn with replacement, as many as there are; groups are drawn whole, and one that is drawn twice
    counts as two. What is drawn depends on `seed`, `count` and the number of rows or groups alone, so two
    metrics of the same rows may be averaged resample by resample. Where rows are numbered by `groups`, their
    order does not matter.

    Attributes:
        metric: Name of the metric, of `evaluation.METRICS`.
        problem_type: What the labels are.
        labels: `[N]` class numbers, `[N]` numbers, or `[N, num_labels]` zeros and ones.
        groups: Which rows are judged together, int `[N]`.
        candidates: What each row stands for, `[N]`.
        count: How many resamples, B.
        seed: Seed of the drawing.

    Raises:
        ConfigError: There is no such metric, fewer than two resamples, or groups are lacking.
        DataError: There are fewer than two rows or groups to draw from, or not as many groups as rows.
    """

    metric: str
    problem_type: ProblemType
    labels: Array
    groups: Array | None = None
    candidates: Sequence[str] | None = None
    count: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"there is no metric {self.metric!r}", fix=f"use one of {', '.join(METRICS)}")
        if self.count < 2:
            raise ConfigError(f"count is {self.count}", fix="take at least 2 resamples, better 1000")
        if self._is_mean_of_groups and self.groups is None:
            raise ConfigError(
                f"metric {self.metric!r} ({self.problem_type}) judges rows together, and there are no groups",
                fix="say which rows belong together",
            )
        if self.groups is not None and len(self.groups) != len(self.labels):
            raise DataError(
                f"there are {len(self.labels)} labels and {len(self.groups)} groups",
                fix="give as many of both",
            )
        if self.units < 2:
            raise DataError(
                f"there are {self.units} rows or groups to draw from", fix="judge by at least two of them"
            )

    @cached_property
    def units(self) -> int:
        """How many rows there are to draw from; groups, where rows come in groups."""
        return int(self._unit.max(initial=-1)) + 1

    def values(self, scores: Array) -> Array:
        """The metric in each resample.

        Args:
            scores: `[N, C]` of one model, in the order of the labels.

        Returns:
            Metric values, float64 `[B]`: what `compute_metrics` gives for the rows of each resample.

        Raises:
            ConfigError: The metric does not fit the data.
            DataError: Shapes don't match, or a score is not finite.
        """
        judged = judged_rows(
            (self.metric,), scores, self.labels, groups=self.groups, candidates=self.candidates
        )
        if self.metric == "spearman":
            return self._spearman(judged)
        if self._is_mean_of_groups:
            of_units = self._groups_alone(judged)[:, None]
            return np.concatenate([counts @ of_units for counts in self._counts()])[:, 0] / self.units
        of_rows, value = _SUMS[self.metric if judged.labels.ndim == 1 else f"multi-label {self.metric}"](
            judged
        )
        of_units = np.zeros((self.units, of_rows.shape[1]))
        np.add.at(of_units, self._unit, of_rows)
        return value(np.concatenate([counts @ of_units for counts in self._counts()]))

    @property
    def _is_mean_of_groups(self) -> bool:
        return self.problem_type == "ranking" or METRICS[self.metric].needs_groups

    @cached_property
    def _unit(self) -> Array:
        """What each row is drawn with, int `[N]`."""
        if self.groups is None:
            return np.arange(len(self.labels))
        return np.unique(self.groups, return_inverse=True)[1].reshape(-1)

    @cached_property
    def _drawn(self) -> Array:
        """How often each unit was drawn, `[B, units]`; 256 draws of one in a resample don't occur."""
        rng, units = np.random.default_rng(self.seed), self.units
        drawn = (np.bincount(rng.integers(units, size=units), minlength=units) for _ in range(self.count))
        return np.stack([counts.astype(np.uint8) for counts in drawn])

    def _counts(self) -> Iterator[Array]:
        """`_drawn` as float64, some resamples at a time."""
        together = max(1, AT_ONCE // len(self.labels))
        for start in range(0, self.count, together):
            yield self._drawn[start : start + together].astype(np.float64)

    def _groups_alone(self, judged: Judged) -> Array:
        """The metric of each group by itself, `[units]`: of these, all metrics of groups are the mean."""
        order = np.argsort(self._unit, kind="stable")
        ends = np.cumsum(np.bincount(self._unit))[:-1]
        columns: dict[str, Any] = {
            "labels": judged.labels,
            "predicted": judged.predicted,
            "groups": judged.groups,
            "candidates": judged.candidates,
            "grades": judged.grades,
            "scores": judged.scores,
        }
        columns = {name: np.asarray(column) for name, column in columns.items() if column is not None}
        metric = METRICS[self.metric].function
        alone = (
            replace(judged, **{name: column[rows] for name, column in columns.items()})
            for rows in np.split(order, ends)
        )
        return np.array([float(metric(group)) for group in alone])

    def _spearman(self, judged: Judged) -> Array:
        values = []
        for counts in self._counts():
            times = counts[:, self._unit]
            labels, predicted = _ranks(judged.labels, times), _ranks(judged.predicted, times)
            covariance = np.einsum("bn,bn,bn->b", times, labels, predicted)
            spread = [np.einsum("bn,bn,bn->b", times, ranks, ranks) for ranks in (labels, predicted)]
            values.append(_ratio(covariance, np.sqrt(spread[0] * spread[1])))
        return np.concatenate(values)


def _ranks(values: Array, times: Array) -> Array:
    """Ranks, less their mean, of values `[N]` that each occur `times` `[B, N]`; equal ones share a rank."""
    which = np.unique(values, return_inverse=True)[1].reshape(-1)
    order = np.argsort(which, kind="stable")
    starts = np.flatnonzero(np.diff(which[order], prepend=-1))
    tied = np.add.reduceat(times[:, order], starts, axis=1)
    upper = np.cumsum(tied, axis=1)
    ranks: Array = (upper - tied / 2 - upper[:, -1:] / 2)[:, which]
    return ranks


def _ratio(above: Array, below: Array) -> Array:
    """0 where it is not defined, as the metrics have it."""
    ratio: Array = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio


_Sums = tuple[Array, Callable[[Array], Array]]
"""What each row adds, `[N, K]`, and the metric of such sums, `[B, K]` to `[B]`."""


def _mean(of_rows: Array) -> _Sums:
    columns = np.stack([of_rows, np.ones(len(of_rows))], axis=1)
    return columns, lambda sums: sums[:, 0] / sums[:, 1]


def _accuracy(judged: Judged) -> _Sums:
    right = (judged.labels == judged.predicted).reshape(len(judged.labels), -1).all(axis=1)
    return _mean(right.astype(np.float64))


def _confusion(name: str) -> Callable[[Judged], _Sums]:
    def sums(judged: Judged) -> _Sums:
        classes = int(max(judged.labels.max(), judged.predicted.max(), 1)) + 1
        cells, cell = np.unique(judged.labels * classes + judged.predicted, return_inverse=True)

        def value(sums: Array) -> Array:
            matrices = np.zeros((len(sums), classes**2))
            matrices[:, cells] = sums
            return np.array([FROM_CONFUSION[name](m) for m in matrices.reshape(-1, classes, classes)])

        return np.eye(len(cells))[cell.reshape(-1)], value

    return sums


def _f1_of_labels(judged: Judged, *, macro: bool) -> _Sums:
    """F1 of several labels a row: hits, and twice the mean of what there is and what was found."""
    hits, occurs = judged.labels * judged.predicted, judged.labels + judged.predicted
    if not macro:
        hits, occurs = hits.sum(axis=1, keepdims=True), occurs.sum(axis=1, keepdims=True)

    def value(sums: Array) -> Array:
        found, there = np.split(sums, 2, axis=1)
        means: Array = _ratio(2 * found, there).mean(axis=1)
        return means

    return np.concatenate([hits, occurs], axis=1).astype(np.float64), value


def _pearson(judged: Judged) -> _Sums:
    x, y = _standardised(judged.labels), _standardised(judged.predicted)

    def value(sums: Array) -> Array:
        rows = sums[:, :1]
        x, y, xx, yy, xy = (sums[:, 1:] / rows).T
        spread_x, spread_y = (np.where(v > CONSTANT, v, 0) for v in (xx - x**2, yy - y**2))
        values: Array = np.clip(_ratio(xy - x * y, np.sqrt(spread_x * spread_y)), -1, 1)
        return values

    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1), value


def _standardised(values: Array) -> Array:
    """Near 0, or the differences of squares lose their digits."""
    return (values - values.mean()) / values.std() if np.ptp(values) else np.zeros(len(values))


_SUMS: dict[str, Callable[[Judged], _Sums]] = {
    "accuracy": _accuracy,
    "f1": _confusion("f1"),
    "f1_macro": _confusion("f1_macro"),
    "f1_micro": _accuracy,
    "matthews": _confusion("matthews"),
    "multi-label accuracy": _accuracy,
    "multi-label f1_macro": lambda judged: _f1_of_labels(judged, macro=True),
    "multi-label f1_micro": lambda judged: _f1_of_labels(judged, macro=False),
    "pearson": _pearson,
    "mse": lambda judged: _mean((judged.labels - judged.predicted) ** 2),
    "mae": lambda judged: _mean(np.abs(judged.labels - judged.predicted)),
}
