"""Judging scores: metrics, baselines, intervals."""

from __future__ import annotations

from .metrics import (
    METRICS,
    check_metrics,
    compute_metrics,
    higher_is_better,
    majority_baseline,
    mean_interval,
)

__all__ = [
    "METRICS",
    "check_metrics",
    "compute_metrics",
    "higher_is_better",
    "majority_baseline",
    "mean_interval",
]
