"""What a contrast says, in words that claim no more than it does."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Literal

from scipy import special

from ..errors import ConfigError
from .statistics import Contrast, Variance

LEVEL = 0.05
POWER = 0.8
MOST_SEEDS = 1000

Kind = Literal["better", "worse", "alike", "more seeds", "more rows", "one seed"]


@dataclass(frozen=True)
class Verdict:
    """What may be said.

    Attributes:
        kind: `better`, `worse`; `alike`: any difference is too small to be of interest; `more seeds` or `more
            rows` would be needed to tell; `one seed`: nothing can be said about other seeds.
        text: The same in words, with numbers.
        bound: The largest difference that the interval allows, in units of the metric, if `alike`.
        seeds: About how many seeds would tell, if `more seeds`; None beyond 1000.
    """

    kind: Kind
    text: str
    bound: float | None = None
    seeds: int | None = None


def verdict(
    contrast: Contrast,
    p_adjusted: float,
    *,
    smallest_of_interest: float = 0.01,
    higher_is_better: bool = True,
    comparisons: int = 1,
) -> Verdict:
    """What a contrast says.

    1. With a single seed nothing is said about the arm, which is more than one training of it.
    2. Below .05, the adjusted p value makes it better or worse, however little.
    3. Where the whole 95 % interval is within the smallest difference of interest on both sides, the arms are
       as good as alike, and the farther end of the interval, rounded up, is the largest difference left. (Two
       one-sided tests at 2.5 %, for each contrast by itself.)
    4. Otherwise it is not told apart. The seeds needed are those after which a difference of the present
       estimate's size would be told at 80 % power if the parts of the variance are as estimated; where the
       estimate is smaller than the smallest difference of interest, a difference of that size. If the part of
       the rows alone is too large for it, so that any number of seeds would not do, that is said instead.

    The variance between seeds is itself estimated from few seeds, so the number is rough.

    Args:
        contrast: What was estimated.
        p_adjusted: Its p value adjusted for all contrasts that are looked at (`holm`).
        smallest_of_interest: In units of the metric; 0.01 is one point of accuracy.
        higher_is_better: Which way is up for the metric.
        comparisons: Of how many contrasts the p value was adjusted; the seeds needed are those that do for
            the smallest p value of as many.

    Raises:
        ConfigError: The smallest difference of interest is not above 0, the p value is below the contrast's
            own, or there are fewer than one comparisons.
    """
    if not smallest_of_interest > 0:
        raise ConfigError(f"smallest_of_interest is {smallest_of_interest}", fix="give a number above 0")
    if not contrast.p_value <= p_adjusted <= 1:
        raise ConfigError(
            f"p_adjusted is {p_adjusted}, the contrast's own {contrast.p_value}", fix="adjust it with holm"
        )
    if comparisons < 1:
        raise ConfigError(f"comparisons is {comparisons}", fix="give at least 1")
    if not contrast.over_seeds:
        return Verdict("one seed", "one seed says nothing about other seeds")
    if p_adjusted < LEVEL:
        kind: Kind = "better" if (contrast.estimate > 0) == higher_is_better else "worse"
        return Verdict(kind, kind)
    bound = max(abs(end) for end in contrast.interval)
    if bound <= smallest_of_interest:
        points = math.ceil(bound * 1000 - 1e-9) / 10
        return Verdict("alike", f"no difference larger than {points:.1f} points shown", bound=bound)
    size = max(abs(contrast.estimate), smallest_of_interest)
    level = LEVEL / comparisons
    rows_alone = replace(contrast.variance, seeds=0.0, seed_degrees=0.0)
    if not _is_told(size, rows_alone, level):
        return Verdict("more rows", "the rows are too few to tell, whatever the seeds")
    seeds = _seeds_needed(contrast, size, level)
    if seeds is None:
        return Verdict("more seeds", f"not told apart; needs more than {MOST_SEEDS} seeds")
    return Verdict("more seeds", f"not told apart; needs about {seeds} seeds", seeds=seeds)


def _seeds_needed(contrast: Contrast, size: float, level: float) -> int | None:
    """The fewest seeds, more than there are, that tell a difference of this size; None if too many."""
    more = range(contrast.seeds + 1, MOST_SEEDS + 1)
    place = bisect_left(more, True, key=lambda seeds: _is_told(size, _variance(contrast, seeds), level))
    return more[place] if place < len(more) else None


def _variance(contrast: Contrast, seeds: int) -> Variance:
    """The variance with so many seeds, if its parts are as estimated."""
    now, share = contrast.variance, contrast.seeds / seeds
    return replace(
        now,
        seeds=now.seeds * share,
        seed_degrees=now.seed_degrees * (seeds - 1) / (contrast.seeds - 1),
    )


def _is_told(size: float, variance: Variance, level: float) -> bool:
    """Whether a difference of this size is told at the wanted power; after the usual sum of two quantiles."""
    degrees = variance.degrees_of_freedom
    needed = special.stdtrit(degrees, 1 - level / 2) + special.stdtrit(degrees, POWER)
    return bool(needed * math.sqrt(variance.total) <= size)
