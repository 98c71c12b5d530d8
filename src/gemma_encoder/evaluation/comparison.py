"""Is one model better than another on the same rows? A paired permutation test, on scipy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..errors import DataError

Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Comparison:
    """How two models differ on the same rows.

    Attributes:
        difference: Mean over seeds of the first one's metric less that of the second.
        p_value: Two-sided: how often chance alone gives a difference as large.
    """

    difference: float
    p_value: float


def compare(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    statistic: Statistic,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 1999,
    seed: int = 0,
) -> Comparison:
    """Paired permutation test over rows.

    If the models were alike, it would not matter whose scores stand in a row. So the two models' scores are
    swapped at random, row by row (rows of a group together, and in all seeds alike), and the difference is
    taken again. What this asks is whether the difference would hold for other rows of the same kind; that
    other seeds can train other models is what intervals over seeds are for.

    Args:
        first: Scores `[N, C]` of each seed's model.
        second: The same of the other model, in the same rows; as many seeds or another number.
        statistic: The metric of scores `[N, C]`, e.g. the accuracy against labels it knows.
        groups: Rows that are judged together, int `[N]`.
        resamples: Random swaps.
        seed: Seed of the swaps.

    Raises:
        DataError: The scores are not of the same rows.
    """
    shapes = {scores.shape for scores in (*first, *second)}
    if not first or not second or len(shapes) != 1:
        raise DataError(
            f"scores of different shapes can't be compared: {sorted(shapes)}", fix="score the same rows"
        )
    rows = len(first[0])
    unit = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(unit.max()) + 1
    pairs = max(len(first), len(second))  # a single seed stands against each of the other's
    first_of = [first[number % len(first)] for number in range(pairs)]
    second_of = [second[number % len(second)] for number in range(pairs)]

    def difference(of_first: np.ndarray, of_second: np.ndarray) -> float:
        # scipy swaps the labels 0 and 1 of the two models in each unit; the scores follow them.
        swapped = (of_first[unit] == 1)[:, None]
        values = [
            statistic(np.where(swapped, b, a)) - statistic(np.where(swapped, a, b))
            for a, b in zip(first_of, second_of, strict=True)
        ]
        return float(np.mean(values))

    result = stats.permutation_test(
        (np.zeros(count), np.ones(count)),
        difference,
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=False,
        rng=np.random.default_rng(seed),
    )
    return Comparison(float(result.statistic), float(result.pvalue))
