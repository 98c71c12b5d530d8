"""Means over seeds with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from ..errors import ConfigError, DataError


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
