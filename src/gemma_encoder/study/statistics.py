"""How much arms differ, and how far that would hold for other seeds and other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ..errors import ConfigError, DataError

CONFIDENCE = 0.95
ROUNDING = 1e-20
"""A variance below this is rounding: metrics are of the size of 1."""


@dataclass(frozen=True)
class Variance:
    """Where the doubt in a contrast comes from.

    Attributes:
        seeds: The part that shrinks with more seeds. 0 for a single seed, which tells nothing of it.
        rows: The part that no more seeds take away.
        seed_degrees: Degrees of freedom of `seeds`; 0 for a single seed.
        row_degrees: Degrees of freedom of `rows`.
    """

    seeds: float
    rows: float
    seed_degrees: float
    row_degrees: float

    @property
    def total(self) -> float:
        """The squared standard error."""
        return self.seeds + self.rows

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom of the total.

        Satterthwaite's are T^2 / (s^2/v + r^2/w) for parts s and r of v and w degrees of freedom. Here s^2
        counts (v + 2)/v times: a seed part that is small by luck would look better known than it is. The
        result is never less than both v and w are.
        """
        if not self.seed_degrees:
            return self.row_degrees
        doubt = self.seeds**2 * (1 + 2 / self.seed_degrees) / self.seed_degrees
        doubt += self.rows**2 / self.row_degrees
        return max(min(self.seed_degrees, self.row_degrees), self.total**2 / doubt)


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arms that is 0 if they are alike, with what is not known about it.

    Attributes:
        estimate: In units of the metric.
        standard_error: Root of the variance.
        degrees_of_freedom: Of the variance.
        interval: 95 % Student t interval.
        p_value: Two-sided, not adjusted for other contrasts.
        over_seeds: Whether it is about other seeds and other rows. False where a task has a single seed: then
            it is about other rows for the very models that were trained, and nothing more.
        seeds: How many seeds all its arms have; of several tasks, the fewest.
        variance: Its parts.
        effect_size: Hedges' g_z: the mean of the seeds' differences by their standard deviation (Cohen's
            d_z), times the exact correction for few seeds. None with fewer than three seeds (of two, the
            corrected value is always 0), where seeds don't vary, and for means over tasks. It is large where
            training hardly varies, however small the difference: read it beside the estimate.
    """

    estimate: float
    standard_error: float
    degrees_of_freedom: float
    interval: tuple[float, float]
    p_value: float
    over_seeds: bool
    seeds: int
    variance: Variance
    effect_size: float | None


def contrast(
    weights: Mapping[str, float],
    values: Mapping[str, Mapping[int, float]],
    resampled: Mapping[str, Mapping[int, np.ndarray]],
    *,
    units: int,
) -> Contrast:
    """A linear contrast over arms of one task, for other seeds and other rows.

    With d_s the contrast of seed s, take it as d_s = contrast + seed_s + rows + (seed by rows)_s, the last
    three of variances A, R and I. The mean over n seeds has variance A/n + R + I/n, of which

        S^2/n, with S^2 the sample variance of d_s,           expects   A/n + I/n
        V_mean, the bootstrap variance of the mean of d_s,    expects   R + I/n
        V_bar, the mean of the bootstrap variances of d_s,    expects   R + I.

    S^2/n and V_mean both hold I/n, which (V_bar - V_mean)/(n - 1) expects as well. So

        T = S^2/n + V_mean - (V_bar - V_mean)/(n - 1)

    is right on average. V_mean - I/n is the mean covariance of two seeds' resamples, and is taken as at least
    0. I/n is known well, from all rows, and S^2 badly, from a few seeds: S^2/n is taken as at least I/n. So T
    is at least S^2/n and at least V_mean. The two terms are the parts of `Variance`.

    Degrees of freedom are Satterthwaite's, with n - 1 for the seeds' part and one less than the units for the
    rows' part, but on the safe side (`Variance.degrees_of_freedom`): an S^2 that is small by luck would make
    T small and the degrees of freedom large at once. For normal parts in the worst proportion, a contrast
    that is 0 then has p < .05 in 5.5 % of studies with three seeds and 5 % with five; without the lower limit
    and the safe side it is 8 % with three. The more of the variance is of seeds by rows, the rarer it is, and
    where trainings differ by nothing else intervals are up to twice as wide as they could be: that A is 0
    can't be seen from three seeds. With two seeds p < .05 is up to 9 %, and intervals are wide.

    A percentile bootstrap of seeds is not used: three seeds have 10 different resamples, whose means hardly
    reach beyond the seeds seen, and it covers about 70 % instead of 95 %. The tests show both.

    If nothing varies, neither over seeds nor over rows (two arms that give every row the same answer), the
    standard error is 1.5/units, after the rule of three: what was seen in none of N rows is rarer than 3/N.

    Args:
        weights: Arm to weight; they sum to 0. 1 and -1 compare two arms. Arms with weight 0 are left out.
        values: Arm to seed to metric, on all rows. The seeds that all arms with a weight share are used.
        resampled: Arm to seed to the metric in each bootstrap resample `[B]`; see `Resamples.values`.
        units: How many rows (or groups) the resamples were drawn from: `Resamples.units`.

    Returns:
        The contrast; for a single seed with rows as the only doubt.

    Raises:
        ConfigError: Weights don't sum to 0, or all are 0.
        DataError: An arm is missing, arms share no seed, resamples are missing or differ in number, or there
            are fewer than two units.
    """
    weights = {arm: weight for arm, weight in sorted(weights.items()) if weight}
    if not weights or abs(sum(weights.values())) > 1e-9:
        raise ConfigError(f"the weights of a contrast are {weights}", fix="give some that sum to 0")
    if units < 2:
        raise DataError(f"resamples of {units} rows or groups don't vary", fix="judge by at least two")
    seeds = _shared_seeds(weights, values)
    count = len(seeds)
    differences = np.array([sum(weights[arm] * values[arm][seed] for arm in weights) for seed in seeds])
    draws = _draws(weights, seeds, resampled)
    covariance = np.atleast_2d(np.cov(draws)) * units / (units - 1)  # a bootstrap divides by the units
    of_mean, of_one = float(covariance.mean()), float(np.trace(covariance) / count)
    estimate = float(differences.mean())
    if count == 1:
        rows = of_mean if of_mean >= ROUNDING else _none_seen(units)
        return _result(estimate, count, Variance(0.0, rows, 0.0, units - 1.0))
    over_seeds = float(differences.var(ddof=1)) / count
    shared = max((of_one - of_mean) / (count - 1), 0.0)
    rows = max(of_mean - shared, 0.0)
    if max(over_seeds, shared) + rows < ROUNDING:
        rows = _none_seen(units)
    variance = Variance(max(over_seeds, shared), rows, count - 1.0, units - 1.0)
    return _result(estimate, count, variance, effect_size=_effect_size(estimate, over_seeds * count, count))


def over_tasks(contrasts: Sequence[Contrast]) -> Contrast:
    """The mean of a contrast over tasks, for these tasks, other seeds and other rows.

    Tasks are fixed: that the contrast would be as large on other tasks is not claimed. The same seed on two
    tasks is two trainings, so that nothing is paired: variances add up.

    Args:
        contrasts: One for each task.

    Raises:
        DataError: There are none.
    """
    if not contrasts:
        raise DataError("there are no tasks to take the mean of", fix="give at least one contrast")
    parts = [one.variance for one in contrasts]
    square = len(contrasts) ** 2
    variance = Variance(
        seeds=sum(part.seeds for part in parts) / square,
        rows=sum(part.rows for part in parts) / square,
        seed_degrees=_together([(part.seeds, part.seed_degrees) for part in parts if part.seed_degrees]),
        row_degrees=_together([(part.rows, part.row_degrees) for part in parts]),
    )
    over_seeds = all(one.over_seeds for one in contrasts)
    estimate = float(np.mean([one.estimate for one in contrasts]))
    return _result(estimate, min(one.seeds for one in contrasts), variance, over_seeds=over_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for all of them being looked at (Holm 1979), in their order.

    Calling those below .05 different is wrong anywhere in at most 5 % of studies, however they depend, as far
    as the p values are right. Small ones lean on the far tails of `contrast`, for which three seeds are few:
    with many contrasts five are safer.
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def _shared_seeds(weights: Mapping[str, float], values: Mapping[str, Mapping[int, float]]) -> list[int]:
    missing = [arm for arm in weights if arm not in values]
    if missing:
        raise DataError(f"there are no results of {', '.join(missing)}", fix="train them, or leave them out")
    seeds = sorted(set.intersection(*(set(values[arm]) for arm in weights)))
    if not seeds:
        raise DataError(f"{', '.join(weights)} have no seed in common", fix="train them with the same seeds")
    return seeds


def _draws(
    weights: Mapping[str, float], seeds: Sequence[int], resampled: Mapping[str, Mapping[int, np.ndarray]]
) -> np.ndarray:
    """The contrast of each seed in each resample, `[seeds, B]`."""
    for arm in weights:
        for seed in seeds:
            if seed not in resampled.get(arm, {}):
                raise DataError(f"resamples are missing of {arm}, seed {seed}", fix="resample all models")
    sizes = {len(resampled[arm][seed]) for arm in weights for seed in seeds}
    if len(sizes) != 1 or min(sizes) < 2:
        raise DataError(
            f"numbers of resamples are {sorted(sizes)}", fix="use the same Resamples for all arms of a task"
        )
    return np.stack([sum(weights[arm] * resampled[arm][seed] for arm in weights) for seed in seeds])


def _none_seen(units: int) -> float:
    """The variance of a share of rows of which none was seen, by the rule of three."""
    return (1.5 / units) ** 2


def _together(parts: Sequence[tuple[float, float]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances with theirs."""
    doubt = sum(variance**2 / degrees for variance, degrees in parts)
    if not doubt:
        return float(sum(degrees for _, degrees in parts))
    return sum(variance for variance, _ in parts) ** 2 / doubt


def _effect_size(estimate: float, variance: float, seeds: int) -> float | None:
    if seeds < 3 or variance < ROUNDING:
        return None
    half = (seeds - 1) / 2
    correction = np.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / np.sqrt(half)
    return float(correction * estimate / np.sqrt(variance))


def _result(
    estimate: float,
    seeds: int,
    variance: Variance,
    *,
    over_seeds: bool = True,
    effect_size: float | None = None,
) -> Contrast:
    degrees, error = variance.degrees_of_freedom, float(np.sqrt(variance.total))
    half = float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error
    return Contrast(
        estimate=estimate,
        standard_error=error,
        degrees_of_freedom=degrees,
        interval=(estimate - half, estimate + half),
        p_value=float(2 * special.stdtr(degrees, -abs(estimate) / error)),
        over_seeds=over_seeds and variance.seed_degrees > 0,
        seeds=seeds,
        variance=variance,
        effect_size=effect_size,
    )
